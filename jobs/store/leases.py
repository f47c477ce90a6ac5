"""Claims and renewals: who may work on a job, and until when."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from jobs.records import AttemptRef, ClaimedJob, Renewal
from jobs.states import JobState, Priority
from jobs.store.counts import Deed
from jobs.store.scope import RUNNING, AnyRow, Scope
from jobs.tables import Attempt, Job

LAST_ATTEMPT = sa.and_(Job.num_failures > 0, Job.num_failures + 1 >= Job.max_attempts)
"""The attempt that decides. It runs alone in its worker, so that it answers for itself only: a prompt that kills
workers would otherwise spend the attempts of those beside it."""
MAX_HELD = 10_000
"""Jobs that run which are looked at to say who holds how many."""

_LEASE_UNTIL: sa.BindParameter[datetime] = sa.bindparam("lease_until", type_=Job.lease_expires_at.type)
_NOW: sa.BindParameter[datetime] = sa.bindparam("now", type_=Job.available_at.type)
_IDS: sa.BindParameter[Sequence[str]] = sa.bindparam("ids", expanding=True)

_CLAIM = (
    sa.update(Job)
    .where(
        Job.id.in_(_IDS),
        Job.state == JobState.QUEUED,
        Job.available_at <= _NOW,
        Job.cancel_requested_at.is_(None),
        sa.or_(Job.deadline_at.is_(None), Job.deadline_at > _NOW),
    )
    .values(
        state=JobState.RUNNING,
        attempt=Job.attempt + 1,
        lease_expires_at=_LEASE_UNTIL,
        started_at=sa.func.coalesce(Job.started_at, _NOW),
        published_at=None,
    )
    .returning(
        Job.id,
        Job.attempt,
        Job.model,
        Job.prompt,
        Job.messages,
        Job.parameters,
        Job.seed,
        Job.priority,
        Job.deadline_at,
        Job.created_at,
        Job.available_at,
        Job.row_class,
        Job.owner,
    )
    .execution_options(synchronize_session=False)
)
_CLAIM_IN_COMPANY = _CLAIM.where(sa.not_(LAST_ATTEMPT))
_LOCK = sa.select(Job.id).where(Job.id.in_(_IDS)).order_by(Job.id).with_for_update(key_share=True)
_BEGIN_ATTEMPTS = sa.insert(Attempt).from_select(
    ["job_id", "number", "worker", "started_at"],
    sa.select(
        Job.id,
        Job.attempt,
        sa.bindparam("the_worker", type_=Attempt.worker.type),
        sa.bindparam("began_at", type_=Attempt.started_at.type),
    ).where(Job.id.in_(_IDS)),
)
"""From the rows that this transaction has just taken, and holds."""
_OVERDUE = sa.select(Job.id).where(Job.id.in_(_IDS), Job.state == JobState.QUEUED, Job.deadline_at <= _NOW)


def claim_many(scope: Scope, job_ids: Collection[str], worker: str, *, in_company: bool) -> dict[str, ClaimedJob]:
    """One guarded UPDATE decides: whoever's changes a row has the job, and its attempt's number fences the rest.

    Answers the jobs that were taken. Several rows are locked by id first, so that no two transactions meet crosswise.
    """
    if len(job_ids) > 1 and scope.connection.dialect.name == "postgresql":
        scope.connection.execute(_LOCK, {"ids": list(job_ids)})
    until = scope.now + timedelta(seconds=scope.settings.lease_seconds)
    rows = scope.connection.execute(
        _CLAIM_IN_COMPANY if in_company else _CLAIM,
        {"ids": list(job_ids), "now": scope.now, "lease_until": until},
    ).all()
    if rows:
        taken = {"ids": [row.id for row in rows], "the_worker": worker, "began_at": scope.now}
        scope.connection.execute(_BEGIN_ATTEMPTS, taken)
        scope.counts.update((Deed.STARTED, row.priority) for row in rows)
    return {row.id: _claimed(scope, row) for row in rows}


def _claimed(scope: Scope, row: AnyRow) -> ClaimedJob:
    deadline_at = row.deadline_at
    return ClaimedJob(
        ref=AttemptRef(row.id, row.attempt),
        model=row.model,
        prompt=row.prompt,
        messages=row.messages,
        parameters=row.parameters,
        seed=row.seed,
        priority=Priority(row.priority),
        lease_seconds=scope.settings.lease_seconds,
        deadline_at=deadline_at,
        seconds_to_deadline=None if deadline_at is None else (deadline_at - scope.now).total_seconds(),
        created_at=row.created_at,
        seconds_queued=max(0.0, (scope.now - row.available_at).total_seconds()),
        row_class=row.row_class,
        owner=row.owner,
    )


def runs_alone(scope: Scope, job_id: str) -> bool:
    """Whether a queued job is on its last attempt."""
    query = sa.select(Job.id).where(Job.id == job_id, Job.state == JobState.QUEUED, LAST_ATTEMPT)
    return scope.connection.scalar(query) is not None


def overdue(scope: Scope, job_ids: Collection[str]) -> Sequence[str]:
    """Which of these jobs still wait although their deadline is over."""
    return scope.connection.scalars(_OVERDUE, {"ids": list(job_ids), "now": scope.now}).all()


def renew(scope: Scope, refs: Collection[AttemptRef]) -> Renewal:
    """Extend every lease that is still held, all of them together."""
    wanted = {ref.job_id: ref for ref in refs}
    rows = [
        row for row in scope.lock_jobs(wanted) if row.state == JobState.RUNNING and row.attempt == wanted[row.id].number
    ]
    if rows:
        lease = timedelta(seconds=scope.settings.lease_seconds)
        scope.connection.execute(
            sa.update(Job)
            .where(Job.id.in_([row.id for row in rows]), Job.state == JobState.RUNNING)
            .values(lease_expires_at=scope.now + lease)
        )
    held = frozenset(wanted[row.id] for row in rows)
    asked = frozenset(wanted[row.id] for row in rows if row.cancel_requested_at is not None)
    return Renewal(held=held, lost=frozenset(refs) - held, cancel_requested=asked)


def held_by_workers(scope: Scope, owner: str | None) -> dict[str, int]:
    """How many jobs each worker holds; as many rows are read as all of them hold."""
    held = sa.select(Job.id, Job.attempt, Job.owner).where(RUNNING).order_by(Job.lease_expires_at)
    first = held.limit(MAX_HELD).subquery()
    query = sa.select(Attempt.worker, sa.func.count().label("num")).join(
        first, sa.and_(Attempt.job_id == first.c.id, Attempt.number == first.c.attempt)
    )
    if owner is not None:
        query = query.where(first.c.owner == owner)
    return {row.worker: row.num for row in scope.connection.execute(query.group_by(Attempt.worker))}
