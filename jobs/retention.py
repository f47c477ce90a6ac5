"""Retention: what is kept for a while only goes when its time is over, and what a crash left behind goes a day later.

Owns the order in which things are let go: the row first, the bytes after it, then the row's memory of the bytes. So
nobody is ever shown a file whose bytes are gone, and whoever is killed in between is followed by the next round.
Knows no batch in particular.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

import structlog

from jobs.errors import InvalidRequest, NotFound
from jobs.files import Vault
from jobs.store import Store

log = structlog.get_logger("penstock.retention")

ORPHAN_AGE = timedelta(days=1)
"""Objects that no row names may be somebody's that is just being written: until they are so old."""
GRACE_SECONDS = 900.0
"""Objects that another has replaced stay for so long: a reader that has begun with them may finish."""
CHUNK = 100
"""Files or objects of one piece of work: others have their turn after it."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Retention:
    """Lets go, a piece at a time: its work comes as iterators, one item a piece, that may be left at any point."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._store = store
        self._vault = vault
        self._monotonic = monotonic
        self._now = now
        self._replaced: deque[tuple[float, str]] = deque()

    def replaced(self, names: Iterable[str]) -> None:
        """Take note of objects that no row names any more. A restart forgets them; the sweep of orphans does not."""
        due = self._monotonic() + GRACE_SECONDS
        self._replaced.extend((due, name) for name in names)

    def drop_replaced(self) -> Iterator[int]:
        """Delete the replaced objects whose grace is over, but none while a backup runs, which may still copy it."""
        if not self._replaced or self._store.backup_runs():
            return
        while self._replaced and self._replaced[0][0] <= self._monotonic():
            self._vault.delete(self._replaced[0][1])
            self._replaced.popleft()
            yield 1

    def sweep(self) -> Iterator[int]:
        """Let go of all whose time is over. Each piece says how much went."""
        tally: Counter[str] = Counter()
        for kind, pieces in (
            ("expired", self.expire()),
            ("erased", self.erase()),
            ("orphans", self.drop_orphans()),
            ("deleted", self.delete_jobs()),
            ("forgotten", self.forget()),
        ):
            for number in pieces:
                tally[kind] += number
                yield number
        log.info("kept_house", **tally)

    def expire(self) -> Iterator[int]:
        """Delete the files whose time is over, for their owners."""
        while ids := self._store.expired_files(CHUNK):
            num_expired = sum(self._expire_one(file_id) for file_id in ids)
            yield num_expired
            if num_expired == 0:
                return

    def _expire_one(self, file_id: str) -> bool:
        try:
            self._store.delete_file(file_id)
        except (InvalidRequest, NotFound):  # A batch has just come to need it, or its owner was faster.
            return False
        return True

    def erase(self) -> Iterator[int]:
        """Delete the objects of deleted files, and forget their names then."""
        while not self._store.backup_runs() and (found := self._store.erasable_files(CHUNK)):
            for erasable in found:
                for name in erasable.object_names:
                    self._vault.delete(name)
                self._store.file_erased(erasable.file_id)
                yield 1

    def drop_orphans(self) -> Iterator[int]:
        """Delete old objects that no row names: somebody was killed between an object and its row."""
        before = self._now() - ORPHAN_AGE
        yield self._vault.abandon_uploads(before)
        names = self._vault.stored_before(before)
        while some := list(itertools.islice(names, CHUNK)):
            unknown = self._store.unknown_objects(some)
            for name in unknown:
                self._vault.delete(name)
            yield len(unknown)

    def delete_jobs(self) -> Iterator[int]:
        """Delete the jobs whose time is over, and the lines of batches whose time is."""
        while number := self._store.delete_old_jobs():
            yield number
        while ids := self._store.old_batches(CHUNK):
            for batch_id in ids:
                line: int | None = -1
                while line is not None:
                    number, line = self._store.delete_lines(batch_id, line)
                    yield number

    def forget(self) -> Iterator[int]:
        """Delete rows that are over: a piece of each kind at a time."""
        while self._store.forget():
            yield 1
