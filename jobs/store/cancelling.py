"""What people ask for: cancel a job or a batch.

A batch may hold a million lines. Marking it is what stops it: nothing of a marked batch is dispatched, and the sweep
ends what waits, a bounded number of chunks a round. The caller's own call ends what could still start (the lines with
a message out), asks the running ones to end, and a first chunk of the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from jobs.errors import NotFound
from jobs.states import JobState
from jobs.store import deleting, ending
from jobs.store.scope import PUBLISHED, AnyRow, Scope
from jobs.tables import Batch, Job

CHUNK = 500
"""Lines of a batch that one transaction ends: other writers get their turn between two."""


def check_owner(scope: Scope, table: type[Job | Batch], identity: str, owner: str | None) -> None:
    """Raise NotFound unless the object is there and belongs to `owner` (None: anybody's)."""
    found = scope.connection.scalar(sa.select(table.owner).where(table.id == identity))
    if found is None or owner not in {None, found}:
        raise NotFound("job" if table is Job else "batch", identity)
    if table is Job:
        deleting.refuse_deleted(scope, identity)


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


def marked(scope: Scope, batch_id: str) -> bool:
    """Whether somebody asked for the batch's end and it has not come yet."""
    query = sa.select(Batch.id).where(
        Batch.id == batch_id, Batch.ended_at.is_(None), Batch.cancel_requested_at.is_not(None)
    )
    return scope.connection.scalar(query) is not None


def cancel_lines(scope: Scope, batch_id: str) -> list[AnyRow]:
    """Cancel a chunk of a marked batch's queued lines, those with a message out first, and ask all its running ones
    to end; the former, as they were. An empty answer is the last one."""
    scope.lock_batches([batch_id])
    ids = list(_published(scope, batch_id))
    ids += _waiting(scope, batch_id, CHUNK - len(ids))
    ended = ending.end_queued(scope, set(ids), JobState.CANCELLED)
    running = sa.select(Job.id).where(
        Job.batch_id == batch_id, Job.state == JobState.RUNNING, Job.cancel_requested_at.is_(None)
    )
    asked = [job.id for job in scope.lock_jobs(scope.connection.scalars(running).all())]
    if asked:
        _ask(scope, Job.id.in_(asked))
    return ended


def _published(scope: Scope, batch_id: str) -> Sequence[str]:
    """Lines with a message out: few, but in a batch of a million. The expression keeps a planner from going through
    the batch to find them."""
    of_batch = sa.func.coalesce(Job.batch_id, "") == batch_id
    return scope.connection.scalars(sa.select(Job.id).where(PUBLISHED, of_batch).limit(CHUNK)).all()


def _waiting(scope: Scope, batch_id: str, limit: int) -> Sequence[str]:
    query = sa.select(Job.id).where(Job.batch_id == batch_id, Job.state == JobState.QUEUED)
    return scope.connection.scalars(query.order_by(Job.line_number).limit(limit)).all()


def batches_half_cancelled(scope: Scope, limit: int) -> Sequence[str]:
    """Find batches that are marked as cancelled and still have lines that wait, or that run and were never asked.

    One batch at a time: a planner that is asked for all of them in one statement may go through every queued job.
    """
    open_ones = sa.select(Batch.id).where(sa.text("batches.ended_at IS NULL"), Batch.cancel_requested_at.is_not(None))
    found = scope.connection.scalars(open_ones.order_by(Batch.id).limit(limit)).all()
    return [batch_id for batch_id in found if _half_cancelled(scope, batch_id)]


def _half_cancelled(scope: Scope, batch_id: str) -> bool:
    unasked = sa.select(Job.id).where(
        Job.batch_id == batch_id, Job.state == JobState.RUNNING, Job.cancel_requested_at.is_(None)
    )
    return bool(_waiting(scope, batch_id, 1)) or scope.connection.scalar(unasked.limit(1)) is not None
