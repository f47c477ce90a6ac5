"""What a submission makes, and what it refuses."""

from __future__ import annotations

import threading

import pytest

from jobs.errors import IdempotencyConflict, InvalidRequest, NotFound
from jobs.records import Submitted
from jobs.states import JobState, Priority
from jobs.store import Store
from tests.jobs.support import Clock, claim, make_job, make_line, submit_one, success


def test_a_submitted_job_waits_as_it_was_given(store: Store, clock: Clock) -> None:
    job_id = submit_one(store, metadata={"team": "ice"}, deadline_seconds=60, custom_id="line-1")
    job = store.get(job_id)
    assert (job.state, job.prompt, job.seed, job.num_prompt_tokens) == (JobState.QUEUED, "a prompt", 7, 3)
    assert (job.job_metadata, job.custom_id, job.max_attempts) == ({"team": "ice"}, "line-1", 3)
    assert job.created_at == clock.now
    assert job.deadline_at is not None
    assert (job.deadline_at - clock.now).total_seconds() == 60


def test_chat_messages_are_kept_as_they_are(store: Store) -> None:
    messages = [{"role": "user", "content": "Zażółć 🏒"}]
    assert store.get(submit_one(store, prompt=None, messages=messages)).messages == messages


def test_a_thousand_jobs_keep_their_order(store: Store) -> None:
    made = store.submit([make_line(prompt=str(number)) for number in range(1000)], new_batch=True)
    listed, more = store.list_jobs(batch_id=made.batch_id, limit=1000)
    assert [job.prompt for job in reversed(listed)] == [str(number) for number in range(1000)]
    assert [job.id for job in reversed(listed)] == list(made.ids)
    assert not more


def test_jobs_append_to_a_batch_of_the_same_owner_only(store: Store) -> None:
    batch_id = store.submit([make_line()], owner="a", new_batch=True).batch_id
    store.submit([make_line(), make_line()], owner="a", batch_id=batch_id)
    assert store.get_batch(str(batch_id))[1].total == 3
    with pytest.raises(NotFound):
        store.submit([make_line()], owner="b", batch_id=batch_id)
    with pytest.raises(NotFound):
        store.submit([make_line()], batch_id="batch_none")
    assert store.audit() == []


def test_a_batch_that_had_ended_opens_again_for_more(store: Store) -> None:
    made = store.submit([make_line()], new_batch=True)
    store.finish(claim(store, made.ids[0]).ref, success())
    assert store.get_batch(str(made.batch_id))[0].ended_at is not None
    store.submit([make_line()], batch_id=made.batch_id)
    assert store.get_batch(str(made.batch_id))[0].ended_at is None
    assert store.audit() == []


def test_a_cancelled_batch_takes_no_more(store: Store) -> None:
    made = store.submit([make_line()], new_batch=True)
    claim(store, made.ids[0])
    store.cancel_batch(str(made.batch_id))
    with pytest.raises(InvalidRequest) as refused:
        store.submit([make_line()], batch_id=made.batch_id)
    assert refused.value.param == "batch_id"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": "a\x00b"}, "prompt"),
        ({"prompt": "half \ud83c"}, "prompt"),
        ({"prompt": None, "messages": [{"role": "user", "content": "a\x00b"}]}, "messages[0].content"),
        ({"metadata": {"key": "\x00"}}, "metadata.key"),
        ({"deadline_seconds": 1e300}, "deadline_seconds"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name_and_nothing_is_queued(
    store: Store, changes: dict[str, object], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        store.submit([make_job(), make_job(**changes)])
    assert refused.value.param == param
    assert store.list_jobs() == ([], False)


def test_no_jobs_are_refused(store: Store) -> None:
    with pytest.raises(InvalidRequest):
        store.submit([])


def test_a_key_makes_one_submission_however_often_it_is_sent(store: Store) -> None:
    first = store.submit([make_job(), make_job()], idempotency_key="key", body_sha256="body", new_batch=True)
    again = store.submit([make_job(), make_job()], idempotency_key="key", body_sha256="body", new_batch=True)
    assert again == Submitted(first.ids, first.batch_id, replayed=True)
    assert len(store.list_jobs()[0]) == 2


def test_a_key_with_another_body_is_a_conflict(store: Store) -> None:
    store.submit([make_job()], idempotency_key="key", body_sha256="body")
    with pytest.raises(IdempotencyConflict):
        store.submit([make_job()], idempotency_key="key", body_sha256="another")
    assert len(store.list_jobs()[0]) == 1


def test_keys_of_two_owners_do_not_meet(store: Store) -> None:
    first = store.submit([make_job()], owner="a", idempotency_key="key", body_sha256="body")
    second = store.submit([make_job()], owner="b", idempotency_key="key", body_sha256="body")
    assert first.ids != second.ids


def test_eight_callers_with_one_key_at_once_make_one_job(store: Store) -> None:
    answers: list[Submitted] = []
    barrier = threading.Barrier(8)

    def call() -> None:
        barrier.wait()
        answers.append(store.submit([make_job()], idempotency_key="key", body_sha256="body"))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer.ids[0] for answer in answers}) == 1
    assert sum(not answer.replayed for answer in answers) == 1
    assert len(store.list_jobs()[0]) == 1


def test_default_priority_is_interactive(store: Store) -> None:
    assert store.get(submit_one(store)).priority == Priority.INTERACTIVE
