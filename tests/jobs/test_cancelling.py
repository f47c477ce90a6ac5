"""Cancel, requeue, and what a batch counts."""

from __future__ import annotations

import pytest

from jobs.errors import InvalidRequest, NotFound
from jobs.records import AttemptRef, Cancelled, Failed, Interrupted
from jobs.states import JobState
from jobs.store import Store, cancelling
from jobs.store.batch_door import CANCEL_CHUNKS
from tests.jobs.support import Clock, claim, make_line, submit_one, success


def test_a_queued_job_is_cancelled_at_once(store: Store) -> None:
    made = store.submit([make_line(), make_line()], new_batch=True)
    assert store.cancel(made.ids[0]).state == JobState.CANCELLED
    assert store.claim(made.ids[0], "worker") is None
    assert store.get_batch(str(made.batch_id))[0].num_cancelled == 1
    assert store.audit() == []


def test_a_running_job_is_asked_to_end(store: Store, clock: Clock) -> None:
    job_id = submit_one(store)
    ref = claim(store, job_id).ref
    job = store.cancel(job_id)
    assert (job.state, job.cancel_requested_at) == (JobState.RUNNING, clock.now)
    clock.move(1)
    assert store.cancel(job_id).cancel_requested_at == job.cancel_requested_at
    assert store.finish(ref, Cancelled()) is JobState.CANCELLED
    assert store.audit() == []


@pytest.mark.parametrize("outcome", [Interrupted(), Failed("busy", "again", True)])
def test_a_cancelled_job_is_not_queued_again(store: Store, outcome: Interrupted | Failed) -> None:
    job_id = submit_one(store)
    ref = claim(store, job_id).ref
    store.cancel(job_id)
    assert store.finish(ref, outcome) is JobState.CANCELLED
    assert store.audit() == []


def test_a_result_that_comes_before_the_worker_hears_of_the_cancel_counts(store: Store) -> None:
    job_id = submit_one(store)
    ref = claim(store, job_id).ref
    store.cancel(job_id)
    assert store.finish(ref, success()) is JobState.SUCCEEDED
    assert store.audit() == []


def test_cancelling_an_ended_job_changes_nothing(store: Store) -> None:
    job_id = submit_one(store)
    store.finish(claim(store, job_id).ref, success())
    before = store.get(job_id)
    after = store.cancel(job_id)
    assert (after.state, after.ended_at, after.cancel_requested_at) == (JobState.SUCCEEDED, before.ended_at, None)


def test_jobs_of_others_do_not_exist(store: Store) -> None:
    made = store.submit([make_line()], owner="a", new_batch=True)
    for call in (store.cancel, store.get):
        with pytest.raises(NotFound):
            call(made.ids[0], "b")
    for batch_call in (store.cancel_batch, store.get_batch):
        with pytest.raises(NotFound):
            batch_call(str(made.batch_id), "b")
    assert store.cancel(made.ids[0], "a").state == JobState.CANCELLED
    with pytest.raises(NotFound):
        store.cancel("job_none")


def test_a_batch_is_cancelled_whole(store: Store) -> None:
    made = store.submit([make_line() for _ in range(5)], new_batch=True)
    done, running = claim(store, made.ids[0]).ref, claim(store, made.ids[1]).ref
    store.finish(done, success())
    counts = store.cancel_batch(str(made.batch_id))
    assert (counts.by_state[JobState.CANCELLED], counts.by_state[JobState.RUNNING]) == (3, 1)
    assert store.renew([running], "worker-1").cancel_requested == {running}
    store.finish(running, Cancelled())
    batch, counts = store.get_batch(str(made.batch_id))
    assert (counts.by_state[JobState.CANCELLED], counts.by_state[JobState.SUCCEEDED]) == (4, 1)
    assert batch.ended_at is not None
    assert store.audit() == []


def test_the_sweep_finishes_a_batch_whose_canceller_died_half_way(store: Store) -> None:
    made = store.submit([make_line() for _ in range(3)], new_batch=True)
    with store._writing() as scope:
        cancelling.request_batch(scope, str(made.batch_id))
    claim(store, made.ids[0])
    store.mark_published([made.ids[1]])
    report = store.sweep()
    assert (report.cancelled, report.num_more_cancelled) == ([made.ids[1]], 1)
    assert store.get(made.ids[0]).cancel_requested_at is not None
    store.finish(AttemptRef(made.ids[0], 1), Cancelled())
    assert store.get_batch(str(made.batch_id))[0].ended_at is not None
    assert store.audit() == []


def test_a_large_batch_stops_at_once_and_is_cancelled_in_chunks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "CHUNK", 4)
    made = store.submit([make_line() for _ in range(30)], new_batch=True)
    store.mark_published(made.ids[20:23])
    assert store.cancel_batch(str(made.batch_id)).by_state[JobState.CANCELLED] == 4
    assert [store.get(job_id).state for job_id in made.ids[20:23]] == ["cancelled"] * 3
    assert not store.to_publish()
    assert store.sweep().num_more_cancelled == 4 * CANCEL_CHUNKS
    while store.sweep():
        pass
    found, counts = store.get_batch(str(made.batch_id))
    assert (counts.by_state[JobState.CANCELLED], found.num_ends, found.ended_at is not None) == (30, 30, True)
    assert store.audit() == []


def test_a_round_cancels_a_bounded_number_of_lines_of_all_batches(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "CHUNK", 2)
    for _ in range(4):
        store.cancel_batch(str(store.submit([make_line() for _ in range(6)], new_batch=True).batch_id))
    assert store.sweep().num_more_cancelled == 2 * CANCEL_CHUNKS


def test_a_line_that_a_claim_held_while_its_batch_was_cancelled_is_asked_by_the_sweep(store: Store) -> None:
    made = store.submit([make_line()], new_batch=True)
    ref = claim(store, made.ids[0]).ref
    with store._writing() as scope:
        cancelling.request_batch(scope, str(made.batch_id))
    store.sweep()
    assert store.renew([ref], "worker-1").cancel_requested == {ref}


def test_a_requeued_job_has_a_fresh_budget_and_its_history(store: Store, clock: Clock) -> None:
    made = store.submit([make_line(deadline_seconds=5)], new_batch=True)
    store.finish(claim(store, made.ids[0]).ref, Failed("bad", "never", False))
    assert store.get_batch(str(made.batch_id))[0].ended_at is not None
    clock.move(10)
    job = store.requeue(made.ids[0])
    assert (job.state, job.num_failures, job.error, job.attempt) == (JobState.QUEUED, 0, None, 1)
    batch, _ = store.get_batch(str(made.batch_id))
    assert (batch.num_failed, batch.ended_at) == (0, None)
    assert store.finish(claim(store, made.ids[0]).ref, success()) is JobState.SUCCEEDED
    assert [attempt.number for attempt in store.attempts(made.ids[0])] == [1, 2]
    assert store.audit() == []


def test_only_a_failed_job_can_be_requeued(store: Store) -> None:
    job_id = submit_one(store)
    with pytest.raises(InvalidRequest):
        store.requeue(job_id)
    with pytest.raises(NotFound):
        store.requeue("job_none")
