"""What this process has done to jobs: numbers that only grow, for its metrics.

A transaction gathers its own (`Scope.counts`); they are added when it has committed, so that what was rolled back is
never counted, and a statement that moves a thousand rows costs one addition. Each process counts its own deeds, and a
deed is done by one process: sums over all processes are right. Knows no exporter.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum


class Deed(StrEnum):
    """What is counted; each with the label that its numbers are kept by."""

    ACCEPTED = "accepted"
    """Jobs stored, by priority. Lines of files count when they are taken in."""
    STARTED = "started"
    """Attempts begun, by priority."""
    ATTEMPT_ENDED = "attempt_ended"
    """Attempts ended, by outcome; `lease_lost` are those of workers that went silent."""
    RETRIED = "retried"
    """Jobs that went back to the queue, by the outcome of the attempt before."""
    ENDED = "ended"
    """Jobs ended, by state."""
    DELIVERY_TRIED = "delivery_tried"
    """Attempts to deliver an event to a webhook, by how they went."""


DELIVERY_RESULTS = ("taken", "failed", "given_up")
"""How an attempt to deliver goes; `failed` is tried again."""

Counted = Counter[tuple[Deed, str]]


class Counts:
    """The sums of one process. Any thread may add and read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: Counted = Counter()

    def add(self, counted: Counted) -> None:
        if counted:
            with self._lock:
                self._sums.update(counted)

    def of(self, deed: Deed) -> Mapping[str, int]:
        """The numbers of one deed by label."""
        with self._lock:
            return {label: number for (kind, label), number in self._sums.items() if kind is deed}
