"""What an owner has open, counted and limited: beside many rows, and by many callers at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from jobs.errors import LimitExceeded
from jobs.keys import Quota
from jobs.states import JobState
from jobs.store import Store
from tests.jobs.batch_support import CHAT, checked_lines, line_ids, make_file, new_batch
from tests.jobs.support import claim, make_job, success

JOB = make_job(num_prompt_tokens=3, parameters={"max_tokens": 7})
ASKED = 10


def test_single_jobs_count_from_their_acceptance_to_their_end(store: Store) -> None:
    first, second = (store.submit([JOB], owner="alice").ids[0] for _ in range(2))
    store.submit([JOB], owner="bob")
    assert store.queued_tokens("alice") == 2 * ASKED
    claimed = claim(store, first)
    assert store.queued_tokens("alice") == 2 * ASKED
    store.finish(claimed.ref, success())
    store.cancel(second)
    assert store.queued_tokens("alice") == 0


def test_a_batch_counts_by_the_share_of_its_lines_that_have_not_ended(store: Store) -> None:
    made = store.submit([JOB] * 4, owner="alice", new_batch=True)
    assert store.queued_tokens("alice") == 4 * ASKED
    store.finish(claim(store, made.ids[0]).ref, success())
    assert store.queued_tokens("alice") == 3 * ASKED
    store.submit([JOB] * 2, owner="alice", batch_id=made.batch_id)
    assert store.queued_tokens("alice") == 5 * ASKED
    assert made.batch_id is not None
    store.cancel_batch(made.batch_id)
    assert store.queued_tokens("alice") == 0


def test_a_file_tells_what_its_batch_asks_for_before_a_line_is_taken_in(store: Store) -> None:
    file_id = make_file(store, 5, 1, owner="alice", tokens={CHAT: 400, "/v1/jobs": 9})
    batch, _ = store.create_batch(new_batch(file_id), owner="alice")
    assert store.queued_tokens("alice") == 400
    lines = checked_lines(5, 1)
    assert store.take_in(batch.id, lines, lines[-1].end, done=True)
    assert store.queued_tokens("alice") == 320  # one of five has ended
    for job_id in line_ids(store, batch.id):
        if store.get(job_id).state == JobState.QUEUED:
            store.finish(claim(store, job_id).ref, success())
    assert store.queued_tokens("alice") == 0


def test_a_refusal_stores_nothing_and_says_what_is_held(store: Store) -> None:
    quota = Quota(queued_tokens=25)
    for _ in range(2):
        store.submit([JOB], owner="alice", quota=quota)
    with pytest.raises(LimitExceeded, match="the limit of this API key is 25; 20 are open and this request adds 10"):
        store.submit([JOB], owner="alice", quota=quota, idempotency_key="k", body_sha256="0" * 64)
    assert len(store.list_jobs()[0]) == 2
    store.cancel(store.list_jobs()[0][0].id)
    retried = store.submit([JOB], owner="alice", quota=quota, idempotency_key="k", body_sha256="0" * 64)
    assert not retried.replayed


def test_a_wait_is_reckoned_from_the_pace_of_the_workers(store: Store) -> None:
    store.submit([JOB], owner="alice")

    def seconds() -> int:
        with pytest.raises(LimitExceeded) as refused:
            store.submit([JOB], owner="alice", quota=Quota(queued_tokens=10))
        assert refused.value.retryable
        return refused.value.retry_after_seconds

    assert seconds() == 5
    store.heartbeat("w", "demo", 1, 1, 2.5)
    assert seconds() == 4  # ten tokens


def test_of_many_callers_at_once_no_more_get_in_than_there_is_room(store: Store) -> None:
    quota = Quota(queued_tokens=3 * ASKED, open_batches=2)
    ready = Barrier(8)

    def submit(number: int) -> bool:
        ready.wait(10)
        try:
            store.submit([JOB], owner="alice", quota=quota, new_batch=number % 2 == 0)
        except LimitExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        let_in = list(threads.map(submit, range(8)))
    assert sum(let_in) == 3
    assert store.queued_tokens("alice") == 3 * ASKED
    assert len(store.list_batches("alice")[0]) <= 2
