"""What a process counts of its deeds, and how the queues stand: against the rows, on both databases."""

from __future__ import annotations

import pytest

from jobs.errors import LeaseLost, NotFound, StoreUnavailable
from jobs.metrics.registry import FRESH_SECONDS, StandingCollector
from jobs.records import AttemptRef, Failed, NewJob, Standing
from jobs.states import Priority
from jobs.store import Store
from jobs.store.counts import Deed
from tests.jobs.batch_support import make_batch
from tests.jobs.support import Clock, claim, make_job, success


def job(priority: Priority = Priority.INTERACTIVE) -> NewJob:
    return make_job(priority=priority)


def start(store: Store, job_id: str) -> AttemptRef:
    return claim(store, job_id).ref


def test_each_deed_is_counted_once_it_is_durable(store: Store) -> None:
    ids = store.submit([job(), job(), job()]).ids
    lines = store.submit([job(Priority.BATCH)] * 4, new_batch=True).ids
    store.finish(start(store, ids[0]), success())
    store.finish(start(store, ids[1]), Failed("x", "no", retryable=False))
    store.finish(start(store, lines[0]), Failed("x", "no", retryable=True))
    store.cancel(ids[2])
    counts = store.counts
    assert counts.of(Deed.ACCEPTED) == {"interactive": 3, "batch": 4}
    assert counts.of(Deed.STARTED) == {"interactive": 2, "batch": 1}
    assert counts.of(Deed.ATTEMPT_ENDED) == {"succeeded": 1, "failed": 2}
    assert counts.of(Deed.RETRIED) == {"failed": 1}
    assert counts.of(Deed.ENDED) == {"succeeded": 1, "failed": 1, "cancelled": 1}


def test_what_is_rolled_back_is_not_counted(store: Store) -> None:
    with pytest.raises(NotFound):
        store.submit([job(Priority.BATCH)], batch_id="batch_none")
    assert store.counts.of(Deed.ACCEPTED) == {}


def test_a_lost_lease_and_a_stale_end_are_no_end(store: Store, clock: Clock) -> None:
    (job_id,) = store.submit([job()]).ids
    ref = start(store, job_id)
    clock.move(60)
    store.sweep()
    with pytest.raises(LeaseLost):
        store.finish(ref, success())
    assert store.counts.of(Deed.ATTEMPT_ENDED) == {"lease_lost": 1}
    assert store.counts.of(Deed.RETRIED) == {"lease_lost": 1}
    assert store.counts.of(Deed.ENDED) == {}


def test_the_queues_stand_as_the_rows_do(store: Store, clock: Clock) -> None:
    first = store.submit([job(), job()]).ids
    store.submit([job(Priority.BATCH)] * 5, new_batch=True)
    clock.move(10)
    store.submit([job(Priority.BATCH)] * 2)
    lines = store.submit([job(Priority.BATCH)] * 3, new_batch=True).ids
    store.mark_published(first)
    store.mark_published(lines[:2])
    start(store, lines[2])
    clock.move(5)
    standing = store.standing()
    interactive, batch = standing.queues[Priority.INTERACTIVE], standing.queues[Priority.BATCH]
    assert (interactive.num_queued, interactive.num_published, interactive.num_running) == (2, 2, 0)
    assert (batch.num_queued, batch.num_published, batch.num_running) == (5 + 2 + 2, 2, 1)
    assert (interactive.oldest_seconds(standing.at), batch.oldest_seconds(standing.at)) == (15, 15)
    assert standing.num_open_batches == 2


def test_a_batch_whose_lines_all_run_does_not_wait(store: Store, clock: Clock) -> None:
    lines = store.submit([job(Priority.BATCH)] * 2, new_batch=True).ids
    for line in lines:
        start(store, line)
    clock.move(7)
    batch = store.standing().queues[Priority.BATCH]
    assert (batch.num_queued, batch.num_running, batch.oldest_seconds(clock.now)) == (0, 2, 0)


def test_metrics_and_pages_are_told_the_same(store: Store, clock: Clock) -> None:
    make_batch(store, 5, 1)
    store.submit([job(Priority.BATCH)] * 2 + [job()], new_batch=True)
    store.mark_published(store.submit([job(), job()]).ids[:1])
    clock.move(5)
    assert list(store.standing().queues.values()) == store.queue_depths()


def test_lines_that_are_no_rows_yet_are_counted_apart(store: Store) -> None:
    make_batch(store, 5, 1)
    stopped = make_batch(store, 5, 1)
    store.cancel_batch(stopped.id)
    store.submit([job(Priority.BATCH)] * 2, new_batch=True)
    values = {
        (sample.name, sample.labels.get("queue")): sample.value
        for family in StandingCollector(store.standing).collect()
        for sample in family.samples
    }
    assert values["penstock_queue_jobs", "batch"] == 2
    assert values["penstock_lines_to_take_in", None] == 5


def test_an_empty_queue_is_not_old(store: Store) -> None:
    standing = store.standing()
    assert {queue.oldest_seconds(standing.at) for queue in standing.queues.values()} == {0}
    assert standing.num_workers == {}


def test_scrapes_share_a_look_and_an_outage_is_told(store: Store) -> None:
    looks: list[float] = []
    clock = [0.0]

    def look() -> Standing:
        looks.append(clock[0])
        if clock[0] > FRESH_SECONDS:
            raise StoreUnavailable("away")
        return store.standing()

    collector = StandingCollector(look, lambda: clock[0])
    names = {family.name for _ in range(3) for family in collector.collect()}
    assert len(looks) == 1
    assert "penstock_queue_jobs" in names
    clock[0] = FRESH_SECONDS + 1
    (up,) = collector.collect()
    assert (up.name, up.samples[0].value) == ("penstock_database_up", 0.0)
