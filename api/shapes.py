"""Rows of the database as the objects of the wire. Shapes only; reads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from api.system_wire import ModelObject, WorkerObject
from api.wire import (
    AttemptObject,
    FileObject,
    JobError,
    JobObject,
    LineCounts,
    Usage,
)
from jobs.records import NewJob
from jobs.states import AttemptOutcome, FinishReason, JobState, Priority
from jobs.tables import Attempt, File, Generation, Job, Model, Worker


def job_object(
    job: Job,
    generation: Generation | None = None,
    attempts: Sequence[Attempt] | None = None,
    queue_position: int | None = None,
) -> JobObject:
    """A job row, and what belongs to it, as the caller sees it."""
    return JobObject(
        id=job.id,
        state=JobState(job.state),
        model=job.model,
        priority=Priority(job.priority),
        prompt=job.prompt,
        messages=job.messages,
        parameters=job.parameters,
        seed=job.seed,
        completion=generation.completion if generation else None,
        finish_reason=FinishReason(generation.finish_reason) if generation and generation.finish_reason else None,
        usage=_usage(generation) if generation else None,
        logprobs=generation.logprobs if generation else None,
        timings=generation.timings if generation else None,
        recipe=generation.recipe_id if generation else None,
        continuity=generation.continuity if generation else None,
        attempts=None if attempts is None else [_attempt_object(attempt) for attempt in attempts],
        max_attempts=job.max_attempts,
        queue_position=queue_position,
        created_at=job.created_at,
        started_at=job.started_at,
        ended_at=job.ended_at,
        cancel_requested_at=job.cancel_requested_at,
        error=JobError.model_validate(job.error) if job.error else None,
        metadata=job.job_metadata,
        batch_id=job.batch_id,
        custom_id=job.custom_id,
        status_url=f"/v1/jobs/{job.id}",
        events_url=f"/v1/jobs/{job.id}/events",
    )


def excerpt_of(job: JobObject, length: int | None) -> JobObject:
    """The job with the beginnings of its texts, and without its logprobs. None: the job as it is."""
    if length is None:
        return job
    cut = {
        "prompt": None if job.prompt is None else job.prompt[:length],
        "messages": None if job.messages is None else [_begun(message, length) for message in job.messages[-1:]],
        "completion": None if job.completion is None else job.completion[:length],
        "logprobs": None,
    }
    return job.model_copy(update=cut)


def _begun(message: Mapping[str, Any], length: int) -> dict[str, Any]:
    return {**message, "content": str(message.get("content", ""))[:length]}


def accepted_row(job_id: str, job: NewJob, batch_id: str | None, now: datetime) -> Job:
    """The row that a submit has just made, for an answer when it cannot be read back."""
    return Job(
        id=job_id,
        state=JobState.QUEUED,
        model=job.model,
        priority=job.priority,
        prompt=job.prompt,
        messages=None if job.messages is None else [dict(message) for message in job.messages],
        parameters=dict(job.parameters),
        seed=job.seed,
        job_metadata=dict(job.metadata),
        max_attempts=job.max_attempts,
        batch_id=batch_id,
        created_at=now,
    )


def _usage(generation: Generation) -> Usage:
    prompt, completion = generation.num_prompt_tokens, generation.num_completion_tokens
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def _attempt_object(attempt: Attempt) -> AttemptObject:
    return AttemptObject(
        number=attempt.number,
        worker=attempt.worker,
        outcome=AttemptOutcome(attempt.outcome) if attempt.outcome else None,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        error=JobError.model_validate(attempt.error) if attempt.error else None,
    )


def model_object(model: Model, exact: Mapping[str, bool] | None) -> ModelObject:
    """An announced model, as OpenAI's clients list it. `exact`: by row class (`api.models.proven_classes`)."""
    return ModelObject(
        id=model.name,
        created=int(model.announced_at.timestamp()),
        context_tokens=model.context_tokens,
        sha256=model.sha256,
        exact=None if exact is None else dict(exact),
        recipe=model.recipe_id,
    )


_OF_THE_MACHINE = frozenset({"attention", "backend", "kv_cells"})
"""What a worker says of itself that no job changes. All else it says tells how much there is to do."""


def worker_object(worker: Worker, *, alive: bool, running: int, all_counts: bool) -> WorkerObject:
    """A worker's newest heartbeat. What the engine counts stays in `details`, whatever it is. `all_counts`: whether to
    tell how busy it is with everybody's jobs."""
    details = dict(worker.details)
    draining, waiting, exact = details.pop("draining", False), details.pop("waiting", 0), details.pop("exact", None)
    load = {
        "busy_slots": worker.busy_slots if alive else 0,
        "waiting": int(waiting) if alive else 0,
        "tokens_per_second": round(worker.tokens_per_second, 1) if alive else 0.0,
    }
    return WorkerObject(
        name=worker.name,
        model=worker.model,
        alive=alive,
        draining=bool(draining),
        slots=worker.slots,
        running=running,
        **(load if all_counts else dict.fromkeys(load)),
        exact=exact,
        details={name: said for name, said in details.items() if all_counts or name in _OF_THE_MACHINE},
        started_at=worker.started_at,
        seen_at=worker.seen_at,
    )


def file_object(file: File) -> FileObject:
    """A file's row in OpenAI's shape. One that still grows is `uploaded`, not yet `processed`."""
    return FileObject(
        id=file.id,
        bytes=file.num_bytes,
        created_at=int(file.created_at.timestamp()),
        expires_at=unix(file.expires_at),
        filename=file.filename,
        purpose=file.purpose,
        status="processed" if file.complete_at else "uploaded",
        complete=file.complete_at is not None,
        sha256=file.sha256,
        lines=LineCounts(total=file.num_lines, invalid=file.num_invalid),
        batch_id=file.batch_id,
    )


def unix(instant: datetime | None) -> int | None:
    """Unix seconds, as OpenAI's objects have their times."""
    return None if instant is None else int(instant.timestamp())
