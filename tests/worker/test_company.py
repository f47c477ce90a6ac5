"""Many together or one alone: who waits for whom, and that a drain sends them away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from tests.support.services import wait_until
from worker.company import Closed, Company


class Guest:
    """Somebody on a thread of its own, who stays until told to leave."""

    def __init__(self, enter: Callable[[], AbstractContextManager[None]]) -> None:
        self.inside, self.leave, self.sent_away = threading.Event(), threading.Event(), threading.Event()
        self._enter = enter
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._enter():
                self.inside.set()
                assert self.leave.wait(20)
        except Closed:
            self.sent_away.set()

    def go(self) -> None:
        self.leave.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_who_wants_to_be_alone_waits_for_all_and_goes_before_those_who_come_later() -> None:
    company = Company()
    first, second = Guest(company.together), Guest(company.together)
    assert first.inside.wait(20)
    assert second.inside.wait(20), "they share"
    shy = Guest(company.alone)
    wait_until(lambda: company._num_shy == 1)
    late = Guest(company.together)
    first.go()
    assert not shy.inside.is_set()
    second.go()
    assert shy.inside.wait(20)
    assert not late.inside.is_set()
    shy.go()
    assert late.inside.wait(20)
    late.go()


def test_two_who_want_to_be_alone_take_turns() -> None:
    company = Company()
    one = Guest(company.alone)
    assert one.inside.wait(20)
    other = Guest(company.alone)
    wait_until(lambda: company._num_shy == 2)
    assert not other.inside.is_set()
    one.go()
    assert other.inside.wait(20)
    other.go()


def test_company_that_waited_goes_in_before_the_next_who_wants_to_be_alone() -> None:
    company = Company()
    one = Guest(company.alone)
    assert one.inside.wait(20)
    other = Guest(company.alone)
    wait_until(lambda: company._num_shy == 2)
    waiting = [Guest(company.together) for _ in range(3)]
    wait_until(lambda: company._num_waiting == 3)
    one.go()
    for guest in waiting:
        assert guest.inside.wait(20)
    late = Guest(company.together)
    wait_until(lambda: company._num_waiting == 1)
    assert not other.inside.is_set()
    for guest in waiting:
        guest.go()
    assert other.inside.wait(20)
    assert not late.inside.is_set()
    other.go()
    assert late.inside.wait(20)
    late.go()


def test_a_drain_sends_away_who_waits_and_who_comes() -> None:
    company = Company()
    running = Guest(company.together)
    assert running.inside.wait(20)
    shy = Guest(company.alone)
    wait_until(lambda: company._num_shy == 1)
    late = Guest(company.together)
    company.close()
    assert shy.sent_away.wait(20)
    assert late.sent_away.wait(20)
    with pytest.raises(Closed), company.together():
        pass
    running.go()
