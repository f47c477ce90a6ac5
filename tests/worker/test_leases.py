"""The lease keeper: renewals together, losses, cancels, and the local clock that may only stop us earlier."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from jobs.errors import StoreUnavailable
from jobs.records import AttemptRef, ClaimedJob, Renewal
from jobs.states import Priority
from tests.support.services import wait_until
from worker.engine.generation import Generation, Prompt, Request, Sampling
from worker.leases import Lease, LeaseKeeper


class Renewals:
    """Answers renewals from a script: what is lost, what somebody wants cancelled, whether anybody answers."""

    def __init__(self) -> None:
        self.asked: list[set[AttemptRef]] = []
        self.lost: set[AttemptRef] = set()
        self.cancelled: set[AttemptRef] = set()
        self.away = False

    def renew(self, refs: Sequence[AttemptRef], worker: str) -> Renewal:
        if self.away:
            raise StoreUnavailable("away")
        self.asked.append(set(refs))
        held = set(refs) - self.lost
        return Renewal(frozenset(held), frozenset(self.lost & set(refs)), frozenset(self.cancelled & held))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def claimed(job_id: str, number: int = 1, lease_seconds: float = 30.0) -> ClaimedJob:
    return ClaimedJob(
        ref=AttemptRef(job_id, number),
        model="demo",
        prompt="x",
        messages=None,
        parameters={},
        seed=1,
        priority=Priority.INTERACTIVE,
        lease_seconds=lease_seconds,
        deadline_at=None,
        seconds_to_deadline=None,
        created_at=datetime.now(UTC),
        seconds_queued=0.0,
    )


def generation() -> Generation:
    return Generation(Request("r", Prompt((1,)), Sampling(seed=1), max_tokens=1))


def hold(keeper: LeaseKeeper, job_id: str, number: int = 1) -> tuple[Lease, Generation]:
    lease, live = keeper.watch(job_id), generation()
    lease.hold(claimed(job_id, number), keeper._clock())
    lease.attach(live)
    return lease, live


@pytest.fixture
def store() -> Renewals:
    return Renewals()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keeper(store: Renewals, clock: Clock) -> LeaseKeeper:
    return LeaseKeeper(store, "worker", 30.0, clock)


def test_all_held_leases_are_renewed_in_one_call(keeper: LeaseKeeper, store: Renewals) -> None:
    hold(keeper, "a")
    hold(keeper, "b")
    keeper.watch("not claimed yet")
    keeper.renew()
    assert store.asked == [{AttemptRef("a", 1), AttemptRef("b", 1)}]


def test_nothing_held_asks_nothing(keeper: LeaseKeeper, store: Renewals) -> None:
    keeper.renew()
    assert store.asked == []


def test_a_lost_lease_stops_its_generation_and_no_other(keeper: LeaseKeeper, store: Renewals) -> None:
    lost, stopped = hold(keeper, "a")
    kept, running = hold(keeper, "b")
    store.lost = {AttemptRef("a", 1)}
    keeper.renew()
    assert (lost.lost, stopped.cut) == (True, "cancelled")
    assert (kept.lost, running.cut) == (False, None)


def test_a_lost_lease_is_not_renewed_again(keeper: LeaseKeeper, store: Renewals) -> None:
    hold(keeper, "a")
    store.lost = {AttemptRef("a", 1)}
    keeper.renew()
    keeper.renew()
    assert len(store.asked) == 1


def test_a_cancel_in_the_row_is_found_by_the_renewal(keeper: LeaseKeeper, store: Renewals) -> None:
    lease, live = hold(keeper, "a")
    store.cancelled = {AttemptRef("a", 1)}
    keeper.renew()
    assert (live.cut, lease.lost) == ("cancelled", False)


def test_a_cancel_on_the_channel_stops_every_attempt_of_that_job_here(keeper: LeaseKeeper) -> None:
    _, first = hold(keeper, "a", 1)
    _, second = hold(keeper, "a", 2)
    _, other = hold(keeper, "b")
    keeper.cancel("a")
    keeper.cancel("nobody's")
    assert [first.cut, second.cut, other.cut] == ["cancelled", "cancelled", None]


def test_a_cancel_that_comes_between_claim_and_submit_is_not_missed(keeper: LeaseKeeper) -> None:
    lease, live = keeper.watch("a"), generation()
    keeper.cancel("a")
    lease.hold(claimed("a"), 100.0)
    lease.attach(live)
    assert live.cut == "cancelled"


def test_a_lease_not_renewed_for_its_whole_length_gives_the_job_back(
    keeper: LeaseKeeper, store: Renewals, clock: Clock
) -> None:
    lease, live = hold(keeper, "a")
    store.away = True
    clock.now += 29.0
    with pytest.raises(StoreUnavailable):
        keeper.renew()
    keeper.check_clock()
    assert live.cut is None
    clock.now += 1.0
    keeper.check_clock()
    assert (live.cut, lease.lost) == ("interrupted", False)


def test_a_renewal_counts_from_when_it_was_asked(keeper: LeaseKeeper, store: Renewals, clock: Clock) -> None:
    lease, live = hold(keeper, "a")
    clock.now += 20.0
    keeper.renew()
    clock.now += 20.0
    keeper.check_clock()
    assert live.cut is None
    assert lease.expires_at == 150.0


def test_a_drain_interrupts_all_and_waits_for_them(keeper: LeaseKeeper) -> None:
    lease, live = hold(keeper, "a")
    keeper.interrupt_all()
    assert live.cut == "interrupted"
    assert not keeper.wait_idle(0)
    threading.Thread(target=keeper.release, args=(lease,)).start()
    assert keeper.wait_idle(5)


def test_the_threads_renew_and_stop_by_themselves(store: Renewals) -> None:
    keeper = LeaseKeeper(store, "worker", 0.3)
    keeper.start()
    lease, live = hold(keeper, "a")
    wait_until(lambda: len(store.asked) >= 2)
    store.away = True
    wait_until(lambda: live.cut == "interrupted")
    store.away = False
    keeper.release(lease)
    keeper.stop()
    assert keeper.num_held == 0


def test_a_renewal_can_be_asked_for_at_once(store: Renewals) -> None:
    keeper = LeaseKeeper(store, "worker", 3000.0)
    keeper.start()
    hold(keeper, "a")
    keeper.renew_soon()
    wait_until(lambda: store.asked)
    keeper.stop()
