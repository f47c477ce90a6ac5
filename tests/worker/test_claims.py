"""The claim writer: groups, outages, doubled messages, and that each caller hears of its own job and of no other's."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from jobs.errors import StoreUnavailable
from jobs.records import ClaimedJob
from tests.support.services import wait_until
from tests.worker.test_leases import claimed
from worker import claims
from worker.claims import ClaimWriter


class Jobs:
    """Hands each job out once. `gate` holds a transaction open; `away` and `poison` make it fail."""

    def __init__(self) -> None:
        self.free = set("abcdef")
        self.groups: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.away = False
        self.poison: set[str] = set()

    def claim_many(self, job_ids: Collection[str], worker: str) -> dict[str, ClaimedJob]:
        self.begun.release()
        assert self.gate.wait(20)
        if self.away:
            raise StoreUnavailable("away")
        if self.poison & set(job_ids):
            raise RuntimeError("cannot be claimed")
        self.groups.append(sorted(job_ids))
        taken = self.free & set(job_ids)
        self.free -= taken
        return {job_id: claimed(job_id) for job_id in taken}

    def claim(self, job_id: str, worker: str, *, in_company: bool = False) -> ClaimedJob | None:
        raise AssertionError("one by one")

    def runs_alone(self, job_id: str) -> bool:
        return False


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def writer(jobs: Jobs) -> Iterator[ClaimWriter]:
    made = ClaimWriter(jobs, "worker")
    made.start()
    yield made
    jobs.gate.set()
    made.stop()


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(16)


def hold_first(
    pool: ThreadPoolExecutor, writer: ClaimWriter, jobs: Jobs, others: str
) -> list[Future[ClaimedJob | None]]:
    """Ask for `a`, whose transaction stays open until the others wait."""
    jobs.gate.clear()
    asked = [pool.submit(writer.claim, "a")]
    assert jobs.begun.acquire(timeout=20)
    for number, job_id in enumerate(others, 1):
        asked.append(pool.submit(writer.claim, job_id))
        wait_until(lambda: len(writer._waiting) == number)  # noqa: B023
    jobs.gate.set()
    return asked


def test_the_first_waits_for_nothing_and_the_rest_go_together(
    pool: ThreadPoolExecutor, writer: ClaimWriter, jobs: Jobs
) -> None:
    asked = hold_first(pool, writer, jobs, "bcd")
    answers = [future.result(20) for future in asked]
    assert [job and job.ref.job_id for job in answers] == list("abcd")
    assert jobs.groups == [["a"], ["b", "c", "d"]]


def test_lines_are_claimed_together_and_nobody_who_waits_is_held_up(
    pool: ThreadPoolExecutor, writer: ClaimWriter, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "GATHER_SECONDS", 60.0)
    lines = [pool.submit(writer.claim, job_id, at_once=False) for job_id in "abc"]
    wait_until(lambda: len(writer._waiting) == 3)
    assert jobs.groups == []
    pressing = pool.submit(writer.claim, "d")
    assert all(future.result(20) for future in [*lines, pressing])
    assert jobs.groups == [["a", "b", "c", "d"]]


def test_no_line_waits_for_others_while_a_slot_stands_empty(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "GATHER_SECONDS", 60.0)
    writer = ClaimWriter(jobs, "worker", is_short=lambda: True)
    writer.start()
    assert writer.claim("a", at_once=False) is not None
    writer.stop()


def test_a_line_without_others_is_claimed_soon(writer: ClaimWriter) -> None:
    assert writer.claim("a", at_once=False) is not None


def test_a_writer_that_stops_gathers_no_longer(
    pool: ThreadPoolExecutor, writer: ClaimWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "GATHER_SECONDS", 60.0)
    line = pool.submit(writer.claim, "a", at_once=False)
    wait_until(lambda: writer._waiting)
    writer.stop()
    assert line.result(20) is not None


def test_two_messages_of_one_job_that_meet_are_answered_in_turn(
    pool: ThreadPoolExecutor, writer: ClaimWriter, jobs: Jobs
) -> None:
    asked = hold_first(pool, writer, jobs, "bcbd")
    answers = [future.result(20) for future in asked]
    assert [job and job.ref.job_id for job in answers] == ["a", "b", "c", None, "d"]
    assert jobs.groups == [["a"], ["b", "c"], ["b", "d"]]


def test_an_outage_is_told_to_all_who_ask_and_the_next_are_served(
    pool: ThreadPoolExecutor, writer: ClaimWriter, jobs: Jobs
) -> None:
    jobs.away = True
    for future in hold_first(pool, writer, jobs, "bc"):
        with pytest.raises(StoreUnavailable):
            future.result(20)
    jobs.away = False
    assert writer.claim("d") is not None


def test_one_job_that_cannot_be_claimed_does_not_take_the_others_with_it(
    pool: ThreadPoolExecutor, writer: ClaimWriter, jobs: Jobs
) -> None:
    jobs.poison = {"c"}
    first, before, broken, after = hold_first(pool, writer, jobs, "bcd")
    assert first.result(20)
    assert before.result(20)
    assert after.result(20)
    with pytest.raises(RuntimeError):
        broken.result(20)


def test_stopping_answers_who_waits_and_refuses_who_comes(
    pool: ThreadPoolExecutor, writer: ClaimWriter, jobs: Jobs
) -> None:
    asked = hold_first(pool, writer, jobs, "b")
    writer.stop()
    assert [job is not None for job in (future.result(20) for future in asked)] == [True, True]
    with pytest.raises(StoreUnavailable):
        writer.claim("c")
