"""The frame of the store: opens each transaction, reads its clock, and hands both to the concern as a `Scope`."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from jobs.database import BUSY_SECONDS, transaction
from jobs.errors import StoreUnavailable
from jobs.settings import Settings
from jobs.store.counts import Counts
from jobs.store.scope import Scope

Clock = Callable[[], datetime]


class Door:
    """`clock` None reads the database's clock in each transaction; `dice` draws the jitter of retries, and seeds."""

    def __init__(
        self,
        engine: Engine,
        *,
        settings: Settings,
        clock: Clock | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.counts = Counts()
        self._clock = clock
        self._dice = dice or random.SystemRandom()
        # SQLite has one writer. Threads of this process queue here, instead of polling its lock with growing naps.
        self._writer = threading.Lock() if engine.dialect.name == "sqlite" else None

    @contextmanager
    def _reading(self) -> Iterator[Scope]:
        with transaction(self.engine, writes=False) as connection:
            yield self._scope(connection)

    @contextmanager
    def _reading_waiting(self) -> Iterator[Scope]:
        """For what looks at the head of a long queue. PostgreSQL knows a table by statistics that may be from before a
        million rows came: left to itself it may then go through all of them."""
        with self._reading() as scope:
            scope.prefer_indexes()
            yield scope

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[Scope]:
        """`durable=False` spares SQLite's fsync where a power cut may undo the commit (see `jobs.database`)."""
        with self._turn(), transaction(self.engine, writes=True, durable=durable) as connection:
            scope = self._scope(connection)
            yield scope
        self.counts.add(scope.counts)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._writer is None:
            yield
            return
        if not self._writer.acquire(timeout=BUSY_SECONDS):
            raise StoreUnavailable("Another thread is writing for long.")
        try:
            yield
        finally:
            self._writer.release()

    def _scope(self, connection: Connection) -> Scope:
        return Scope(connection, self._now(connection), self.settings, self._dice)

    def _now(self, connection: Connection) -> datetime:
        """The instant of this transaction. SQLite lives on this machine, so its clock is this machine's."""
        if self._clock is not None:
            return self._clock()
        if connection.dialect.name == "sqlite":
            return datetime.now(UTC)
        instant: datetime = connection.scalar(sa.select(sa.func.clock_timestamp()))  # type: ignore[assignment]
        return instant.astimezone(UTC)
