"""Backoff: full jitter under a bound that doubles."""

from __future__ import annotations

import random

from jobs.store.verdicts import backoff_seconds
from tests.jobs.support import make_settings


class High(random.Random):
    """Dice that always fall on the highest number."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_bound_doubles_up_to_its_limit() -> None:
    settings = make_settings(retry_backoff_seconds=1.0, retry_backoff_max_seconds=60.0)
    assert [backoff_seconds(number, settings, High()) for number in (1, 2, 3, 7, 500)] == [1, 2, 4, 60, 60]


def test_the_jitter_is_full() -> None:
    settings = make_settings(retry_backoff_seconds=1.0)
    dice = random.Random(3)
    waits = [backoff_seconds(3, settings, dice) for _ in range(200)]
    assert min(waits) < 0.3
    assert max(waits) > 3.7
