"""How deep the queues are: what waits is counted once, wherever it waits, and lines are reckoned from their batches."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobs.records import QueueDepth
from jobs.states import Priority
from jobs.store import Store, depths
from tests.jobs.batch_support import checked_lines, make_batch
from tests.jobs.support import Clock, claim, make_job, make_line, submit_one, success


def depth(store: Store, priority: Priority, owner: str | None = None) -> QueueDepth:
    (found,) = [one for one in store.queue_depths(owner) if one.priority is priority]
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


def test_an_owner_is_told_of_its_own_jobs_only(store: Store, clock: Clock) -> None:
    for owner in ("ann", "bob"):
        ids = store.submit([make_job(), make_job(), make_job()], owner=owner).ids
        store.mark_published(ids[:2])
        claim(store, ids[0])
        lines = store.submit([make_line(), make_line(), make_line()], owner=owner, new_batch=True).ids
        store.submit([make_line()], owner=owner)
        store.mark_published(lines[:2])
        claim(store, lines[0])
        clock.move(60)
    began = clock.now - timedelta(seconds=60)
    assert store.queue_depths("bob") == [
        QueueDepth(Priority.INTERACTIVE, 2, 1, 1, began),
        QueueDepth(Priority.BATCH, 3, 1, 1, began),
    ]
    assert [found.num_queued for found in store.queue_depths()] == [4, 6]
    assert [found.oldest_at for found in store.queue_depths()] == [began - timedelta(seconds=60)] * 2
    assert [found.num_queued for found in store.queue_depths("eve")] == [0, 0]


def test_an_owner_with_many_jobs_is_told_that_there_are_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depths, "MAX_COUNTED", 2)
    store.submit([make_job(), make_job(), make_job()], owner="ann")
    store.submit([make_job()], owner="bob")
    assert (
        depth(store, Priority.INTERACTIVE, "ann").num_queued,
        depth(store, Priority.INTERACTIVE, "ann").at_least,
    ) == (2, True)
    assert (
        depth(store, Priority.INTERACTIVE, "bob").num_queued,
        depth(store, Priority.INTERACTIVE, "bob").at_least,
    ) == (1, False)


def test_an_interactive_line_counts_with_the_batches_and_once(store: Store) -> None:
    made = store.submit([make_job(), make_job(), make_job()], new_batch=True)
    store.mark_published(made.ids[:2])
    claim(store, made.ids[0])
    for owner in (None, ""):
        assert depth(store, Priority.INTERACTIVE, owner) == QueueDepth(Priority.INTERACTIVE, 0, 0, 0, None)
        lines = depth(store, Priority.BATCH, owner)
        assert (lines.num_queued, lines.num_published, lines.num_running) == (2, 1, 1)


def test_a_cancelled_batch_whose_lines_still_run_takes_nothing_from_the_others(store: Store) -> None:
    stopped = store.submit([make_line(), make_line()], new_batch=True)
    claim(store, stopped.ids[0])
    store.cancel_batch(str(stopped.batch_id))
    store.submit([make_line(), make_line()], new_batch=True)
    found = depth(store, Priority.BATCH)
    assert (found.num_queued, found.num_running) == (2, 1)


def test_the_oldest_line_is_one_that_waits(store: Store, clock: Clock) -> None:
    claim(store, store.submit([make_line()], new_batch=True).ids[0])
    clock.move(60)
    store.submit([make_line()], new_batch=True)
    assert depth(store, Priority.BATCH).oldest_at == clock.now


def test_it_is_known_what_each_worker_holds(store: Store) -> None:
    mine, theirs = store.submit([make_job()] * 2, owner="ann").ids, store.submit([make_job()], owner="bob").ids
    for job_id, worker in ((mine[0], "one"), (mine[1], "two"), (theirs[0], "two")):
        assert store.claim(job_id, worker) is not None
    assert store.held_by_workers() == {"one": 1, "two": 2}
    assert store.held_by_workers("ann") == {"one": 1, "two": 1}
    assert store.held_by_workers("eve") == {}
