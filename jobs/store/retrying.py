"""Running ended lines again: one job that an operator brings back, or all of a batch that failed or came too late.

A batch that gets lines back is open again: its counters go down, its files may grow, and its error file is written
anew, because the old one names lines that have not failed after all. Numbers of ends are never used again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from jobs.errors import Deleted, InvalidRequest
from jobs.states import JobState
from jobs.store import ending
from jobs.store.scope import AnyRow, Scope
from jobs.tables import Batch, File, Generation, Job
from jobs.windows import window_seconds

CHUNK = 1000
"""Lines that one transaction brings back."""


def requeue(scope: Scope, job_id: str) -> None:
    """Bring a failed job back with its budget whole. Its attempts stay as they were: the next number follows."""
    scope.lock_batches(scope.batches_of([job_id]))
    (job,) = scope.lock_jobs([job_id])
    if job.deleted_at is not None:
        raise Deleted("job", job_id)
    if job.state != JobState.FAILED:
        raise InvalidRequest(f"Only a failed job can be queued again; {job_id} is {job.state}.", param="id")
    if job.attempt == 0:
        raise InvalidRequest(f"The line of {job_id} is not valid; it can never run.", param="id")
    # Whoever asks for it again wants it after its deadline as well.
    over = job.deadline_at is not None and job.deadline_at <= scope.now
    _bring_back(scope, [job], {"deadline_at": None} if over else {})
    if job.batch_id is not None:
        _reopen(scope, job.batch_id, [job])


def begin(scope: Scope, batch_id: str) -> None:
    """Check that the batch can have lines back, and renew its window.

    Raises:
        InvalidRequest: it was cancelled, or refused as a whole.
    """
    scope.lock_batches([batch_id])
    batch = scope.connection.execute(
        sa.select(Batch.cancel_requested_at, Batch.failed_at, Batch.completion_window, Batch.lines_deleted_at).where(
            Batch.id == batch_id
        )
    ).one()
    if batch.lines_deleted_at is not None:
        raise InvalidRequest(f"The lines of the batch {batch_id!r} were deleted, as they were old.", param="id")
    if batch.cancel_requested_at is not None:
        raise InvalidRequest(f"The batch {batch_id!r} was cancelled; its lines are not run again.", param="id")
    if batch.failed_at is not None:
        raise InvalidRequest(f"The batch {batch_id!r} was refused; none of its lines can run.", param="id")
    if batch.completion_window is not None:
        expires_at = scope.now + timedelta(seconds=window_seconds(batch.completion_window))
        scope.connection.execute(sa.update(Batch).where(Batch.id == batch_id).values(expires_at=expires_at))


def retry_lines(scope: Scope, batch_id: str, state: JobState, after: int) -> tuple[int, int | None]:
    """Bring back a chunk of a batch's lines in `state` past the line `after`.

    Answers how many, and the last line looked at: None when there are no more, or when the batch was cancelled since.
    """
    scope.lock_batches([batch_id])
    batch = scope.connection.execute(
        sa.select(Batch.expires_at, Batch.cancel_requested_at).where(Batch.id == batch_id)
    ).one()
    found = _lines(scope, batch_id, state, after)
    if not found or batch.cancel_requested_at is not None:
        return 0, None
    jobs = [job for job in scope.lock_jobs(line.id for line in found) if job.state == state and _can_run(job)]
    if jobs:
        _bring_back(scope, jobs, {"deadline_at": batch.expires_at})
        _reopen(scope, batch_id, jobs)
    return len(jobs), int(found[-1].line_number)


def _can_run(job: AnyRow) -> bool:
    """Not so a line that failed at birth: no attempt of it was ever made. Nor one that was deleted."""
    return bool(job.state != JobState.FAILED or job.attempt > 0) and job.deleted_at is None


def extend_deadlines(scope: Scope, batch_id: str, after: int) -> int | None:
    """Give a chunk of the lines that still wait past the line `after` the batch's new deadline; the last line looked
    at, None at the end."""
    scope.lock_batches([batch_id])
    expires_at = scope.connection.scalar(sa.select(Batch.expires_at).where(Batch.id == batch_id))
    found = _lines(scope, batch_id, JobState.QUEUED, after)
    if not found or expires_at is None:
        return None
    locked = [job.id for job in scope.lock_jobs((line.id for line in found), skip_locked=True)]
    scope.connection.execute(
        sa.update(Job)
        .where(Job.id.in_(locked), Job.state == JobState.QUEUED, Job.deadline_at < expires_at)
        .values(deadline_at=expires_at)
    )
    return int(found[-1].line_number)


def _lines(scope: Scope, batch_id: str, state: JobState, after: int) -> Sequence[AnyRow]:
    query = sa.select(Job.id, Job.line_number).where(
        Job.batch_id == batch_id, Job.state == state, Job.line_number > after
    )
    return scope.connection.execute(query.order_by(Job.line_number).limit(CHUNK)).all()


def _bring_back(scope: Scope, jobs: Sequence[AnyRow], others: dict[str, Any]) -> None:
    ids = [job.id for job in jobs]
    scope.connection.execute(
        sa.update(Job)
        .where(Job.id.in_(ids), Job.state.in_({job.state for job in jobs}))
        .values(
            state=JobState.QUEUED,
            num_failures=0,
            error=None,
            ended_at=None,
            end_number=None,
            available_at=scope.now,
            published_at=None,
            cancel_requested_at=None,
            **others,
        )
    )


def _reopen(scope: Scope, batch_id: str, jobs: Sequence[AnyRow]) -> None:
    """Count the (locked) batch's lines back, forget the text they had, and let its files be written on."""
    num_prompt, num_completion = _drop_texts(scope, [job.id for job in jobs])
    counts = Counter(JobState(job.state) for job in jobs)
    values: dict[Any, Any] = {
        ending.COUNTERS[state]: ending.COUNTERS[state] - number for state, number in counts.items()
    }
    values |= {
        Batch.num_prompt_tokens: Batch.num_prompt_tokens - num_prompt,
        Batch.num_completion_tokens: Batch.num_completion_tokens - num_completion,
        Batch.ended_at: None,
        Batch.finalized_at: None,
    }
    values |= _reopened_files(scope, batch_id)
    scope.connection.execute(sa.update(Batch).where(Batch.id == batch_id).values(values))


def _reopened_files(scope: Scope, batch_id: str) -> dict[Any, Any]:
    """The error file stays as it is, and another one will be written. So does an output file in the order of the input;
    one in the order of ends just grows."""
    columns = sa.select(Batch.output_file_id, Batch.error_file_id, Batch.output_order)
    batch = scope.connection.execute(columns.where(Batch.id == batch_id)).one()
    values: dict[Any, Any] = {Batch.error_cursor: 0, Batch.error_file_id: None}
    left = [batch.error_file_id]
    if batch.output_order == "input":
        values |= {Batch.output_cursor: 0, Batch.output_file_id: None}
        left.append(batch.output_file_id)
    elif batch.output_file_id is not None and not _mark_complete(scope, batch.output_file_id, complete=False):
        values[Batch.output_file_id] = None  # Deleted meanwhile: what comes now goes into a new one.
    for file_id in left:
        if file_id is not None:
            _mark_complete(scope, file_id, complete=True)
    return values


def _drop_texts(scope: Scope, ids: Sequence[str]) -> tuple[int, int]:
    """Delete the unfinished texts of lines that run again; how many tokens they had, prompt and completion."""
    deleted = scope.connection.execute(
        sa.delete(Generation)
        .where(Generation.job_id.in_(ids))
        .returning(Generation.num_prompt_tokens, Generation.num_completion_tokens)
    ).all()
    return sum(row[0] for row in deleted), sum(row[1] for row in deleted)


def _mark_complete(scope: Scope, file_id: str, *, complete: bool) -> bool:
    """Mark a file as whole, or as growing again; False when it was deleted."""
    update = (
        sa.update(File)
        .where(File.id == file_id, File.deleted_at.is_(None))
        .values(complete_at=sa.func.coalesce(File.complete_at, scope.now) if complete else None)
    )
    return scope.connection.execute(update.returning(File.id)).first() is not None
