"""Taking jobs in: a whole submission in one transaction, once per idempotency key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from jobs.errors import InvalidRequest, NotFound
from jobs.ids import new_id
from jobs.keys import Quota
from jobs.records import NewJob, Submitted
from jobs.states import JobState, Priority
from jobs.store import dispatching, idempotency, quotas
from jobs.store.counts import Deed
from jobs.store.idempotency import Call
from jobs.store.scope import Scope
from jobs.tables import Batch, Job
from jobs.tracing import traceparent

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""What PostgreSQL cannot hold in a text: NUL, and halves of surrogate pairs."""


def submit(
    scope: Scope,
    jobs: Sequence[NewJob],
    *,
    owner: str,
    call: Call,
    batch_id: str | None,
    new_batch: bool,
    batch_metadata: Mapping[str, str] | None,
    quota: Quota | None = None,
) -> Submitted:
    """Write all the jobs, or none. See `Store.submit`."""
    _refuse_unstorable(jobs, call.key, batch_metadata)
    ids = sorted(new_id("job") for _ in jobs)  # Sorted, so that the order of ids is the order of lines.
    made = idempotency.earlier(scope, idempotency.JOBS, owner, call, ids)
    if made is not None:
        return Submitted(made, scope.connection.scalar(sa.select(Job.batch_id).where(Job.id == made[0])), replayed=True)
    num_tokens = quotas.tokens_asked(jobs)
    num_lines = len(jobs) if new_batch or batch_id is not None else 0
    quotas.admit(scope, owner, quota, num_tokens=num_tokens, num_lines=num_lines, opens_batch=new_batch)
    first_line, trace = 0, traceparent()
    if new_batch:
        batch_id = _open_batch(scope, owner, jobs, batch_metadata or {}, num_tokens)
    elif batch_id is not None:
        first_line = _extend_batch(scope, owner, batch_id, len(jobs), num_tokens, quota)
    rows = [
        _row(
            scope,
            job,
            job_id,
            owner=owner,
            batch_id=batch_id,
            line_number=None if batch_id is None else first_line + index,
            trace=trace,
        )
        for index, (job, job_id) in enumerate(zip(jobs, ids, strict=True))
    ]
    scope.connection.execute(sa.insert(Job), rows)
    scope.counts.update((Deed.ACCEPTED, str(job.priority)) for job in jobs)
    return Submitted(ids, batch_id)


def _row(
    scope: Scope,
    job: NewJob,
    job_id: str,
    *,
    owner: str,
    batch_id: str | None,
    line_number: int | None,
    trace: str | None,
) -> dict[str, Any]:
    return {
        "id": job_id,
        "state": JobState.QUEUED,
        "owner": owner,
        "model": job.model,
        "priority": job.priority,
        "prompt": job.prompt,
        "messages": None if job.messages is None else [dict(message) for message in job.messages],
        "parameters": dict(job.parameters),
        "seed": job.seed,
        "num_prompt_tokens": job.num_prompt_tokens,
        "metadata": dict(job.metadata),
        "batch_id": batch_id,
        "custom_id": job.custom_id,
        "origin": None if job.origin is None else dict(job.origin),
        "line_number": line_number,
        "dispatch_order": _dispatch_order(job, owner, line_number),
        "max_attempts": job.max_attempts or scope.settings.max_attempts,
        "available_at": scope.now,
        "deadline_at": _deadline(scope.now, job.deadline_seconds),
        "created_at": scope.now,
        "traceparent": trace,
    }


def _dispatch_order(job: NewJob, owner: str, line_number: int | None) -> int:
    if line_number is not None:
        return line_number
    return dispatching.loose_order(owner) if job.priority == Priority.BATCH else 0


def _deadline(now: datetime, seconds: float | None) -> datetime | None:
    if seconds is None:
        return None
    try:
        return now + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise InvalidRequest("deadline_seconds is out of range", param="deadline_seconds") from None


def _open_batch(scope: Scope, owner: str, jobs: Sequence[NewJob], metadata: Mapping[str, str], num_tokens: int) -> str:
    batch_id = new_id("batch")
    row = {
        "id": batch_id,
        "owner": owner,
        "model": jobs[0].model,
        "num_total": len(jobs),
        "num_taken": len(jobs),
        "taken_at": scope.now,
        "created_at": scope.now,
        "metadata": dict(metadata),
        "num_tokens_asked": num_tokens,
    }
    scope.connection.execute(sa.insert(Batch), [row])
    return batch_id


def _extend_batch(  # noqa: PLR0917 -- what the batch is to take, and under what terms
    scope: Scope, owner: str, batch_id: str, num_new: int, num_tokens: int, quota: Quota | None
) -> int:
    """Make room for `num_new` lines; answer the first one's number. A batch that had ended is open again."""
    columns = sa.select(Batch.owner, Batch.num_total, Batch.cancel_requested_at, Batch.input_file_id, Batch.ended_at)
    query = columns.where(Batch.id == batch_id)
    batch = scope.connection.execute(query.with_for_update(key_share=True)).one_or_none()
    if batch is None or batch.owner != owner:
        raise NotFound("batch", batch_id)
    if batch.cancel_requested_at is not None:
        raise InvalidRequest(f"The batch {batch_id!r} was cancelled; it takes no more jobs.", param="batch_id")
    if batch.input_file_id is not None:
        raise InvalidRequest(f"The batch {batch_id!r} was made from a file; it takes no more jobs.", param="batch_id")
    total = batch.num_total + num_new
    quotas.admit(scope, owner, quota, num_tokens=0, num_lines=total, opens_batch=batch.ended_at is not None)
    # `num_taken` is what older code left it at: with the total it is right again.
    num_total = Batch.num_total + num_new
    scope.connection.execute(
        sa.update(Batch)
        .where(Batch.id == batch_id)
        .values(
            num_total=num_total,
            num_taken=num_total,
            num_tokens_asked=Batch.num_tokens_asked + num_tokens,
            taken_at=sa.func.coalesce(Batch.taken_at, Batch.created_at),
            ended_at=None,
        )
    )
    return int(batch.num_total)


def _refuse_unstorable(jobs: Sequence[NewJob], key: str | None, metadata: Mapping[str, str] | None) -> None:
    """Refuse text that PostgreSQL cannot hold (NUL, half a surrogate pair), so that both databases take the same."""
    if not jobs:
        raise InvalidRequest("a submission needs at least one job", param="jobs")
    check_text("idempotency_key", key)
    check_text("metadata", metadata)
    for job in jobs:
        for name in ("model", "prompt", "messages", "parameters", "metadata", "custom_id"):
            check_text(name, getattr(job, name))


def check_text(param: str, value: object) -> None:
    if isinstance(value, str):
        if _UNSTORABLE.search(value):
            raise InvalidRequest(f"{param} holds a NUL or half a surrogate pair", param=param)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            check_text(param, name)
            check_text(f"{param}.{name}", item)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for index, item in enumerate(value):
            check_text(f"{param}[{index}]", item)
