"""An office of the rounds: two processes may run a role, one of them works.

Knows the store's offices and a clock; no role.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

import structlog

from jobs.errors import PenstockError
from jobs.store import Store


def holder_name() -> str:
    """Whom an office knows this process as; another one after each start."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Tenure:
    """Holds one office. It asks the database once in a third of the term, not in every round; who waits for the office
    asks twice as often.

    The local clock only ever makes it ask sooner. A round that outlives the term (a stopped process) may overlap with
    the next holder's: whatever the roles do is harmless when done twice, or guarded by the database.
    """

    def __init__(
        self,
        store: Store,
        office: str,
        term_seconds: float,
        *,
        holder: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.holder = holder or holder_name()
        self._store = store
        self._office = office
        self._term_seconds = term_seconds
        self._monotonic = monotonic
        self._asked_at = float("-inf")
        self._holds = False
        self._log = structlog.get_logger(f"penstock.{office}")

    def held(self) -> bool:
        """Whether the office is ours. Raises StoreUnavailable when it must ask and cannot."""
        now = self._monotonic()
        if now - self._asked_at >= self._term_seconds / (3 if self._holds else 6):
            holds = self._store.hold_office(self._office, self.holder)
            if holds != self._holds:
                self._log.info("office_taken" if holds else "office_lost", holder=self.holder)
            self._holds, self._asked_at = holds, now
        return self._holds

    def resign(self) -> None:
        """Leave the office to the other one at once."""
        if self._holds:
            self._holds, self._asked_at = False, float("-inf")
            with suppress(PenstockError):
                self._store.resign_office(self._office, self.holder)
