"""Claims, renewals, ends: an attempt is fenced by its number."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from jobs.errors import LeaseLost
from jobs.records import AttemptRef, Cancelled, Expired, Failed, Interrupted, recipe_id
from jobs.states import AttemptOutcome, JobState
from jobs.store import Store
from tests.jobs.support import Clock, claim, make_line, make_record, submit_one, success


def test_a_claim_hands_over_all_that_is_needed(store: Store, clock: Clock) -> None:
    job_id = submit_one(store, deadline_seconds=60)
    clock.move(5)
    claimed = claim(store, job_id)
    assert claimed.ref == AttemptRef(job_id, 1)
    assert (claimed.prompt, claimed.seed, claimed.model) == ("a prompt", 7, "demo")
    assert (claimed.seconds_queued, claimed.seconds_to_deadline, claimed.lease_seconds) == (5, 55, 30)
    job = store.get(job_id)
    assert (job.state, job.attempt, job.started_at) == (JobState.RUNNING, 1, clock.now)
    assert job.lease_expires_at == clock.now + timedelta(seconds=30)


def test_a_second_claim_finds_nothing(store: Store) -> None:
    job_id = submit_one(store)
    claim(store, job_id)
    assert store.claim(job_id, "worker-2") is None
    assert store.claim("job_none", "worker-2") is None


def test_a_group_of_claims_takes_each_job_that_can_be_taken(store: Store, clock: Clock) -> None:
    held, overdue, cancelled, last, first, second = (
        submit_one(store, **changes)
        for changes in ({}, {"deadline_seconds": 5}, {}, {"max_attempts": 2}, {}, {"prompt": "another"})
    )
    claim(store, held)
    store.cancel(cancelled)
    store.finish(claim(store, last).ref, Failed("busy", "again", True))
    clock.move(120)
    taken = store.claim_many([first, held, overdue, cancelled, last, "job_none", second], "worker-2")
    assert {job_id: job.ref for job_id, job in taken.items()} == {
        first: AttemptRef(first, 1),
        second: AttemptRef(second, 1),
    }
    assert taken[second].prompt == "another"
    assert [attempt.worker for attempt in store.attempts(second)] == ["worker-2"]
    assert store.get(overdue).state == JobState.EXPIRED
    assert store.get(last).state == JobState.QUEUED, "its last attempt is not for company"
    assert store.claim_many([], "worker-2") == {}
    assert store.audit() == []


def test_a_group_of_claims_numbers_each_attempt_for_itself(store: Store, clock: Clock) -> None:
    again, new = submit_one(store), submit_one(store)
    store.finish(claim(store, again).ref, Interrupted())
    taken = store.claim_many([again, new], "worker-2")
    assert (taken[again].ref.number, taken[new].ref.number) == (2, 1)
    ends = store.finish_many([(taken[again].ref, success("one")), (taken[new].ref, success("two"))])
    assert ends == [JobState.SUCCEEDED, JobState.SUCCEEDED]
    assert store.audit() == []


def test_ends_of_every_kind_in_one_group_move_each_job_as_its_own_outcome_says(store: Store) -> None:
    made = store.submit([make_line() for _ in range(6)], new_batch=True)
    refs = [claim(store, job_id).ref for job_id in made.ids]
    outcomes = [
        success("a"), Failed("bad", "never", False), success("b"), Failed("worse", "never", False), Cancelled(),
        Interrupted(),
    ]  # fmt: skip
    store.finish_many(list(zip(refs, outcomes, strict=True)))
    jobs = [store.get(job_id) for job_id in made.ids]
    assert [job.state for job in jobs] == ["succeeded", "failed", "succeeded", "failed", "cancelled", "queued"]
    assert [job.error and job.error["code"] for job in jobs] == [None, "bad", None, "worse", None, None]
    assert [job.num_failures for job in jobs] == [0, 1, 0, 1, 0, 0]
    assert store.audit() == []


def test_a_success_is_stored_once_with_its_recipe(store: Store) -> None:
    job_id = submit_one(store)
    ref = claim(store, job_id).ref
    assert store.finish(ref, success("a haiku")) is JobState.SUCCEEDED
    with pytest.raises(LeaseLost):
        store.finish(ref, success("another haiku"))
    generation = store.get_generation(job_id)
    assert generation is not None
    assert (generation.completion, generation.attempt, generation.num_completion_tokens) == ("a haiku", 1, 2)
    assert generation.recipe_id == recipe_id({"model": "demo", "threads": 2})
    assert store.get_recipe(generation.recipe_id) == {"model": "demo", "threads": 2}
    assert store.audit() == []


def test_one_call_cannot_end_an_attempt_twice(store: Store) -> None:
    ref = claim(store, submit_one(store)).ref
    first, second = store.finish_many([(ref, success("first")), (ref, success("second"))])
    assert first is JobState.SUCCEEDED
    assert isinstance(second, LeaseLost)
    assert store.audit() == []


def test_a_group_of_ends_refuses_only_the_stale_one(store: Store, clock: Clock) -> None:
    made = store.submit([make_line() for _ in range(3)], new_batch=True)
    refs = [claim(store, job_id).ref for job_id in made.ids]
    clock.move(31)
    store.sweep()
    fresh = [claim(store, job_id).ref for job_id in made.ids[1:]]
    answers = store.finish_many([(refs[0], success()), (fresh[0], success()), (fresh[1], Failed("x", "no", False))])
    assert isinstance(answers[0], LeaseLost)
    assert answers[1:] == [JobState.SUCCEEDED, JobState.FAILED]
    counts = store.get_batch(str(made.batch_id))[1]
    assert (counts.by_state[JobState.SUCCEEDED], counts.by_state[JobState.FAILED]) == (1, 1)
    assert counts.by_state[JobState.QUEUED] == 1
    assert store.audit() == []


def test_a_worker_that_wakes_after_its_lease_cannot_store(store: Store, clock: Clock) -> None:
    job_id = submit_one(store)
    stale = claim(store, job_id).ref
    clock.move(31)
    assert store.sweep().requeued == [job_id]
    fresh = claim(store, job_id, "worker-2").ref
    assert fresh.number == 2
    with pytest.raises(LeaseLost):
        store.finish(stale, success("stale"))
    assert store.renew([stale], "worker-1").lost == {stale}
    assert store.finish(fresh, success("fresh")) is JobState.SUCCEEDED
    assert store.attempts(job_id)[0].outcome == AttemptOutcome.LEASE_LOST
    assert store.audit() == []


def test_a_renewed_lease_outlives_its_first_term(store: Store, clock: Clock) -> None:
    refs = [claim(store, submit_one(store)).ref for _ in range(3)]
    clock.move(20)
    assert store.renew(refs[:2], "worker-1").held == set(refs[:2])
    clock.move(20)
    assert store.sweep().requeued == [refs[2].job_id]
    assert store.renew([], "worker-1").held == set()


def test_a_renewal_says_who_was_cancelled_and_what_is_lost(store: Store) -> None:
    refs = [claim(store, submit_one(store)).ref for _ in range(3)]
    store.cancel(refs[0].job_id)
    store.finish(refs[1], success())
    renewal = store.renew(refs, "worker-1")
    assert renewal.held == {refs[0], refs[2]}
    assert renewal.cancel_requested == {refs[0]}
    assert renewal.lost == {refs[1]}


def test_an_interrupted_job_is_free_at_once_and_pays_nothing(store: Store) -> None:
    job_id = submit_one(store)
    for number in range(1, 6):
        ref = claim(store, job_id).ref
        assert ref.number == number
        assert store.finish(ref, Interrupted()) is JobState.QUEUED
    job = store.get(job_id)
    assert (job.num_failures, job.attempt) == (0, 5)
    assert {attempt.outcome for attempt in store.attempts(job_id)} == {AttemptOutcome.INTERRUPTED}
    assert store.audit() == []


def test_a_retryable_failure_waits_longer_each_time_and_then_fails(store: Store, clock: Clock) -> None:
    job_id = submit_one(store)
    for bound in (1, 2):
        assert store.finish(claim(store, job_id).ref, Failed("busy", "try again", True)) is JobState.QUEUED
        wait = (store.get(job_id).available_at - clock.now).total_seconds()
        assert 0 <= wait <= bound
        clock.move(wait - 0.001)
        assert store.claim(job_id, "early") is None
        clock.move(0.002)
    assert store.finish(claim(store, job_id).ref, Failed("busy", "try again", True)) is JobState.FAILED
    job = store.get(job_id)
    assert job.error == {"code": "busy", "message": "try again", "retryable": True}
    assert [attempt.outcome for attempt in store.attempts(job_id)] == [AttemptOutcome.FAILED] * 3
    assert store.audit() == []


def test_a_failure_that_no_retry_can_help_is_final(store: Store) -> None:
    job_id = submit_one(store)
    assert store.finish(claim(store, job_id).ref, Failed("bad", "never", False)) is JobState.FAILED
    assert store.claim(job_id, "worker") is None


def test_max_attempts_is_a_matter_of_the_job(store: Store) -> None:
    job_id = submit_one(store, max_attempts=1)
    assert store.finish(claim(store, job_id).ref, Failed("busy", "again", True)) is JobState.FAILED


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(Cancelled(make_record("half")), JobState.CANCELLED), (Expired(make_record("half")), JobState.EXPIRED)],
)
def test_a_job_cut_short_keeps_the_text_it_had(store: Store, outcome: Cancelled | Expired, state: JobState) -> None:
    job_id = submit_one(store)
    assert store.finish(claim(store, job_id).ref, outcome) is state
    generation = store.get_generation(job_id)
    assert generation is not None
    assert generation.completion == "half"
    assert store.audit() == []


def test_a_job_past_its_deadline_is_expired_not_run(store: Store, clock: Clock) -> None:
    made = store.submit([make_line(deadline_seconds=10)], new_batch=True)
    clock.move(10)
    assert store.claim(made.ids[0], "worker") is None
    assert store.get(made.ids[0]).state == JobState.EXPIRED
    assert store.get_batch(str(made.batch_id))[0].num_expired == 1
    assert store.audit() == []


def test_a_result_is_never_refused_for_its_characters(store: Store) -> None:
    job_id = submit_one(store)
    record = make_record(
        "a\x00b\ud800c", logprobs=[{"piece": "\x00", "logprob": -math.inf}], timings={"total": math.nan}
    )
    assert store.finish(claim(store, job_id).ref, type(success())(record)) is JobState.SUCCEEDED
    generation = store.get_generation(job_id)
    assert generation is not None
    assert generation.completion == "a\ufffdb\ufffdc"
    assert generation.logprobs == [{"piece": "\ufffd", "logprob": None}]
    assert generation.timings == {"total": None}


def test_the_database_clock_is_used_when_none_is_given(database_url: str) -> None:
    from datetime import UTC, datetime

    from jobs.database import open_engine
    from tests.jobs.support import make_settings

    engine = open_engine(database_url)
    store = Store(engine, settings=make_settings())
    created_at = store.get(submit_one(store)).created_at
    assert abs((datetime.now(UTC) - created_at).total_seconds()) < 5
    engine.dispose()


def test_the_last_attempt_is_not_given_to_a_worker_that_runs_others(store: Store, clock: Clock) -> None:
    job_id = submit_one(store, max_attempts=2)
    assert not store.runs_alone(job_id)
    assert store.claim(job_id, "worker", in_company=True) is not None
    clock.move(31)
    assert store.sweep().requeued == [job_id]
    assert store.claim(job_id, "worker", in_company=True) is None
    assert store.runs_alone(job_id)
    assert store.claim(job_id, "worker") is not None
    assert not store.runs_alone(job_id), "it is not queued any more"


def test_a_job_with_a_single_attempt_runs_in_company(store: Store) -> None:
    job_id = submit_one(store, max_attempts=1)
    assert store.claim(job_id, "worker", in_company=True) is not None
