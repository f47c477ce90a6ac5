"""The store's methods for what waits: which jobs get a message, how far batches have come, when to ask again."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping

from sqlalchemy.engine import Engine

from jobs.records import Publishable, QueueDepth, Rates, Standing
from jobs.settings import Settings
from jobs.states import Priority
from jobs.store import depths, dispatching, leases, progress, standing, tracing, waiting
from jobs.store.door import Clock, Door
from jobs.store.fairness import Turns
from jobs.tables import Batch, Job


class DispatchDoor(Door):
    """Dispatch, progress, and places in the queue."""

    def __init__(
        self,
        engine: Engine,
        *,
        settings: Settings,
        clock: Clock | None = None,
        dice: random.Random | None = None,
    ) -> None:
        super().__init__(engine, settings=settings, clock=clock, dice=dice)
        self._turns = Turns()

    def to_publish(
        self,
        num_waiting: Mapping[Priority, int] | None = None,
        only: Collection[Priority] = tuple(Priority),
    ) -> Publishable:
        """Choose the queued jobs of these priorities whose message should go out now.

        Interactive ones that have none; batch lines as far as the window has room (`settings.dispatch_window`),
        shared by weight between owners, then between their batches; and jobs whose message must be lost: sent longer
        ago than `settings.republish_after_seconds`, while Redis holds fewer messages (`num_waiting` by queue) than
        it should.
        """
        with self._reading_waiting() as scope:
            return dispatching.to_publish(scope, num_waiting or {}, self._turns, only)

    def mark_published(self, ids: Collection[str]) -> None:
        """Note that these queued jobs have a message out. Call it after publishing: a crash between the two costs a
        duplicate message, never a job."""
        for chunk in dispatching.chunks(ids):
            with self._writing(durable=False) as scope:
                dispatching.mark_published(scope, chunk)

    def unpublish_all(self) -> None:
        """Redis was emptied: no queued job has a message any more."""
        last: dispatching.Message | None = None
        while True:
            with self._writing(durable=False) as scope:
                scope.prefer_indexes()
                last = dispatching.unpublish_some(scope, last)
            if last is None:
                return

    def traces_of(self, ids: Collection[str]) -> dict[str, str]:
        """The W3C trace context that each of these jobs, or its batch, was asked for in; those that have one."""
        traces: dict[str, str] = {}
        with self._reading() as scope:
            for chunk in dispatching.chunks(ids):
                traces |= tracing.traces_of(scope, chunk)
        return traces

    # Progress

    def standing(self) -> Standing:
        """How the queues stand. The costs do not grow with what waits; still, not for every request."""
        with self._reading_waiting() as scope:
            return standing.standing(scope)

    def sample_batches(self) -> int:
        """Note how far open batches have come; how many had moved. The dispatcher calls it every few seconds."""
        with self._writing(durable=False) as scope:
            scope.prefer_indexes()
            return progress.sample(scope)

    def batch_rates(self, batch_id: str) -> Rates:
        """How fast a batch goes, and how long it still needs. Raises NotFound."""
        with self._reading_waiting() as scope:
            return progress.rates(scope, batch_id)

    def queue_depths(self, owner: str | None = None) -> list[QueueDepth]:
        """What waits and runs in each queue, of everybody or of one owner; of very many single jobs, at least so
        many."""
        with self._reading_waiting() as scope:
            return depths.queue_depths(scope, owner)

    def held_by_workers(self, owner: str | None = None) -> dict[str, int]:
        """How many jobs each worker holds, by its name: everybody's, or one owner's. Those that hold none are left
        out."""
        with self._reading_waiting() as scope:
            return leases.held_by_workers(scope, owner)

    def queue_position(self, job: Job) -> int | None:
        """How many jobs go first (0: next), as an estimate; None when not queued."""
        with self._reading_waiting() as scope:
            return waiting.queue_position(scope, job)

    def poll_after_seconds(self, of: Job | Batch) -> int | None:
        """What `Retry-After` says: when a job's turn should come, or a batch be done; from 1 to 60. None: ended."""
        if isinstance(of, Batch):
            return waiting.seconds_to_poll_batch(of, self.batch_rates(of.id))
        with self._reading_waiting() as scope:
            return waiting.seconds_to_poll(scope, of, waiting.queue_position(scope, of))
