"""Deleting ended jobs: of what was asked and what was answered nothing stays.

What stays is a row that says that there was a job: its ids, its end, its instants and its counts. The counters of its
batch, the numbers of ends that result files are read by, and the audit rest on those. To everybody the job is gone.
Such a row goes as well after a while, unless it is a line: a batch keeps all its lines.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from jobs.errors import Deleted, NotEnded, NotFound
from jobs.states import ENDED, JobState
from jobs.store.scope import Scope
from jobs.tables import Attempt, Batch, Generation, Job

CHUNK = 500
"""Jobs that one transaction erases when their time is over: other writers get their turn between two."""

_FORGOTTEN: dict[str, Any] = {
    "prompt": "",  # Not NULL: a job has a prompt or messages, says a constraint.
    "messages": None,
    "parameters": {},
    "job_metadata": {},
    "origin": None,
    "traceparent": None,
}
"""All that a caller wrote, but for a line's `custom_id`: its place in the files of its batch. An error has no text."""
_UNTOLD: dict[str, Any] = {
    "completion": "",
    "prompt_token_ids": [],
    "completion_token_ids": [],
    "logprobs": None,
    "continuity": None,
    "fingerprint": None,
    "timings": {},
}


def delete(scope: Scope, job_id: str, owner: str | None) -> None:
    """Delete an ended job; one that was deleted stays so.

    Raises:
        NotFound: no such job of this owner.
        NotEnded: it is queued or running.
    """
    query = sa.select(Job.owner, Job.state, Job.deleted_at).where(Job.id == job_id)
    job = scope.connection.execute(query.with_for_update(key_share=True)).one_or_none()
    if job is None or owner not in {None, job.owner}:
        raise NotFound("job", job_id)
    if job.state not in ENDED:
        raise NotEnded(job_id, JobState(job.state))
    if job.deleted_at is None:
        erase(scope, [job_id])


def erase(scope: Scope, ids: Collection[str]) -> None:
    """Erase (locked) jobs that have ended."""
    scope.connection.execute(sa.update(Job).where(Job.id.in_(ids)).values(deleted_at=scope.now, **_FORGOTTEN))
    scope.connection.execute(sa.delete(Attempt).where(Attempt.job_id.in_(ids)))
    scope.connection.execute(sa.update(Generation).where(Generation.job_id.in_(ids)).values(**_UNTOLD))


def refuse_deleted(scope: Scope, job_id: str) -> None:
    """Raise Deleted for a job that was."""
    if scope.connection.scalar(sa.select(Job.deleted_at).where(Job.id == job_id)) is not None:
        raise Deleted("job", job_id)


def delete_old(scope: Scope) -> int:
    """Erase a chunk of the single jobs whose time is over; how many. Rows that somebody holds are found again."""
    before = _kept_since(scope)
    if before is None:
        return 0
    kept = sa.text("jobs.batch_id IS NULL AND jobs.ended_at IS NOT NULL AND jobs.deleted_at IS NULL")
    query = sa.select(Job.id).where(kept, Job.ended_at <= before).order_by(Job.ended_at).limit(CHUNK)
    ids = scope.connection.scalars(query.with_for_update(key_share=True, skip_locked=True)).all()
    if ids:
        erase(scope, ids)
    return len(ids)


def old_batches(scope: Scope, limit: int) -> Sequence[str]:
    """Batches whose lines' time is over: they have ended so long ago, and their files are whole."""
    before = _kept_since(scope)
    if before is None:
        return []
    kept = sa.text("batches.ended_at IS NOT NULL AND batches.lines_deleted_at IS NULL")
    whole = sa.or_(Batch.input_file_id.is_(None), Batch.finalized_at.is_not(None), Batch.failed_at.is_not(None))
    query = sa.select(Batch.id).where(kept, Batch.ended_at <= before, whole)
    return scope.connection.scalars(query.order_by(Batch.ended_at).limit(limit)).all()


def delete_lines(scope: Scope, batch_id: str, after: int) -> tuple[int, int | None]:
    """Erase a chunk of an old batch's lines, those past the line `after`: how many, and the last one looked at. None:
    there are no more, which is noted, or the batch is open again."""
    scope.lock_batches([batch_id])
    if scope.connection.scalar(sa.select(Batch.ended_at).where(Batch.id == batch_id)) is None:
        return 0, None
    query = sa.select(Job.id, Job.line_number).where(Job.batch_id == batch_id, Job.line_number > after)
    found = scope.connection.execute(query.order_by(Job.line_number).limit(CHUNK)).all()
    if not found:
        scope.connection.execute(sa.update(Batch).where(Batch.id == batch_id).values(lines_deleted_at=scope.now))
        return 0, None
    locked = scope.lock_jobs(line.id for line in found)
    ids = [job.id for job in locked if job.state in ENDED and job.deleted_at is None]
    if ids:
        erase(scope, ids)
    return len(ids), int(found[-1].line_number)


def _kept_since(scope: Scope) -> datetime | None:
    seconds = scope.settings.keep_jobs_seconds
    return None if seconds is None else scope.now - timedelta(seconds=seconds)
