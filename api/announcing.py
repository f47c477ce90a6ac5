"""Telling the others, after the commit. None of it can fail a request: the row is the truth, and what is not heard
is found by the dispatcher (a queued job), by the lease keeper (a cancel), or by a stream's look at the row (an end).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from jobs.errors import QueueUnavailable, StoreUnavailable
from jobs.events import EventWriter
from jobs.queue import Publisher
from jobs.states import JobState, Priority
from jobs.store import Store

log = structlog.get_logger("penstock.api")

QUIET_SECONDS = 1.0
"""After a publish has failed, so long nobody tries: a hanging Redis must not hold every thread of the API."""


class Announcer:
    """Publishes jobs, cancels and ends. Calls block for the length of a Redis timeout at most."""

    def __init__(
        self, store: Store, publisher: Publisher, writer: EventWriter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._writer = writer
        self._clock = clock
        self._quiet_until = 0.0

    def queued(self, interactive: Sequence[str], num_batch: int) -> None:
        """Jobs were stored: send the interactive ones to the queue, and wake the dispatcher for the others."""
        one = {"job": interactive[0]} if len(interactive) == 1 and not num_batch else {}
        log.info("queued", num_jobs=len(interactive) + num_batch, **one)
        if self._clock() < self._quiet_until:
            return
        if interactive and not self._publish(interactive):
            self._quiet_until = self._clock() + QUIET_SECONDS
        elif num_batch:
            self._writer.wake_dispatcher()

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

    def cancel_requested(self, ids: Sequence[str]) -> None:
        """Running jobs shall stop: their workers listen."""
        for job_id in ids:
            self._writer.cancel(job_id)

    def deleted(self, job_id: str) -> None:
        """A job was deleted: its text so far goes with it, if it is still there."""
        self._writer.forget(job_id)

    def ended(self, job_id: str, state: JobState) -> None:
        """A job ended by a request, not by a worker: its streams end now."""
        self._writer.end(job_id, state)
