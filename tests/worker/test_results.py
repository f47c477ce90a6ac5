"""The result writer: groups, outages, and that each caller hears of its own end and of no other's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from jobs.errors import LeaseLost, StoreUnavailable
from jobs.records import AttemptRef, Cancelled, Outcome
from jobs.states import JobState
from tests.support.services import wait_until
from worker import results
from worker.results import ResultWriter, Stored


class Ends:
    """Stores ends in a list. `gate` holds a commit open; `away` and `poison` make it fail."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.away = False
        self.num_refused = 0
        self.stale: set[str] = set()
        self.poison: set[str] = set()

    def finish_many(self, ends: Sequence[tuple[AttemptRef, Outcome]]) -> list[Stored]:
        self.begun.release()
        assert self.gate.wait(20)
        ids = [ref.job_id for ref, _ in ends]
        if self.away:
            self.num_refused += 1
            raise StoreUnavailable("away")
        if self.poison & set(ids):
            raise RuntimeError("cannot be stored")
        self.groups.append(ids)
        return [
            LeaseLost(ref.job_id, ref.number) if ref.job_id in self.stale else JobState.CANCELLED for ref, _ in ends
        ]


@pytest.fixture
def store() -> Ends:
    return Ends()


@pytest.fixture
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(16)


def finish(pool: ThreadPoolExecutor, writer: ResultWriter, job_id: str, *, at_once: bool = True) -> Future[JobState]:
    return pool.submit(writer.finish, AttemptRef(job_id, 1), Cancelled(), at_once=at_once)


def started(store: Ends, is_short: Callable[[], bool] = lambda: False) -> ResultWriter:
    writer = ResultWriter(store, is_short)
    writer.start()
    return writer


def test_lines_that_end_together_are_written_together_and_nobody_who_waits_is_held_up(
    store: Ends, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "GATHER_SECONDS", 60.0)
    writer = started(store)
    lines = [finish(pool, writer, job_id, at_once=False) for job_id in "abc"]
    wait_until(lambda: len(writer._waiting) == 3)
    assert store.groups == []
    pressing = finish(pool, writer, "d")
    assert {future.result(20) for future in [*lines, pressing]} == {JobState.CANCELLED}
    assert [sorted(group) for group in store.groups] == [["a", "b", "c", "d"]]


def test_a_writer_that_closes_gathers_no_longer(
    store: Ends, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "GATHER_SECONDS", 60.0)
    writer = started(store)
    line = finish(pool, writer, "a", at_once=False)
    wait_until(lambda: writer._waiting)
    assert writer.close(20) == 0
    assert line.result(20) is JobState.CANCELLED


def test_no_end_waits_for_others_while_a_slot_stands_empty(
    store: Ends, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "GATHER_SECONDS", 60.0)
    writer = started(store, is_short=lambda: True)
    assert finish(pool, writer, "a", at_once=False).result(20) is JobState.CANCELLED


def test_a_line_without_others_is_written_soon(store: Ends, pool: ThreadPoolExecutor) -> None:
    assert finish(pool, started(store), "a", at_once=False).result(20) is JobState.CANCELLED


def test_the_first_waits_for_nothing_and_the_rest_go_together(store: Ends, pool: ThreadPoolExecutor) -> None:
    writer = started(store)
    store.gate.clear()
    first = finish(pool, writer, "a")
    assert store.begun.acquire(timeout=20)
    others = [finish(pool, writer, job_id) for job_id in "bcd"]
    wait_until(lambda: len(writer._waiting) == 3)
    store.gate.set()
    assert {future.result(20) for future in [first, *others]} == {JobState.CANCELLED}
    assert [sorted(group) for group in store.groups] == [["a"], ["b", "c", "d"]]
    writer.close(5)


def test_each_caller_hears_of_its_own_lost_lease(store: Ends, pool: ThreadPoolExecutor) -> None:
    writer = started(store)
    store.stale = {"b"}
    good, stale = finish(pool, writer, "a"), finish(pool, writer, "b")
    assert good.result(20) == JobState.CANCELLED
    with pytest.raises(LeaseLost) as lost:
        stale.result(20)
    assert lost.value.job_id == "b"
    writer.close(5)


def test_an_outage_drops_nothing(store: Ends, pool: ThreadPoolExecutor) -> None:
    writer = started(store)
    store.away = True
    ends = [finish(pool, writer, job_id) for job_id in "abc"]
    wait_until(lambda: store.num_refused >= 2)
    assert not any(end.done() for end in ends)
    store.away = False
    assert [end.result(20) for end in ends] == [JobState.CANCELLED] * 3
    assert sorted(job_id for group in store.groups for job_id in group) == ["a", "b", "c"]
    writer.close(5)


def test_one_end_that_cannot_be_stored_does_not_take_the_others_with_it(store: Ends, pool: ThreadPoolExecutor) -> None:
    writer = started(store)
    store.poison = {"b"}
    store.gate.clear()
    ends = {job_id: finish(pool, writer, job_id) for job_id in "abc"}
    store.gate.set()
    assert ends["a"].result(20) == ends["c"].result(20) == JobState.CANCELLED
    with pytest.raises(RuntimeError):
        ends["b"].result(20)
    assert finish(pool, writer, "d").result(20) == JobState.CANCELLED
    writer.close(5)


def test_closing_during_an_outage_gives_up_in_time_and_says_how_many(store: Ends, pool: ThreadPoolExecutor) -> None:
    writer = started(store)
    store.away = True
    end = finish(pool, writer, "a")
    wait_until(lambda: store.num_refused)
    assert writer.close(0.1) == 1
    with pytest.raises(StoreUnavailable):
        end.result(20)
    with pytest.raises(StoreUnavailable):
        writer.finish(AttemptRef("late", 1), Cancelled())


def test_closing_writes_what_waits(store: Ends, pool: ThreadPoolExecutor) -> None:
    writer = started(store)
    store.gate.clear()
    ends = [finish(pool, writer, "a")]
    assert store.begun.acquire(timeout=20)
    ends.append(finish(pool, writer, "b"))
    wait_until(lambda: len(writer._waiting) == 1)
    store.gate.set()
    assert writer.close(5) == 0
    assert [end.result(20) for end in ends] == [JobState.CANCELLED] * 2
