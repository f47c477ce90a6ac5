"""What the sweep repairs."""

from __future__ import annotations

import pytest

from jobs.records import SweepReport
from jobs.states import AttemptOutcome, JobState
from jobs.store import Store, sweep
from tests.jobs.support import Clock, claim, make_job, make_line, submit_one


def test_nothing_to_do_is_a_falsy_report(store: Store) -> None:
    submit_one(store)
    assert not store.sweep()
    assert store.sweep() == SweepReport([], [], [], [])


def test_a_job_that_kills_its_workers_ends_as_a_dead_letter(store: Store, clock: Clock) -> None:
    job_id = submit_one(store)
    for _ in range(2):
        claim(store, job_id)
        clock.move(31)
        assert store.sweep().requeued == [job_id]
    claim(store, job_id)
    clock.move(31)
    assert store.sweep().failed == [job_id]
    job = store.get(job_id)
    assert job.error is not None
    assert (job.state, job.error["code"], job.num_failures) == (JobState.FAILED, "attempts_spent", 3)
    assert [attempt.outcome for attempt in store.attempts(job_id)] == [AttemptOutcome.LEASE_LOST] * 3
    assert store.requeue(job_id).state == JobState.QUEUED
    assert store.audit() == []


def test_a_cancelled_job_whose_worker_died_ends_cancelled(store: Store, clock: Clock) -> None:
    job_id = submit_one(store)
    claim(store, job_id)
    store.cancel(job_id)
    clock.move(31)
    assert store.sweep().cancelled == [job_id]
    assert store.get(job_id).state == JobState.CANCELLED
    assert store.audit() == []


def test_a_job_whose_worker_died_past_its_deadline_ends_expired(store: Store, clock: Clock) -> None:
    job_id = submit_one(store, deadline_seconds=10)
    claim(store, job_id)
    clock.move(31)
    assert store.sweep().expired == [job_id]
    assert store.audit() == []


def test_deadlines_of_waiting_jobs_are_kept(store: Store, clock: Clock) -> None:
    made = store.submit([make_line(deadline_seconds=10), make_line(deadline_seconds=20), make_line()], new_batch=True)
    clock.move(15)
    assert store.sweep().num_more_expired == 1  # Nobody follows a line that never had a message out.
    assert store.get(made.ids[0]).state == JobState.EXPIRED
    store.mark_published([made.ids[1]])
    clock.move(10)
    assert store.sweep().expired == [made.ids[1]]
    assert store.get_batch(str(made.batch_id))[0].num_expired == 2
    assert store.audit() == []


def test_a_running_job_is_left_to_its_worker_at_its_deadline(store: Store, clock: Clock) -> None:
    job_id = submit_one(store, deadline_seconds=10)
    claim(store, job_id)
    clock.move(15)
    assert not store.sweep()


def test_many_lost_leases_are_freed_in_chunks(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "CHUNK", 4)
    made = store.submit([make_job() for _ in range(10)], new_batch=True)
    for job_id in made.ids:
        claim(store, job_id)
    clock.move(31)
    assert sorted(store.sweep().requeued) == sorted(made.ids)
    assert store.audit() == []
