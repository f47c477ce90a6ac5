"""What people ask for: cancel a job or a batch, and bring a failed job back."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from jobs.errors import InvalidRequest, NotFound
from jobs.states import JobState
from jobs.store import ending
from jobs.store.scope import Scope
from jobs.tables import Batch, Job

CHUNK = 2000
"""Lines of a batch that one transaction cancels: other writers get their turn between two."""


def check_owner(scope: Scope, table: type[Job | Batch], identity: str, owner: str | None) -> None:
    """Raise NotFound unless the object exists and belongs to `owner` (None: anybody's)."""
    found = scope.connection.scalar(sa.select(table.owner).where(table.id == identity))
    if found is None or owner not in {None, found}:
        raise NotFound("job" if table is Job else "batch", identity)


def cancel(scope: Scope, job_id: str) -> None:
    """Queued: ended at once. Running: its worker is asked to end it. Ended: nothing."""
    scope.lock_batches(scope.batches_of([job_id]))
    (job,) = scope.lock_jobs([job_id])
    if job.state == JobState.QUEUED:
        ending.end_queued(scope, [job_id], JobState.CANCELLED)
    _ask(scope, Job.id == job_id)


def _ask(scope: Scope, which: sa.ColumnElement[bool]) -> None:
    asked = sa.func.coalesce(Job.cancel_requested_at, scope.now)
    scope.connection.execute(
        sa.update(Job).where(which, Job.state == JobState.RUNNING).values(cancel_requested_at=asked)
    )


def request_batch(scope: Scope, batch_id: str) -> None:
    """Mark the batch, first of all: from here on the sweep would finish the work of a caller that dies."""
    asked: sa.ColumnElement[datetime] = sa.func.coalesce(Batch.cancel_requested_at, scope.now)
    scope.connection.execute(
        sa.update(Batch).where(Batch.id == batch_id, Batch.ended_at.is_(None)).values(cancel_requested_at=asked)
    )


def cancel_lines(scope: Scope, batch_id: str) -> list[str]:
    """Cancel a chunk of a marked batch's queued lines, and ask the running ones to end; ids of the former.

    An empty answer is the last one.
    """
    scope.lock_batches([batch_id])
    query = sa.select(Job.id).where(Job.batch_id == batch_id, Job.state == JobState.QUEUED).limit(CHUNK)
    ended = ending.end_queued(scope, scope.connection.scalars(query).all(), JobState.CANCELLED)
    running = sa.select(Job.id).where(
        Job.batch_id == batch_id, Job.state == JobState.RUNNING, Job.cancel_requested_at.is_(None)
    )
    asked = [job.id for job in scope.lock_jobs(scope.connection.scalars(running).all())]
    if asked:
        _ask(scope, Job.id.in_(asked))
    return ended


def requeue(scope: Scope, job_id: str) -> None:
    """Bring a failed job back with its budget whole. Its attempts stay as they were: the next number follows."""
    scope.lock_batches(scope.batches_of([job_id]))
    (job,) = scope.lock_jobs([job_id])
    if job.state != JobState.FAILED:
        raise InvalidRequest(f"Only a failed job can be queued again; {job_id} is {job.state}.", param="id")
    over = job.deadline_at is not None and job.deadline_at <= scope.now
    scope.connection.execute(
        sa.update(Job)
        .where(Job.id == job_id, Job.state == JobState.FAILED)
        .values(
            state=JobState.QUEUED,
            num_failures=0,
            error=None,
            ended_at=None,
            available_at=scope.now,
            published_at=None,
            cancel_requested_at=None,
            # Whoever asks for it again wants it after its deadline as well.
            deadline_at=None if over else job.deadline_at,
        )
    )
    ending.count(scope, [(job.batch_id, JobState.FAILED)], step=-1)
