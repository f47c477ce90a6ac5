"""How deep the queues are: what waits is counted once, wherever it waits, and lines are reckoned from their batches."""

from __future__ import annotations

import pytest

from jobs.records import QueueDepth
from jobs.states import Priority
from jobs.store import Store, depths
from tests.jobs.batch_support import checked_lines, make_batch
from tests.jobs.support import Clock, claim, make_job, make_line, submit_one, success


def depth(store: Store, priority: Priority) -> QueueDepth:
    (found,) = [one for one in store.queue_depths() if one.priority is priority]
    return found


def test_empty_queues_are_told_in_the_order_in_which_they_are_served(store: Store) -> None:
    assert store.queue_depths() == [
        QueueDepth(Priority.INTERACTIVE, 0, 0, 0, None),
        QueueDepth(Priority.BATCH, 0, 0, 0, None),
    ]


def test_single_jobs_are_counted_with_and_without_a_message(store: Store, clock: Clock) -> None:
    oldest = clock.now
    ids = [submit_one(store)]
    clock.move(60)
    ids += [submit_one(store) for _ in range(3)]
    store.mark_published(ids[:2])
    claim(store, ids[3])
    found = depth(store, Priority.INTERACTIVE)
    assert (found.num_queued, found.num_published, found.num_running) == (3, 2, 1)
    assert (found.oldest_at, found.at_least) == (oldest, False)
    assert depth(store, Priority.BATCH).num_queued == 0


def test_lines_count_before_they_are_taken_in_while_they_run_and_no_longer_when_they_have_ended(
    store: Store, clock: Clock
) -> None:
    made = clock.now
    batch = make_batch(store, 10, 2)
    assert depth(store, Priority.BATCH).num_queued == 10
    clock.move(5)
    lines = checked_lines(10, 2)
    store.take_in(batch.id, lines, lines[-1].end, done=True)
    ids = [job.id for job in store.list_jobs(batch_id=batch.id)[0] if job.ended_at is None]
    store.mark_published(ids[:4])
    refs = [claim(store, job_id).ref for job_id in ids[:3]]
    store.finish(refs[0], success())
    found = depth(store, Priority.BATCH)
    assert (found.num_queued, found.num_published, found.num_running) == (5, 1, 2)
    assert found.oldest_at == made
    store.cancel_batch(batch.id)
    assert depth(store, Priority.BATCH).num_queued == 0


def test_jobs_of_low_priority_without_a_batch_are_counted_too(store: Store) -> None:
    store.submit([make_line()])
    store.submit([make_line(), make_line()], new_batch=True)
    assert depth(store, Priority.BATCH).num_queued == 3


def test_beyond_the_bound_it_is_said_that_more_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depths, "MAX_COUNTED", 2)
    store.submit([make_job(), make_job(), make_job()])
    found = depth(store, Priority.INTERACTIVE)
    assert (found.num_queued, found.at_least) == (2, True)
