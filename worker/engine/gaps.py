"""How fast tokens come, counted without a lock: one thread writes, any thread may read."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

BOUNDS_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)


WINDOW_SECONDS = 5.0


class Rate:
    """Tokens a second over the last moments."""

    def __init__(self) -> None:
        self._noted: deque[tuple[float, int]] = deque()

    def note(self, now: float, num_tokens: int) -> None:
        """So many tokens were made just now."""
        self._noted.append((now, num_tokens))
        while self._noted[0][0] < now - WINDOW_SECONDS:
            self._noted.popleft()

    def per_second(self, now: float) -> float:
        """The mean over the window that ends now."""
        return sum(num for at, num in list(self._noted) if at >= now - WINDOW_SECONDS) / WINDOW_SECONDS


class Gaps:
    """The time between two tokens of a sequence, as a histogram. `counts[i]` are the gaps up to `BOUNDS_SECONDS[i]`;
    the last one those beyond."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self.total_seconds = 0.0
        self._last_at: float | None = None

    def step(self, now: float, num_tokens: int) -> None:
        """A step is over that gave `num_tokens` sequences a token each: those of the step before waited so long."""
        if num_tokens and self._last_at is not None:
            gap = now - self._last_at
            self.counts[bisect_left(BOUNDS_SECONDS, gap)] += num_tokens
            self.total_seconds += gap * num_tokens
        self._last_at = now if num_tokens else None
