"""The scope of one transaction: its connection, its one instant, the settings. And the locks, in their order.

Lock order on PostgreSQL: batches by id, then jobs by id, then attempts, generations. Whoever locks several rows of
one table does it here, sorted, so two transactions never wait for each other in a ring. SQLite has one writer.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from jobs.settings import Settings
from jobs.store.counts import Counted
from jobs.tables import Base, Batch, Job

# Conditions of the partial indexes. Written out, never bound: a planner takes such an index only where it can read the
# condition in the statement. A constraint ties each of the last two to its state, so that the state need not be
# asked for: a planner without statistics would go through all that is queued for it.
UNPUBLISHED = sa.text("jobs.state = 'queued' AND jobs.published_at IS NULL")
PUBLISHED = sa.text("jobs.published_at IS NOT NULL")
RUNNING = sa.text("jobs.lease_expires_at IS NOT NULL")
UNFINISHED = sa.text("batches.input_file_id IS NOT NULL AND batches.finalized_at IS NULL AND batches.failed_at IS NULL")

_INDEXES_ONLY = sa.text(
    "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true), "
    "set_config('enable_sort', 'off', true), set_config('enable_incremental_sort', 'off', true), "
    "set_config('jit', 'off', true)"
)
"""Without `jit` as well: before PostgreSQL 18 a plan that must sort all the same counts as so costly that it would be
compiled, which takes longer than running it."""

# Put together once: that takes as long as running them does.
_IDS: sa.BindParameter[str] = sa.bindparam("ids", expanding=True)
_LOCK_BATCHES = sa.select(Batch.id).where(Batch.id.in_(_IDS)).order_by(Batch.id).with_for_update(key_share=True)
_BATCHES_OF = sa.select(Job.batch_id).where(Job.id.in_(_IDS))
_WHERE_TO = (
    sa.select(
        Job.id,
        Job.batch_id,
        Job.state,
        Job.attempt,
        Job.num_failures,
        Job.max_attempts,
        Job.lease_expires_at,
        Job.deadline_at,
        Job.cancel_requested_at,
        Job.published_at,
        Job.deleted_at,
    )
    .where(Job.id.in_(_IDS))
    .order_by(Job.id)
)
_LOCK_JOBS = _WHERE_TO.with_for_update(key_share=True)
_LOCK_FREE_JOBS = _WHERE_TO.with_for_update(key_share=True, skip_locked=True)

Insert = postgresql.Insert | sqlite.Insert
AnyRow = Row[*tuple[Any, ...]]
AnySelect = sa.Select[*tuple[Any, ...]]


def insert_into(table: type[Base], dialect: str) -> Insert:
    """As `Scope.insert`, for a statement that is put together once."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


@dataclass(frozen=True, slots=True)
class Scope:
    """One transaction. `now` is read once, from the database's clock, and every row it writes carries it."""

    connection: Connection
    now: datetime
    settings: Settings
    random: random.Random
    counts: Counted = field(default_factory=Counted)
    """What this transaction does to jobs; counted once it has committed."""

    def insert(self, table: type[Base]) -> Insert:
        """Begin an INSERT that can say `ON CONFLICT`, which both databases know and plain SQL does not."""
        return insert_into(table, self.connection.dialect.name)

    def prefer_indexes(self) -> None:
        """Keep PostgreSQL in this transaction from reading whole tables, and from sorting what an index has in order,
        where it believes that there is little to read."""
        if self.connection.dialect.name == "postgresql":
            self.connection.execute(_INDEXES_ONLY)

    def lock_batches(self, ids: Iterable[str | None]) -> None:
        """Lock batches whose counters this transaction will change. Before any of their jobs."""
        wanted = {batch_id for batch_id in ids if batch_id is not None}
        if wanted:
            self.connection.execute(_LOCK_BATCHES, {"ids": sorted(wanted)}).all()

    def lock_jobs(self, ids: Iterable[str], *, skip_locked: bool = False) -> Sequence[AnyRow]:
        """Lock jobs and read what decides where they go. `skip_locked` leaves out rows that another one holds."""
        statement = _LOCK_FREE_JOBS if skip_locked else _LOCK_JOBS
        return self.connection.execute(statement, {"ids": sorted(set(ids))}).all()

    def batches_of(self, ids: Iterable[str]) -> set[str]:
        """Read which batches these jobs belong to. Needs no lock: a job never moves to another batch.

        The statement names nothing but ids: asked for distinct batches, PostgreSQL without statistics goes through
        all rows of the index by batch.
        """
        found = self.connection.scalars(_BATCHES_OF, {"ids": sorted(set(ids))})
        return {batch_id for batch_id in found if batch_id is not None}
