"""kombu's Redis transport, made to outlive Redis.

When Redis dies, kombu takes the connection apart, and then in two places works on with what is no longer there: it
gives the messages of running tasks back on closing their channel, and it acknowledges them there when the tasks end.
Both errors end the worker (seen with kombu 5.7 and celery 5.7; kombu#970 is of the same kind). Here neither is
needed. The row is the truth: a message is published again if its job still waits, and one too many is a no-op.
"""

from __future__ import annotations

from typing import Any

from kombu import Connection
from kombu.transport import redis

RETRY_SECONDS = 1.0


class QoS(redis.QoS):  # type: ignore[misc]
    """Acknowledgements, while there is a channel to send them on."""

    def ack(self, delivery_tag: str) -> None:
        if self._connected():
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if self._connected():
            super().reject(delivery_tag, requeue=requeue)

    def _connected(self) -> bool:
        channel = self.channel
        return not channel.closed and channel.connection is not None and channel.connection.client is not None


class Channel(redis.Channel):  # type: ignore[misc]
    QoS = QoS
    do_restore = False


class Transport(redis.Transport):  # type: ignore[misc]
    Channel = Channel


class WorkerConnection(Connection):  # type: ignore[misc]
    """A connection over that transport, whatever way its URL spells Redis. It looks for a lost Redis every second:
    kombu's own pauses grow to half a minute, in which a Redis that is back would wait for its workers."""

    def get_transport_cls(self) -> type[Transport]:
        return Transport

    def _ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        pauses = {"interval_start": RETRY_SECONDS, "interval_step": 0, "interval_max": RETRY_SECONDS}
        return super()._ensure_connection(*args, **{**kwargs, **pauses})
