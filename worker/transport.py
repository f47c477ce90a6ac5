"""kombu's Redis transport, made to outlive Redis, and to keep no books there.

When Redis dies, kombu takes the connection apart, and then in two places works on with what is no longer there: it
gives the messages of running tasks back on closing their channel, and it acknowledges them there when the tasks end.
Both errors end the worker (seen with kombu 5.7 and celery 5.7; kombu#970 is of the same kind). Here neither is
needed. The row is the truth: a message is published again if its job still waits, and one too many is a no-op.

For the same reason nothing is noted in Redis of messages that are out: kombu's two hashes cost two round trips a
message on the one thread that every message passes, to restore after an hour what the dispatcher finds by the row
within seconds. See `ops/decisions/0008-groups-and-no-books.md`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from kombu import Connection
from kombu.transport import redis, virtual
from redis.exceptions import RedisError

RETRY_SECONDS = 1.0
BRPOP_SECONDS = 1.0
"""How long one wait for a message lasts at most. A queue that the gate opens joins in with the next wait; should
`unblock` fail to end this one, slots do not stand empty for long. A shorter one wakes the consumer's thread, and takes
a core from the engine, for nothing."""


class QoS(redis.QoS):  # type: ignore[misc]
    """The messages that are out, in memory only."""

    def append(self, message: Any, delivery_tag: str) -> None:
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """A drain gives a message back: it goes to the tail of its queue."""
        if requeue and self._connected():
            self._give_back(self._delivered[delivery_tag])
        virtual.QoS.ack(self, delivery_tag)

    def restore_visible(self, *_args: Any, **_options: Any) -> None:
        """Nobody's books, nothing to restore."""

    def _give_back(self, message: Any) -> None:
        info = message.delivery_info
        # Without Redis it is lost, and published again by the dispatcher.
        with suppress(RedisError, OSError), self.channel.conn_or_acquire() as client:
            self.channel._do_restore_message(message._raw, info["exchange"], info["routing_key"], client, leftmost=True)

    def _connected(self) -> bool:
        channel = self.channel
        return not channel.closed and channel.connection is not None and channel.connection.client is not None


class Channel(redis.Channel):  # type: ignore[misc]
    """A channel whose wait for a message can be cut short: `unblock`."""

    QoS = QoS
    do_restore = False
    _waits_as: tuple[Any, int] | None = None
    """The socket of the connection that waits, and what Redis calls it."""

    def _brpop_start(self, timeout: float | None = None) -> None:
        connection = self.client.connection
        if self._waits_as is None or connection._sock is None or self._waits_as[0] is not connection._sock:
            connection.send_command("CLIENT", "ID")
            self._waits_as = (connection._sock, int(connection.read_response()))
        super()._brpop_start(timeout)

    def unblock(self) -> None:
        """End a wait that began before a queue was opened: the next one listens to it too."""
        if self._in_poll is not None and self._waits_as is not None:
            with suppress(RedisError, OSError), self.conn_or_acquire() as client:
                client.client_unblock(self._waits_as[1])


def unblock(task_consumer: Any) -> None:
    """Let a consumer listen at once to what it was just told to."""
    if isinstance(task_consumer.channel, Channel):
        task_consumer.channel.unblock()


class Transport(redis.Transport):  # type: ignore[misc]
    Channel = Channel
    brpop_timeout = BRPOP_SECONDS


class WorkerConnection(Connection):  # type: ignore[misc]
    """A connection over that transport, whatever way its URL spells Redis. It looks for a lost Redis every second:
    kombu's own pauses grow to half a minute, in which a Redis that is back would wait for its workers."""

    def get_transport_cls(self) -> type[Transport]:
        return Transport

    def _ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        pauses = {"interval_start": RETRY_SECONDS, "interval_step": 0, "interval_max": RETRY_SECONDS}
        return super()._ensure_connection(*args, **{**kwargs, **pauses})
