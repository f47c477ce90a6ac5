"""One pub/sub connection for all readers of a process: subscribes, hands messages round, and outlives a Redis restart.

Knows channels and raw messages; not what they mean. Each reader has a bounded mailbox. One that reads too slowly
loses its messages but not the knowledge of it: its mailbox says STALE, and the reader looks at the snapshot again.
The same mark follows every (re)subscription, because Redis keeps nothing for those who were away.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final, Literal

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from jobs.errors import QueueUnavailable
from jobs.interest import READER_CHANNEL

log = structlog.get_logger("penstock.fanout")

STALE: Final = "stale"
_PING_SECONDS = 5.0
_RETRY_SECONDS = 0.05


class Mailbox:
    """What waits for one reader: at most `size` messages."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._messages: deque[bytes] = deque()
        self._stale = False
        self._failure: QueueUnavailable | None = None
        self._filled = asyncio.Event()

    def put(self, message: bytes) -> None:
        if len(self._messages) >= self._size:
            self.mark_stale()
        elif not self._stale:  # Whatever comes before the snapshot is read is in the snapshot.
            self._messages.append(message)
            self._filled.set()

    def mark_stale(self) -> None:
        self._messages.clear()
        self._stale = True
        self._filled.set()

    def fail(self, failure: QueueUnavailable) -> None:
        self._failure = failure
        self._filled.set()

    async def get(self) -> bytes | Literal["stale"]:
        """Wait for the next message. STALE: messages are missing; those that follow come after a snapshot read now."""
        await self._filled.wait()
        if self._failure is not None:
            raise self._failure
        if self._stale:
            self._stale = False
            self._clear_when_empty()
            return STALE
        message = self._messages.popleft()
        self._clear_when_empty()
        return message

    def _clear_when_empty(self) -> None:
        if not self._messages:
            self._filled.clear()


class Fanout:
    """The shared connection. Lives in one event loop; starts with the first reader."""

    def __init__(
        self, redis: Redis, *, mailbox_size: int, patience_seconds: float, on_call: Callable[[], None] = lambda: None
    ) -> None:
        """`on_call`: somebody spoke on the readers' own channel, to which this connection is always subscribed."""
        self._redis = redis
        self._on_call = on_call
        self._mailbox_size = mailbox_size
        self._patience_seconds = patience_seconds
        self._mailboxes: dict[str, set[Mailbox]] = {}
        self._acknowledged: set[str] = set()
        self._pubsub: PubSub | None = None
        self._commands = asyncio.Lock()
        self._pump: asyncio.Task[None] | None = None
        self._farewells: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[Mailbox]:
        """A mailbox for `channel`. Its first item is STALE, once Redis has acknowledged the subscription."""
        mailbox = Mailbox(self._mailbox_size)
        self._mailboxes.setdefault(channel, set()).add(mailbox)
        self._ensure_pump()
        try:
            await self._join(channel, mailbox)
            yield mailbox
        finally:
            self._leave(channel, mailbox)

    @property
    def channels(self) -> list[str]:
        """Everything that is listened to, now."""
        return list(self._mailboxes)

    async def aclose(self) -> None:
        """Stop. Readers that still wait get QueueUnavailable."""
        if self._pump is not None:
            self._pump.cancel()
            with suppress(asyncio.CancelledError):
                await self._pump
        self._fail_all("The server is stopping.")
        await asyncio.gather(*self._farewells, return_exceptions=True)

    def _ensure_pump(self) -> None:
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run(), name="penstock-fanout")

    async def _join(self, channel: str, mailbox: Mailbox) -> None:
        if channel in self._acknowledged:
            mailbox.mark_stale()
            return
        async with self._commands:
            if self._pubsub is not None:  # None: the pump subscribes to all mailboxes when it connects.
                with suppress(RedisError, OSError):  # The pump meets the same error, and deals with it.
                    await self._pubsub.subscribe(channel)

    def _leave(self, channel: str, mailbox: Mailbox) -> None:
        readers = self._mailboxes.get(channel, set())
        readers.discard(mailbox)
        if not readers:
            self._mailboxes.pop(channel, None)
            # A task of its own: the reader may be leaving because it was cancelled.
            farewell = asyncio.create_task(self._unsubscribe(channel))
            self._farewells.add(farewell)
            farewell.add_done_callback(self._farewells.discard)

    async def _unsubscribe(self, channel: str) -> None:
        async with self._commands:
            if channel in self._mailboxes or self._pubsub is None:
                return  # Somebody came meanwhile.
            self._acknowledged.discard(channel)
            with suppress(RedisError, OSError):
                await self._pubsub.unsubscribe(channel)

    async def _run(self) -> None:
        """Keep a connection. Readers wait through an outage that is shorter than the patience."""
        lost_at = time.monotonic()
        while True:
            try:
                async with aclosing(self._session()) as messages:
                    async for message in messages:
                        lost_at = time.monotonic()
                        self._hand_round(message)
            except (RedisError, OSError) as error:
                if time.monotonic() - lost_at > self._patience_seconds:
                    log.warning("redis_lost", error=type(error).__name__, next="streams end; the next one tries again")
                    self._fail_all("Redis cannot be reached.")
                    return
            await asyncio.sleep(_RETRY_SECONDS)

    async def _session(self) -> AsyncGenerator[dict[str, Any], None]:
        """Connect, subscribe to everything that is read, and yield what comes. Ends with the connection's error."""
        pubsub = self._redis.pubsub()
        try:
            async with self._commands:
                self._acknowledged.clear()
                await pubsub.subscribe(READER_CHANNEL, *self._mailboxes)
                self._pubsub = pubsub
            async for message in _messages(pubsub):
                yield message
        finally:
            self._pubsub = None
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    def _hand_round(self, message: dict[str, Any]) -> None:
        channel = _text(message.get("channel"))
        if message["type"] == "subscribe":
            self._acknowledged.add(channel)
            for mailbox in self._mailboxes.get(channel, ()):
                mailbox.mark_stale()
        elif message["type"] == "message" and channel == READER_CHANNEL:
            self._on_call()
        elif message["type"] == "message":
            for mailbox in self._mailboxes.get(channel, ()):
                mailbox.put(message["data"])

    def _fail_all(self, reason: str) -> None:
        for mailbox in _all(self._mailboxes.values()):
            mailbox.fail(QueueUnavailable(reason))


async def _messages(pubsub: PubSub) -> AsyncIterator[dict[str, Any]]:
    """Yield messages; in a silence, ask whether anybody is there (a host that is cut off sends no farewell)."""
    asked = False
    while True:
        message = await pubsub.get_message(timeout=_PING_SECONDS)
        if message is not None:
            asked = False
            yield message
        elif asked:
            raise RedisConnectionError("no answer to a ping")
        else:
            await pubsub.ping()
            asked = True


def _all(groups: Iterable[set[Mailbox]]) -> list[Mailbox]:
    return [mailbox for group in groups for mailbox in group]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
