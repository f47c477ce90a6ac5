"""A connection to Redis, for an event loop, that never forgets that its caller was cancelled.

redis-py sends through `asyncio.wait_for`, which until Python 3.12 returns as if nothing had been asked when a cancel
comes in the very moment that the sending is done (CPython issue 86296). Whoever leaves then does not leave: a reader
is followed for ever, a server that stops waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection


class _Cancellable(AbstractConnection):
    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        before = _cancels()
        await super().send_packed_command(command, check_health)
        if _cancels() > before:
            # The reply to what was sent would be taken for that to the next command.
            await self.disconnect(nowait=True)
            raise asyncio.CancelledError


def make_cancellable(redis: Redis) -> Redis:
    """The same client, before it has connected, with connections of that kind."""
    pool = redis.connection_pool
    plain = pool.connection_class
    pool.connection_class = type(plain.__name__, (_Cancellable, plain), {})
    return redis


def _cancels() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
