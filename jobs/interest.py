"""Who follows what: how a worker learns that somebody reads a job whose text would else stay where it is.

    penstock:follow   channel   ids of jobs that somebody follows, with a space between; workers listen
    penstock:reader   channel   anything: a worker came (back), so say again whom you follow; readers listen

Nothing is kept in Redis. A reader says whom it follows once it is subscribed to the job's channel, and again every
`RENEW_SECONDS`; a worker remembers that for `LAPSE_SECONDS`. Pub/sub forgets those who were away, so whoever comes
last speaks: a reader by announcing all it follows after each (re)subscription, a worker by a call after each of its
own, which every reader answers. So after a restart of Redis, or of either side, both know, whoever was back first.

Announced before the job starts: the worker that claims it has heard. Announced while it runs: its whole text goes
out, then each new piece. Announced between its last text and its end: the end is told to all, followed or not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice

from redis.exceptions import RedisError

FOLLOW_CHANNEL = "penstock:follow"
READER_CHANNEL = "penstock:reader"

RENEW_SECONDS = 10.0
LAPSE_SECONDS = 35.0
"""Three renewals may be lost before a worker believes that nobody reads any more."""
CALM_SECONDS = 0.05
"""Between two announcements of everything: the calls of many workers that come back together are one."""
IDS_A_MESSAGE = 500


def messages_of(job_ids: Iterable[str]) -> Iterator[str]:
    """What to publish on the follow channel, for any number of jobs."""
    ids = iter(job_ids)
    while chunk := list(islice(ids, IDS_A_MESSAGE)):
        yield " ".join(chunk)


class Interest:
    """A worker's memory of who is followed. `hear` on one thread, `wants` on any.

    `on_news` is called when somebody follows a job that nobody followed just before.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_news: Callable[[], None] = lambda: None
        self._clock = clock
        self._until: dict[str, float] = {}
        self._pruned_at = clock()

    def hear(self, message: str) -> None:
        """A message of the follow channel."""
        now = self._clock()
        self._forget_lapsed(now)
        heard = message.split()
        news = any(self._until.get(job_id, now) <= now for job_id in heard)
        self._until |= dict.fromkeys(heard, now + LAPSE_SECONDS)
        if news:
            self.on_news()

    def wants(self, job_id: str) -> bool:
        """Whether somebody follows this job."""
        until = self._until.get(job_id)
        return until is not None and until > self._clock()

    def _forget_lapsed(self, now: float) -> None:
        if now - self._pruned_at > LAPSE_SECONDS:
            self._until = {job_id: until for job_id, until in self._until.items() if until > now}
            self._pruned_at = now


class Announcing:
    """A reader's part: tells the workers, over and over, whom this process follows. Lives in one event loop."""

    def __init__(self, followed: Callable[[], Iterable[str]], publish: Callable[[str], Awaitable[object]]) -> None:
        """`followed`: the jobs, now. `publish` sends one message on the follow channel."""
        self._followed = followed
        self._publish = publish
        self._called = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def ensure(self) -> None:
        """Start, if it does not run."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="penstock-interest")

    def call(self) -> None:
        """A worker asks: announce everything soon."""
        self._called.set()

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(CALM_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(RENEW_SECONDS):
                    await self._called.wait()
            self._called.clear()
            with suppress(RedisError, OSError):  # The readers meet the same error, and deal with it.
                for message in messages_of(self._followed()):
                    await self._publish(message)
