"""Waiting for what another thread or process does, bounded and without sleeping for luck."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def eventually(look: Callable[[], Found], *, within_seconds: float = 20.0, what: str = "") -> Found:
    """The first truthy answer of `look`; fails the test when none comes in time."""
    deadline = time.monotonic() + within_seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_seconds} s: {what or look}")
        time.sleep(0.01)
    return found
