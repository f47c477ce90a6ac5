"""Periodic repair: leases that ran out, deadlines that passed.

Each step looks for rows without a lock, then takes what it found a chunk at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from jobs.states import JobState
from jobs.store import ending
from jobs.store.ending import Judged
from jobs.store.scope import RUNNING, AnyRow, Scope
from jobs.store.verdicts import LeaseRanOut, after
from jobs.tables import Job

CHUNK = 500
_QUEUED_WITH_DEADLINE = (
    sa.text("jobs.deadline_at IS NOT NULL AND jobs.ended_at IS NULL"),
    Job.state != JobState.RUNNING,  # Its worker keeps the deadline; or its lease runs out.
)


def earliest(scope: Scope) -> tuple[float | None, float | None]:
    """Seconds until the first lease runs out, and until the first deadline of a queued job passes: mostly some, and
    then a round is spared the looking. None: there is none."""
    lease = sa.select(Job.lease_expires_at).where(RUNNING).order_by(Job.lease_expires_at).limit(1)
    deadline = sa.select(Job.deadline_at).where(*_QUEUED_WITH_DEADLINE).order_by(Job.deadline_at).limit(1)
    row = scope.connection.execute(sa.select(lease.scalar_subquery(), deadline.scalar_subquery())).one()
    first, second = (None if at is None else (at - scope.now).total_seconds() for at in row)
    return first, second


def leases_ran_out(scope: Scope) -> Sequence[str]:
    """Find running jobs whose worker stayed silent past its lease."""
    query = sa.select(Job.id).where(RUNNING, Job.lease_expires_at <= scope.now)
    return scope.connection.scalars(query.order_by(Job.lease_expires_at).limit(CHUNK)).all()


def free_leases(scope: Scope, ids: Sequence[str]) -> list[tuple[str, JobState]]:
    """End the attempts of silent workers; answer where each job went.

    A row that another transaction holds is left alone: its worker is finishing or renewing it just now.
    """
    scope.lock_batches(scope.batches_of(ids))
    judged: list[Judged] = [
        (job, after(LeaseRanOut(), job, scope.now, scope.settings, scope.random))
        for job in scope.lock_jobs(ids, skip_locked=True)
        if job.state == JobState.RUNNING and job.lease_expires_at <= scope.now
    ]
    ending.apply(scope, judged)
    return [(job.id, verdict.state) for job, verdict in judged]


def deadlines_passed(scope: Scope) -> Sequence[str]:
    """Find queued jobs that can no longer start in time."""
    query = sa.select(Job.id).where(*_QUEUED_WITH_DEADLINE, Job.deadline_at <= scope.now)
    return scope.connection.scalars(query.order_by(Job.deadline_at).limit(CHUNK)).all()


def followed(job: AnyRow) -> bool:
    """Whether somebody may follow this job by its events: not so a batch line that never had a message out."""
    return job.batch_id is None or job.published_at is not None or job.attempt > 0
