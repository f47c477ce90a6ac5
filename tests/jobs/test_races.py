"""Races, with real threads on real databases."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import pytest

from jobs.errors import LeaseLost
from jobs.records import ClaimedJob, Interrupted
from jobs.states import JobState
from jobs.store import Store
from tests.jobs.support import Clock, claim, make_line, submit_one, success

Answer = TypeVar("Answer")


def at_once(calls: Sequence[Callable[[], Answer]]) -> list[Answer]:
    """Run all calls at the same moment, each in a thread; raise what one of them raises."""
    barrier = threading.Barrier(len(calls))
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def run(call: Callable[[], Answer]) -> None:
        barrier.wait()
        try:
            answers.append(call())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    if errors:
        raise errors[0]
    return answers


def finish_or_lose(store: Store, claimed: ClaimedJob, text: str) -> str:
    try:
        return store.finish(claimed.ref, success(text))
    except LeaseLost:
        return "lost"


def test_of_eight_claimers_exactly_one_wins(store: Store) -> None:
    for _ in range(5):
        job_id = submit_one(store)
        answers = at_once([partial(store.claim, job_id, f"w{n}") for n in range(8)])
        assert sum(answer is not None for answer in answers) == 1
    assert store.audit() == []


def test_groups_of_claims_that_cross_take_each_job_once_and_never_wait_in_a_ring(store: Store) -> None:
    ids = [submit_one(store) for _ in range(40)]
    orders = [ids, ids[::-1], ids[20:] + ids[:20], ids[1::2] + ids[::2]]
    answers = at_once([partial(store.claim_many, order, f"w{n}") for n, order in enumerate(orders)])
    taken = [job_id for answer in answers for job_id in answer]
    assert sorted(taken) == sorted(ids)
    assert store.audit() == []


def test_of_eight_finishes_of_one_attempt_exactly_one_is_stored(store: Store) -> None:
    claimed = claim(store, submit_one(store))
    answers = at_once([lambda text=f"text {n}": finish_or_lose(store, claimed, text) for n in range(8)])  # type: ignore[misc]
    assert sorted(answers) == ["lost"] * 7 + ["succeeded"]
    assert store.audit() == []


def test_a_sweep_and_a_late_finish_agree_on_who_was_first(store: Store, clock: Clock) -> None:
    for _ in range(5):
        claimed = claim(store, submit_one(store))
        clock.move(31)
        answers = at_once([lambda: finish_or_lose(store, claimed, "late"), lambda: str(bool(store.sweep()))])  # noqa: B023
        state = store.get(claimed.ref.job_id).state
        assert state == (JobState.QUEUED if "lost" in answers else JobState.SUCCEEDED)
        assert store.audit() == []


def test_a_cancel_and_a_claim_agree_on_who_was_first(store: Store) -> None:
    for _ in range(5):
        job_id = submit_one(store)
        at_once([lambda: store.claim(job_id, "w"), lambda: store.cancel(job_id)])  # noqa: B023
        job = store.get(job_id)
        assert job.state in {JobState.CANCELLED, JobState.RUNNING}
        assert job.cancel_requested_at is None or job.state == JobState.RUNNING
        assert (job.cancel_requested_at is None) == (job.state == JobState.CANCELLED)
    assert store.audit() == []


def test_many_workers_end_one_batch_in_groups_while_it_is_swept_renewed_and_published(
    store: Store, clock: Clock
) -> None:
    """No deadlock: every transaction takes its locks in one order, whatever the order of what it was given."""
    made = store.submit([make_line() for _ in range(120)], new_batch=True)
    held = [claim(store, job_id).ref for job_id in made.ids]
    groups = [held[start::4] for start in range(4)]

    def end(group: list[object]) -> None:
        for piece in (group[::-1][:15], group[:15]):
            store.finish_many([(ref, success()) for ref in piece])  # type: ignore[misc]

    def bother() -> None:
        for _ in range(5):
            store.sweep()
            store.renew(held[::-1], "worker-1")
            store.mark_published(made.ids)
            store.unpublish_all()

    at_once([*(lambda group=group: end(group) for group in groups), bother, bother])
    assert store.get_batch(str(made.batch_id))[0].num_succeeded == 120
    assert store.audit() == []


def test_a_batch_cancelled_while_it_is_worked_on_adds_up(store: Store) -> None:
    made = store.submit([make_line() for _ in range(60)], new_batch=True)

    def work(ids: Sequence[str]) -> None:
        for job_id in ids:
            claimed = store.claim(job_id, "w")
            if claimed is not None:
                store.finish(claimed.ref, Interrupted() if int(job_id[-1], 16) % 3 == 0 else success())

    at_once(
        [
            lambda: work(made.ids[:30]),
            lambda: work(made.ids[30:]),
            lambda: store.cancel_batch(str(made.batch_id)),
            lambda: store.submit([make_line()]),
        ]
    )
    store.cancel_batch(str(made.batch_id))
    batch, counts = store.get_batch(str(made.batch_id))
    assert counts.by_state[JobState.SUCCEEDED] + counts.by_state[JobState.CANCELLED] == 60
    assert batch.ended_at is not None
    assert store.audit() == []


@pytest.mark.parametrize("num_dispatchers", [4])
def test_of_several_dispatchers_one_leads(store: Store, num_dispatchers: int) -> None:
    answers = at_once([lambda name=f"d{n}": store.hold_office("dispatcher", name) for n in range(num_dispatchers)])  # type: ignore[misc]
    assert sorted(answers) == [False] * (num_dispatchers - 1) + [True]
