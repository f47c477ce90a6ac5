"""Who is to end early: whoever cuts a generation says so, and deadlines are known, so a step need not look at everyone.

Knows generations; ends none. `note` on any thread; the rest under the engine's lock or on its thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Literal

from worker.engine.generation import Generation, Request


class Cuts:
    """Whether it is time to look for generations that were cancelled or interrupted, or are past a deadline."""

    def __init__(self) -> None:
        self._noted = False
        self._deadline = math.inf

    def note(self) -> None:
        """Somebody was cut just now."""
        self._noted = True

    def expect(self, request: Request) -> None:
        """One more that may have a deadline."""
        self._deadline = min(self._deadline, request.deadline or math.inf)

    def take(self) -> bool:
        """Whether to look. A cut that is noted while one looks is for the next time."""
        due = self._noted or (self._deadline != math.inf and time.monotonic() >= self._deadline)
        self._noted = False
        return due

    def expect_only(self, left: Iterable[Generation]) -> None:
        """These are all there are now."""
        self._deadline = min((each.request.deadline or math.inf for each in left), default=math.inf)


def cut_reason(generation: Generation) -> Literal["cancelled", "interrupted", "expired"] | None:
    """Why a generation is to end early; None if it is not."""
    deadline = generation.request.deadline
    if deadline is not None and time.monotonic() >= deadline:
        return "expired"
    return generation.cut
