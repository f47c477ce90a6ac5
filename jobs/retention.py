"""Retention: what is kept for a while only goes when its time is over, and what a crash left behind goes a day later.

Owns the order in which things are let go: the row first, the bytes after it, then the row's memory of the bytes. So
nobody is ever shown a file whose bytes are gone, and whoever is killed in between is followed by the next round.
Knows no batch in particular.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import structlog

from jobs.errors import InvalidRequest, NotFound
from jobs.files import Vault
from jobs.store import Store

log = structlog.get_logger("penstock.retention")

ORPHAN_AGE = timedelta(days=1)
"""Objects that no row names may be somebody's that is just being written: until they are so old."""
FORGET_ROUNDS = 100
GRACE_SECONDS = 900.0
"""Objects that another has replaced stay for so long: a reader that has begun with them may finish."""
CHUNK = 500


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Retention:
    """Lets go. `keep` is called between pieces of long work, and may raise to end it."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        keep: Callable[[], None] = lambda: None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._store = store
        self._vault = vault
        self._keep = keep
        self._monotonic = monotonic
        self._now = now
        self._replaced: deque[tuple[float, str]] = deque()

    def replaced(self, names: Iterable[str]) -> None:
        """Take note of objects that no row names any more. A restart forgets them; the sweep of orphans does not."""
        due = self._monotonic() + GRACE_SECONDS
        self._replaced.extend((due, name) for name in names)

    def drop_replaced(self) -> int:
        """Delete the replaced objects whose grace is over; how many."""
        dropped = 0
        while self._replaced and self._replaced[0][0] <= self._monotonic():
            self._vault.delete(self._replaced[0][1])
            self._replaced.popleft()
            dropped += 1
        return dropped

    def sweep(self) -> None:
        """Let go of all whose time is over."""
        num_expired, num_erased = self.expire(), self.erase()
        num_orphans = self.drop_orphans()
        num_forgotten = self._forget()
        log.info(
            "kept_house", expired=num_expired, erased=num_erased, orphans=num_orphans, forgotten_chunks=num_forgotten
        )

    def expire(self) -> int:
        """Delete the files whose time is over, for their owners; how many."""
        num_expired = 0
        while ids := self._store.expired_files(CHUNK):
            self._keep()
            gone = [file_id for file_id in ids if self._expire_one(file_id)]
            num_expired += len(gone)
            if not gone:
                break
        return num_expired

    def _expire_one(self, file_id: str) -> bool:
        try:
            self._store.delete_file(file_id)
        except (InvalidRequest, NotFound):  # A batch has just come to need it, or its owner was faster.
            return False
        return True

    def erase(self) -> int:
        """Delete the objects of deleted files, and forget their names then; how many files."""
        num_erased = 0
        while found := self._store.erasable_files(CHUNK):
            for erasable in found:
                self._keep()
                for name in erasable.object_names:
                    self._vault.delete(name)
                self._store.file_erased(erasable.file_id)
            num_erased += len(found)
        return num_erased

    def drop_orphans(self) -> int:
        """Delete old objects that no row names: somebody was killed between an object and its row. How many."""
        before = self._now() - ORPHAN_AGE
        names = self._vault.stored_before(before)
        num_dropped = self._vault.abandon_uploads(before)
        while some := list(itertools.islice(names, CHUNK)):
            self._keep()
            for name in self._store.unknown_objects(some):
                self._vault.delete(name)
                num_dropped += 1
        return num_dropped

    def _forget(self) -> int:
        """Delete rows that are over, some at a time; how many times there were any."""
        for num_rounds in range(FORGET_ROUNDS):
            self._keep()
            if not self._store.forget():
                return num_rounds
        return FORGET_ROUNDS
