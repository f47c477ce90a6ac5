"""Telling the others, after the commit. None of it can fail a request: the row is the truth, and what is not heard
is found by the dispatcher (a queued job), by the lease keeper (a cancel), or by a stream's look at the row (an end).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial

import structlog

from jobs.errors import QueueUnavailable, StoreUnavailable
from jobs.events import EventWriter
from jobs.queue import Publisher
from jobs.states import ENDED, JobState, Priority
from jobs.store import Store

log = structlog.get_logger("penstock.api")

NUM_THREADS = 4
QUIET_SECONDS = 1.0
"""After a failure, so long nobody tries: a hanging Redis must not hold up all that is to be told."""


class Announcer:
    """Publishes jobs, cancels and ends, on threads of its own, beside whatever the caller does next: a long reply keeps
    no job from its worker, and a Redis that hangs keeps no reply from its caller and no thread from the next request.

    Each call returns at once. Its future is done when all is told or given up, and never fails."""

    def __init__(
        self, store: Store, publisher: Publisher, writer: EventWriter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._writer = writer
        self._clock = clock
        self._quiet_until = 0.0
        self._threads = ThreadPoolExecutor(NUM_THREADS, "announcer")

    def close(self) -> None:
        """Tell what is still to be told, and end the threads. Blocks for a few timeouts of Redis at most. What
        comes later is not told."""
        self._threads.shutdown()

    def queued(self, interactive: Sequence[str], num_batch: int) -> Future[None]:
        """Jobs were stored: send the interactive ones to the queue, and wake the dispatcher for the others."""
        one = {"job": interactive[0]} if len(interactive) == 1 and not num_batch else {}
        log.info("queued", num_jobs=len(interactive) + num_batch, **one)
        return self._begin(partial(self._queued, interactive, num_batch))

    def cancelled(self, job_id: str, state: JobState) -> Future[None]:
        """A job was cancelled, and is in this state now: its streams end, or its worker stops."""
        if state in ENDED:
            return self._begin(partial(self._writer.end, job_id, state))
        return self.cancel_requested([job_id])

    def cancel_requested(self, ids: Sequence[str]) -> Future[None]:
        """Running jobs shall stop: their workers listen."""
        return self._begin(lambda: all(self._writer.cancel(job_id) for job_id in ids))

    def deleted(self, job_id: str) -> Future[None]:
        """A job was deleted: its text so far goes with it, if it is still there."""
        return self._begin(partial(self._writer.forget, job_id))

    def _begin(self, tell: Callable[[], bool]) -> Future[None]:
        """`tell`: says whether it was heard."""
        try:
            return self._threads.submit(copy_context().run, self._tell, tell)
        except RuntimeError:  # closed: it will be found
            done: Future[None] = Future()
            done.set_result(None)
            return done

    def _tell(self, tell: Callable[[], bool]) -> None:
        if self._clock() < self._quiet_until:
            return
        try:
            heard = tell()
        except Exception as error:
            log.error("could not be told", reason=type(error).__name__)
            return
        if not heard:
            self._quiet_until = self._clock() + QUIET_SECONDS

    def _queued(self, interactive: Sequence[str], num_batch: int) -> bool:
        heard = not interactive or self._publish(interactive)
        return heard and (not num_batch or self._writer.wake_dispatcher())

    def _publish(self, ids: Sequence[str]) -> bool:
        try:
            self._publisher.publish(list(ids), Priority.INTERACTIVE)
            self._store.mark_published(list(ids))
        except QueueUnavailable:
            log.warning("queue unavailable; the dispatcher will publish these jobs", num_jobs=len(ids))
            return False
        except StoreUnavailable:
            log.warning("not marked as published; the dispatcher will publish these jobs again", num_jobs=len(ids))
        return True
