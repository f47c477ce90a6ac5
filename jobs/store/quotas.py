"""What an owner has open, and whether it may have more.

Counted from what has an index for it, whatever waits: single jobs by their rows (a partial index holds the open ones
only), batches by theirs. A batch knows what all its lines ask for; of an open one, the share of its lines that have not
ended is counted, as if its lines were alike. So a million queued lines are one row here, and no statement that ends a
job keeps a counter of an owner's.

On PostgreSQL whoever asks for more under a limit holds the owner's advisory lock to the end of the transaction: two
calls at once cannot both take the last room. SQLite has one writer. The lock comes before those of batches and jobs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from jobs.errors import LimitExceeded
from jobs.keys import Quota
from jobs.records import NewJob
from jobs.store.dispatching import ALIVE_SECONDS
from jobs.store.progress import NUM_ENDED
from jobs.store.scope import Scope
from jobs.tables import Batch, Job, Worker

RETRY_SECONDS = (1, 60)
UNKNOWN_SECONDS = 5
_LOCK_CLASS = 0x51554F54  # "QUOT": apart from other advisory locks.

# Written out, as in `jobs.store.scope`: so that a planner takes the partial index.
_LOOSE = sa.text("jobs.batch_id IS NULL AND jobs.ended_at IS NULL")
_OPEN = sa.text("batches.ended_at IS NULL")


def tokens_asked(jobs: Iterable[NewJob]) -> int:
    """Prompt tokens and `max_tokens` of jobs that are to be stored."""
    return sum(job.num_prompt_tokens + int(job.parameters.get("max_tokens") or 0) for job in jobs)


def tokens_of(job: Mapping[str, Any]) -> int:
    """The same of a stored job, or of a line on its way to be one."""
    return int(job["num_prompt_tokens"]) + int(job["parameters"].get("max_tokens") or 0)


def admit(
    scope: Scope, owner: str, quota: Quota | None, *, num_tokens: int, num_lines: int = 0, opens_batch: bool = False
) -> None:
    """Let an owner have more open, or not. `num_lines`: of the batch that is made or grown, all of them.

    Raises:
        LimitExceeded: it would be more than the quota.
    """
    if quota is None or quota.is_open:
        return
    if quota.batch_lines is not None and num_lines > quota.batch_lines:
        raise LimitExceeded(
            "batch_lines", allowed=quota.batch_lines, held=0, asked=num_lines, retry_after_seconds=RETRY_SECONDS[1]
        )
    _lock(scope, owner)
    if opens_batch and quota.open_batches is not None:
        num_open = _num_open_batches(scope, owner)
        if num_open >= quota.open_batches:
            raise LimitExceeded(
                "open_batches", allowed=quota.open_batches, held=num_open, asked=1, retry_after_seconds=UNKNOWN_SECONDS
            )
    if quota.queued_tokens is not None:
        _admit_tokens(scope, owner, quota.queued_tokens, num_tokens)


def admit_again(scope: Scope, batch_id: str, quota: Quota | None) -> None:
    """Let a batch have its failed and expired lines back, or not. Raises LimitExceeded."""
    again = Batch.num_failed + Batch.num_expired
    share = sa.cast(again, sa.Double) / sa.func.nullif(Batch.num_total, 0)
    columns = sa.select(Batch.owner, Batch.ended_at, (Batch.num_tokens_asked * share).label("num_tokens"))
    batch = scope.connection.execute(columns.where(Batch.id == batch_id)).one()
    num_tokens = math.ceil(batch.num_tokens or 0)
    admit(scope, batch.owner, quota, num_tokens=num_tokens, opens_batch=batch.ended_at is not None)


def _admit_tokens(scope: Scope, owner: str, allowed: int, num_tokens: int) -> None:
    held = queued_tokens(scope, owner)
    over = held + num_tokens - allowed
    if over > 0:
        raise LimitExceeded(
            "queued_tokens",
            allowed=allowed,
            held=held,
            asked=num_tokens,
            retry_after_seconds=_seconds_for(scope, over) if num_tokens <= allowed else RETRY_SECONDS[1],
        )


def _lock(scope: Scope, owner: str) -> None:
    if scope.connection.dialect.name == "postgresql":
        statement = sa.text("SELECT pg_advisory_xact_lock(:kind, hashtext(:owner))")
        scope.connection.execute(statement, {"kind": _LOCK_CLASS, "owner": owner})


def queued_tokens(scope: Scope, owner: str) -> int:
    """Prompt tokens and `max_tokens` of what an owner has queued or running."""
    asked = Job.num_prompt_tokens + sa.func.coalesce(Job.parameters["max_tokens"].as_integer(), 0)
    loose = scope.connection.scalar(sa.select(sa.func.sum(asked)).where(Job.owner == owner, _LOOSE))
    left = sa.cast(Batch.num_total - NUM_ENDED, sa.Double) / Batch.num_total
    in_batches = scope.connection.scalar(
        sa.select(sa.func.sum(Batch.num_tokens_asked * left)).where(Batch.owner == owner, _OPEN, Batch.num_total > 0)
    )
    return int(loose or 0) + math.ceil(in_batches or 0)


def _num_open_batches(scope: Scope, owner: str) -> int:
    query = sa.select(sa.func.count()).select_from(Batch).where(Batch.owner == owner, _OPEN)
    return scope.connection.scalar(query) or 0


def _seconds_for(scope: Scope, num_tokens: int) -> int:
    """When so many tokens may have been worked off, at the pace of all living workers."""
    alive = Worker.seen_at >= scope.now - timedelta(seconds=ALIVE_SECONDS)
    pace = scope.connection.scalar(sa.select(sa.func.sum(Worker.tokens_per_second)).where(alive))
    least, most = RETRY_SECONDS
    return max(least, min(most, math.ceil(num_tokens / pace))) if pace else UNKNOWN_SECONDS
