"""Claims and renewals: who may work on a job, and until when."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import sqlalchemy as sa

from jobs.records import AttemptRef, ClaimedJob, Renewal
from jobs.states import JobState, Priority
from jobs.store.scope import AnyRow, Scope
from jobs.tables import Attempt, Job

LAST_ATTEMPT = sa.and_(Job.num_failures > 0, Job.num_failures + 1 >= Job.max_attempts)
"""The attempt that decides. It runs alone in its worker, so that it answers for itself only: a prompt that kills
workers would otherwise spend the attempts of those beside it."""


def claim(scope: Scope, job_id: str, worker: str, *, in_company: bool) -> ClaimedJob | None:
    """One guarded UPDATE decides: whoever's changes a row has the job, and its attempt's number fences the rest."""
    lease = timedelta(seconds=scope.settings.lease_seconds)
    row = scope.connection.execute(
        sa.update(Job)
        .where(
            Job.id == job_id,
            Job.state == JobState.QUEUED,
            Job.available_at <= scope.now,
            Job.cancel_requested_at.is_(None),
            sa.or_(Job.deadline_at.is_(None), Job.deadline_at > scope.now),
            sa.not_(LAST_ATTEMPT) if in_company else sa.true(),
        )
        .values(
            state=JobState.RUNNING,
            attempt=Job.attempt + 1,
            lease_expires_at=scope.now + lease,
            started_at=sa.func.coalesce(Job.started_at, scope.now),
            published_at=None,
        )
        .returning(*Job.__table__.columns)
    ).one_or_none()
    if row is None:
        return None
    attempt = {"job_id": job_id, "number": row.attempt, "worker": worker, "started_at": scope.now}
    scope.connection.execute(sa.insert(Attempt), [attempt])
    return _claimed(scope, row)


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
    )


def runs_alone(scope: Scope, job_id: str) -> bool:
    """Whether a queued job is on its last attempt."""
    query = sa.select(Job.id).where(Job.id == job_id, Job.state == JobState.QUEUED, LAST_ATTEMPT)
    return scope.connection.scalar(query) is not None


def deadline_passed(scope: Scope, job_id: str) -> bool:
    """Whether a job still waits although its deadline is over."""
    query = sa.select(Job.id).where(
        Job.id == job_id, Job.state == JobState.QUEUED, Job.deadline_at.is_not(None), Job.deadline_at <= scope.now
    )
    return scope.connection.scalar(query) is not None


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
