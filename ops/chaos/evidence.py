"""What the database says while everything else breaks, and after it. Reads only.

Every question may meet an outage of the database itself: it raises StoreUnavailable then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from jobs.database import open_engine, transaction
from jobs.settings import Settings
from jobs.states import ENDED, JobState, Priority
from jobs.store import Store
from jobs.store.scope import AnyRow
from jobs.tables import Attempt, Generation, Job, Office, Worker

Held = tuple[str, int]
"""A job and the number of the attempt that held it."""

STALE_TRANSACTION = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
    " AND clock_timestamp() - state_change > interval '0.1 seconds'"
)


@dataclass(frozen=True, slots=True)
class StoredText:
    """What is stored of a job that ended with a text."""

    completion: str
    attempt: int
    continuity: dict[str, Any] | None


class Evidence:
    """Asks a database of ours."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._engine = open_engine(url)
        self._store = Store(self._engine, settings=settings)

    def close(self) -> None:
        self._engine.dispose()

    def _rows(self, query: sa.Executable) -> Sequence[AnyRow]:
        with transaction(self._engine, writes=False) as connection:
            return connection.execute(query).all()

    def _one(self, query: sa.Executable) -> Any:
        return self._rows(query)[0][0]

    # -- while it runs

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        rows = self._rows(sa.select(Job.state, sa.func.count()).group_by(Job.state))
        return {row[0]: row[1] for row in rows}

    def held_by(self, worker: str) -> list[Held]:
        """What a worker was running."""
        rows = self._rows(
            sa.select(Attempt.job_id, Attempt.number).where(Attempt.worker == worker, Attempt.outcome.is_(None))
        )
        return [(job_id, number) for job_id, number in rows]

    def waiting_for_message(self) -> list[Held]:
        """Queued jobs whose message is out."""
        rows = self._rows(sa.select(Job.id, Job.attempt).where(Job.published_at.is_not(None)))
        return [(job_id, number) for job_id, number in rows]

    def some_jobs(self, limit: int) -> dict[Priority, list[str]]:
        """The newest jobs, whatever their state."""
        rows = self._rows(sa.select(Job.id, Job.priority).order_by(Job.id.desc()).limit(limit))
        return {each: [job_id for job_id, priority in rows if priority == each] for each in Priority}

    def moved_on(self, held: Collection[Held]) -> bool:
        """Whether each of these jobs has ended, or runs in a later attempt."""
        if not held:
            return True
        rows = self._rows(sa.select(Job.id, Job.attempt, Job.state).where(Job.id.in_([job_id for job_id, _ in held])))
        now = {job_id: (attempt, JobState(state)) for job_id, attempt, state in rows}
        return all(now[job_id][1] in ENDED or now[job_id][0] > number for job_id, number in held)

    def published_after(self, instant: datetime, waiting: Collection[Held]) -> bool:
        """Whether none of these jobs waits any more for a message that was sent before `instant`."""
        ids = [job_id for job_id, _ in waiting]
        return not self._one(sa.select(sa.exists().where(Job.id.in_(ids), Job.published_at <= instant)))

    def claimed_after(self, instant: datetime) -> bool:
        """Whether an attempt began after `instant`."""
        return bool(self._one(sa.select(sa.exists().where(Attempt.started_at > instant))))

    def ended_after(self, instant: datetime) -> bool:
        """Whether a job ended after `instant`."""
        return bool(self._one(sa.select(sa.exists().where(Job.ended_at > instant))))

    def heard_of_after(self, worker: str, instant: datetime) -> bool:
        """Whether a worker's heart beat after `instant`."""
        return bool(self._one(sa.select(sa.exists().where(Worker.name == worker, Worker.seen_at > instant))))

    def leader(self) -> str | None:
        """Who leads the dispatchers."""
        rows = self._rows(sa.select(Office.holder).where(Office.role == "dispatcher"))
        return str(rows[0][0]) if rows else None

    def inside_a_write(self) -> bool:
        """Whether somebody sits in a transaction and does not move."""
        if self._engine.dialect.name == "postgresql":
            return bool(self._one(STALE_TRANSACTION))
        with self._engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            raw.execute("PRAGMA busy_timeout = 100")  # type: ignore[union-attr]
            try:
                raw.execute("BEGIN IMMEDIATE")  # type: ignore[union-attr]
                raw.execute("ROLLBACK")  # type: ignore[union-attr]
            except Exception:
                return True
            finally:
                connection.invalidate()
        return False

    # -- after it

    def problems(self, accepted: Collection[str], refused: Sequence[str]) -> list[str]:
        """Everything that should not be: lost, doubled, without an end, or found by the audit."""
        return [*refused, *self._lost(accepted), *self._ends(), *self._stored(), *self._store.audit()]

    def _lost(self, accepted: Collection[str]) -> list[str]:
        stored = {str(row[0]) for row in self._rows(sa.select(Job.id))}
        known = set(accepted)
        found = [f"{job_id}: accepted, and not in the database" for job_id in sorted(known - stored)]
        found += [f"{job_id}: in the database, and never acknowledged" for job_id in sorted(stored - known)]
        return found + (
            [f"{len(accepted) - len(known)} ids were handed out twice"] if len(known) < len(accepted) else []
        )

    def _ends(self) -> list[str]:
        rows = self._rows(sa.select(Job.id, Job.state).where(Job.state != JobState.SUCCEEDED))
        return [f"{job_id}: is {state}, and should have succeeded" for job_id, state in rows]

    def _stored(self) -> list[str]:
        succeeded = self.counts().get(JobState.SUCCEEDED, 0)
        num_generations = self.num_generations()
        return [f"{succeeded} jobs succeeded, {num_generations} are stored"] if num_generations != succeeded else []

    def num_generations(self) -> int:
        return int(self._one(sa.select(sa.func.count()).select_from(Generation)))

    def texts(self) -> dict[str, StoredText]:
        """Every stored text, by job."""
        columns = sa.select(Generation.job_id, Generation.completion, Generation.attempt, Generation.continuity)
        return {job_id: StoredText(*rest) for job_id, *rest in self._rows(columns)}

    def attempts(self) -> dict[str, int]:
        """Attempts by outcome."""
        rows = self._rows(sa.select(Attempt.outcome, sa.func.count()).group_by(Attempt.outcome))
        return {outcome or "running": num for outcome, num in rows}
