"""What a process set aside at its start is not looked through again, and what it drops later is still freed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from jobs.standing import stand


class Knot:
    """A cycle: only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def standing() -> Iterator[None]:
    stand()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("standing")
def test_what_there_was_is_out_of_the_collectors_sight() -> None:
    assert gc.get_freeze_count() > 10 * len(gc.get_objects())


@pytest.mark.usefixtures("standing")
def test_a_cycle_made_later_is_freed() -> None:
    gone = weakref.ref(Knot())
    gc.collect()
    assert gone() is None


def test_a_cycle_that_nobody_held_at_the_start_is_freed_first() -> None:
    gone = weakref.ref(Knot())
    stand()
    gc.unfreeze()
    assert gone() is None
