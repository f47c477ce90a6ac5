"""Batches made from files: their making, their refusal, their lines as they end, and the files these lines go to.

Whatever moves a batch on is guarded by where it stood: of two clerks that do the same work, one wins and the other's
call changes nothing. Locks: batch, then its files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session, defer

from jobs.ends import EndedLine
from jobs.errors import InvalidRequest, NotFound
from jobs.ids import new_id
from jobs.keys import Quota
from jobs.records import NewBatch, NewSegment
from jobs.states import JobState
from jobs.store import files, idempotency, numbering, outbox, quotas
from jobs.store.idempotency import Call
from jobs.store.intake import check_text
from jobs.store.reading import rows
from jobs.store.scope import UNFINISHED, AnyRow, Scope
from jobs.tables import Attempt, Batch, File, FileSegment, Generation, Job, Recipe
from jobs.tracing import traceparent

Kind = Literal["output", "error"]
_CURSORS = {"output": Batch.output_cursor, "error": Batch.error_cursor}
_FILES = {"output": Batch.output_file_id, "error": Batch.error_file_id}


def create(scope: Scope, new: NewBatch, *, owner: str, call: Call, quota: Quota | None = None) -> tuple[str, bool]:
    """Make a batch of a file's lines; its id, and whether an earlier call had made it. See `Store.create_batch`."""
    check_text("idempotency_key", call.key)
    check_text("metadata", new.metadata)
    batch_id = new_id("batch")
    made = idempotency.earlier(scope, idempotency.BATCHES, owner, call, [batch_id])
    if made is not None:
        return made[0], True
    file = _input(scope, new.input_file_id, owner)
    num_valid = file.urls.get(new.endpoint, 0)
    errors = _refusal(new, file.num_lines, num_valid)
    num_tokens = file.tokens.get(new.endpoint, 0)
    if errors is None:
        quotas.admit(scope, owner, quota, num_tokens=num_tokens, num_lines=file.num_lines, opens_batch=True)
    refused_at = None if errors is None else scope.now
    row = {
        "id": batch_id,
        "owner": owner,
        "num_total": file.num_lines,
        "num_tokens_asked": num_tokens,
        "created_at": scope.now,
        "metadata": dict(new.metadata),
        "endpoint": new.endpoint,
        "model": new.model,
        "weight": new.weight,
        "completion_window": new.completion_window,
        "expires_at": None if new.window_seconds is None else scope.now + timedelta(seconds=new.window_seconds),
        "input_file_id": new.input_file_id,
        "output_order": new.output_order,
        "output_expires_after_seconds": new.output_expires_after_seconds,
        "failed_at": refused_at,
        "ended_at": refused_at,
        "errors": errors,
        "traceparent": traceparent(),
    }
    scope.connection.execute(sa.insert(Batch), [row])
    if errors is not None:
        outbox.batch_ended(scope, batch_id)
    return batch_id, False


def _input(scope: Scope, file_id: str, owner: str) -> AnyRow:
    """Read an input file, and keep it from being deleted until the batch is there."""
    columns = sa.select(File.owner, File.purpose, File.num_lines, File.urls, File.tokens)
    query = columns.where(File.id == file_id, File.deleted_at.is_(None))
    file = scope.connection.execute(query.with_for_update(read=True)).one_or_none()
    if file is None or file.owner != owner:
        raise NotFound("file", file_id)
    if file.purpose != files.INPUT:
        message = f"input_file_id names a file with the purpose {file.purpose!r}; it must be 'batch'."
        raise InvalidRequest(message, param="input_file_id")
    return file


def _refusal(new: NewBatch, num_lines: int, num_valid: int) -> list[dict[str, Any]] | None:
    """Why the batch cannot run at all, or None. Whoever knows the lines may list them later (`refuse`)."""
    if num_valid == 0:
        code, message = "no_valid_line", f"None of the {num_lines} lines of the file can run at {new.endpoint}."
    elif new.on_invalid == "reject" and num_valid < num_lines:
        code = "invalid_lines"
        message = f"{num_lines - num_valid} of {num_lines} lines cannot run at {new.endpoint}; on_invalid is 'reject'."
    else:
        return None
    return [{"code": code, "message": message, "param": "input_file_id", "line": None}]


def refuse(scope: Scope, batch_id: str, errors: Sequence[Mapping[str, Any]]) -> bool:
    """Refuse a batch of which no line was taken in, or say in more detail why it was refused."""
    scope.lock_batches([batch_id])
    refused_before = scope.connection.scalar(sa.select(Batch.failed_at).where(Batch.id == batch_id)) is not None
    update = (
        sa.update(Batch)
        .where(Batch.id == batch_id, Batch.num_taken == 0, Batch.taken_at.is_(None))
        .values(
            failed_at=sa.func.coalesce(Batch.failed_at, scope.now),
            ended_at=sa.func.coalesce(Batch.ended_at, scope.now),
            errors=[dict(error) for error in errors],
        )
    )
    refused = scope.connection.execute(update.returning(Batch.id)).first() is not None
    if refused and not refused_before:
        outbox.batch_ended(scope, batch_id)
    return refused


def page(scope: Scope, *, owner: str | None, limit: int, after: str | None) -> tuple[list[Batch], bool]:
    """A page of batches, newest first, and whether more follow. Raises NotFound for a cursor of nobody's."""
    query = sa.select(Batch)
    if owner is not None:
        query = query.where(Batch.owner == owner)
    if after is not None:
        cursor = scope.connection.execute(sa.select(Batch.id, Batch.owner).where(Batch.id == after)).one_or_none()
        if cursor is None or owner not in {None, cursor.owner}:
            raise NotFound("batch", after)
        query = query.where(Batch.id < after)
    found = rows(scope, query.order_by(Batch.id.desc()).limit(limit + 1))
    return list(found[:limit]), len(found) > limit


def unfinished(scope: Scope) -> list[Batch]:
    """Batches with lines to take in or files to write, the oldest first."""
    return list(rows(scope, sa.select(Batch).where(UNFINISHED).order_by(Batch.id)))


def ended_lines(scope: Scope, batch_id: str, *, after: int, limit: int, succeeded: bool | None) -> list[EndedLine]:
    """Lines in the order of their ends, past the end numbered `after`."""
    query = _lines(batch_id, succeeded).where(Job.end_number > after)
    return _read(scope, query.order_by(Job.end_number).limit(limit))


def lines_in_order(
    scope: Scope, batch_id: str, *, after_line: int, limit: int, succeeded: bool | None
) -> list[EndedLine]:
    """Ended lines in the order of the input, past the line `after_line`."""
    query = _lines(batch_id, succeeded).where(Job.line_number > after_line)
    return _read(scope, query.order_by(Job.line_number).limit(limit))


def _lines(batch_id: str, succeeded: bool | None) -> sa.Select[Job, Generation, str]:
    last = sa.and_(Attempt.job_id == Job.id, Attempt.number == Job.attempt)
    query = (
        sa.select(Job, Generation, Attempt.worker)
        .outerjoin(Generation, Generation.job_id == Job.id)
        .outerjoin(Attempt, last)
        .options(defer(Generation.prompt_token_ids), defer(Generation.completion_token_ids))
        .where(Job.batch_id == batch_id, sa.text("jobs.end_number IS NOT NULL"))
    )
    if succeeded is None:
        return query
    return query.where(Job.state == JobState.SUCCEEDED if succeeded else Job.state != JobState.SUCCEEDED)


def _read(scope: Scope, query: sa.Select[Job, Generation, str]) -> list[EndedLine]:
    with Session(bind=scope.connection, expire_on_commit=False) as session:
        found = [(job, text, worker) for job, text, worker in session.execute(query)]
        session.expunge_all()
    exact = _exactness(scope, {text.recipe_id for _, text, _ in found if text is not None})
    return [
        EndedLine(job, text, worker, job.end_number or 0, None if text is None else exact[text.recipe_id])
        for job, text, worker in found
    ]


def _exactness(scope: Scope, recipe_ids: Collection[str]) -> dict[str, bool]:
    """What the recipes of some lines say; they are the same few for a whole batch."""
    query = sa.select(Recipe.id, Recipe.body).where(Recipe.id.in_(recipe_ids))
    return {row.id: bool(row.body.get("exact")) for row in scope.connection.execute(query)}


def append(scope: Scope, batch_id: str, kind: Kind, segment: NewSegment | None, *, after: int, cursor: int) -> bool:
    """Add a stored segment to the batch's file and move its cursor. See `Store.append_output`."""
    scope.lock_batches([batch_id])
    column = _CURSORS[kind]
    batch = rows(scope, sa.select(Batch).where(Batch.id == batch_id, column == after, Batch.finalized_at.is_(None)))
    if not batch or not after <= cursor <= batch[0].num_ends:
        return False
    if _num_lines(scope, batch[0], kind, after, cursor) != (0 if segment is None else segment.num_lines):
        return False  # Some of the lines are to run again: their ends have no number any more.
    values: dict[Any, Any] = {column: cursor}
    if segment is not None:
        if not _add_segment(scope, batch[0], kind, segment):
            return False
        values[_FILES[kind]] = segment.file_id
    scope.connection.execute(sa.update(Batch).where(Batch.id == batch_id).values(values))
    return True


def _num_lines(scope: Scope, batch: Batch, kind: Kind, after: int, cursor: int) -> int:
    """How many ends between two cursors belong into the file. The whole of an output file the counter knows: the rows
    of a large batch are not gone through under its lock."""
    succeeded = kind == "output"
    if succeeded and after == 0 and cursor == batch.num_ends:
        return batch.num_succeeded
    query = sa.select(sa.func.count()).select_from(Job).where(Job.batch_id == batch.id)
    query = query.where(sa.text("jobs.end_number IS NOT NULL"), Job.end_number > after, Job.end_number <= cursor)
    which = Job.state == JobState.SUCCEEDED if succeeded else Job.state != JobState.SUCCEEDED
    return scope.connection.scalar(query.where(which)) or 0


def _add_segment(scope: Scope, batch: Batch, kind: Kind, segment: NewSegment) -> bool:
    known = batch.output_file_id if kind == "output" else batch.error_file_id
    if known is None and segment.start_byte == 0:
        scope.connection.execute(sa.insert(File), [_result_file(scope, batch, kind, segment)])
    elif known != segment.file_id or not _grow(scope, segment):
        return False
    added = {"file_id": segment.file_id, "start_byte": segment.start_byte, "num_bytes": segment.num_bytes}
    scope.connection.execute(sa.insert(FileSegment), [added | {"object_name": segment.object_name}])
    return True


def _result_file(scope: Scope, batch: Batch, kind: Kind, segment: NewSegment) -> dict[str, Any]:
    seconds = batch.output_expires_after_seconds
    return {
        "id": segment.file_id,
        "owner": batch.owner,
        "purpose": files.OUTPUT,
        "filename": f"{batch.id}_{kind}.jsonl",
        "num_bytes": segment.num_bytes,
        "num_lines": segment.num_lines,
        "created_at": scope.now,
        "expires_at": None if seconds is None else scope.now + timedelta(seconds=seconds),
        "batch_id": batch.id,
    }


def _grow(scope: Scope, segment: NewSegment) -> bool:
    update = (
        sa.update(File)
        .where(File.id == segment.file_id, File.num_bytes == segment.start_byte, File.complete_at.is_(None))
        .values(num_bytes=File.num_bytes + segment.num_bytes, num_lines=File.num_lines + segment.num_lines)
    )
    return scope.connection.execute(update.returning(File.id)).first() is not None


def finalize(scope: Scope, batch_id: str) -> bool:
    """Close the batch's files, if all its lines have ended and the files cover every end. See `Store.finalize`."""
    scope.lock_batches([batch_id])
    whole = sa.and_(
        Batch.id == batch_id,
        Batch.ended_at.is_not(None),
        Batch.taken_at.is_not(None),
        Batch.finalized_at.is_(None),
        Batch.failed_at.is_(None),
        Batch.output_cursor == Batch.num_ends,
        Batch.error_cursor == Batch.num_ends,
    )
    batch = next(iter(rows(scope, sa.select(Batch).where(whole))), None)
    if batch is None or numbering.number_some(scope, batch_id):
        return False
    scope.connection.execute(sa.update(Batch).where(Batch.id == batch_id).values(finalized_at=scope.now))
    written = [file_id for file_id in (batch.output_file_id, batch.error_file_id) if file_id is not None]
    values: dict[Any, Any] = {File.complete_at: scope.now}
    if batch.output_expires_after_seconds is not None:
        # Counted from here, else a long batch's results might go at once; and its anchor is `created_at`.
        values[File.created_at] = scope.now
        values[File.expires_at] = scope.now + timedelta(seconds=batch.output_expires_after_seconds)
    scope.connection.execute(sa.update(File).where(File.id.in_(written)).values(values))
    outbox.batch_ended(scope, batch_id)
    return True
