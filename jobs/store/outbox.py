"""The outbox: one delivery for each webhook that listens to an end, made by the transaction that ends the object.

So there is a delivery exactly when there is an end. Where nobody listens it costs one look into an empty index.
A delivery's data are written here once and for all: ids and numbers, nothing that a caller or a model wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from jobs.ids import new_id
from jobs.states import ENDED, JobState
from jobs.store.scope import AnyRow, Scope
from jobs.tables import Batch, Delivery, Job, Webhook
from jobs.webhooks import TEST_EVENT

LISTENING = sa.text("webhooks.deleted_at IS NULL AND webhooks.disabled_at IS NULL")
"""The condition of `ix_webhooks_listening`, written as the planner must find it."""

End = tuple[str, str | None, JobState]
"""A job, its batch, and the state that it has gone to."""


def job_ended(scope: Scope, moves: Iterable[End]) -> None:
    """Note the jobs that this transaction has ended, and the batches without files that ended with them.

    Call it after the batches' counters. Lines of batches are told of only where the webhook includes them: a batch of
    a million lines makes no million deliveries by surprise. States that are no end are left out.
    """
    listeners = _listeners(scope)
    if listeners:
        ends = [move for move in moves if move[2] in ENDED]
        _add(scope, [*_of_jobs(scope, listeners, ends), *_of_batches(scope, listeners, ends)])


def batch_ended(scope: Scope, batch_id: str) -> None:
    """Note a batch that has reached its final status in this transaction: its files are whole, or it was refused."""
    listeners = _listeners(scope)
    if listeners:
        batch = scope.connection.execute(_BATCH.where(Batch.id == batch_id)).one()
        _add(scope, _told(scope, listeners, batch.owner, f"batch.{_status(batch)}", _batch_data(batch)))


def add_test(scope: Scope, webhook_id: str) -> str:
    """Make a delivery that says nothing but that it arrives; its id."""
    row = _delivery(scope, webhook_id, TEST_EVENT, {"id": webhook_id})
    _add(scope, [row])
    return str(row["id"])


_LISTENERS = (
    sa.select(Webhook.id, Webhook.owner, Webhook.events, Webhook.include_batch_lines)
    .where(LISTENING)
    .order_by(Webhook.id)
)


def _listeners(scope: Scope) -> Sequence[AnyRow]:
    return scope.connection.execute(_LISTENERS).all()


def _of_jobs(scope: Scope, listeners: Sequence[AnyRow], ends: Sequence[End]) -> Iterator[dict[str, Any]]:
    wanted = {event for listener in listeners for event in listener.events}
    lines_too = any(listener.include_batch_lines for listener in listeners)
    states = {
        job_id: state
        for job_id, batch_id, state in ends
        if f"job.{state}" in wanted and (lines_too or batch_id is None)
    }
    if not states:
        return
    columns = sa.select(Job.id, Job.owner, Job.batch_id, Job.line_number, Job.attempt)
    for job in scope.connection.execute(columns.where(Job.id.in_(states)).order_by(Job.id)):
        hearing = [one for one in listeners if one.include_batch_lines or job.batch_id is None]
        yield from _told(scope, hearing, job.owner, f"job.{states[job.id]}", _job_data(job, states[job.id]))


def _of_batches(scope: Scope, listeners: Sequence[AnyRow], ends: Sequence[End]) -> Iterator[dict[str, Any]]:
    """A batch without files has its final status once its last line ends; one with files not before they are whole."""
    ids = {batch_id for _, batch_id, _ in ends if batch_id is not None}
    if not ids:
        return
    over = _BATCH.where(Batch.id.in_(ids), Batch.ended_at.is_not(None), Batch.input_file_id.is_(None))
    for batch in scope.connection.execute(over.order_by(Batch.id)):
        yield from _told(scope, listeners, batch.owner, f"batch.{_status(batch)}", _batch_data(batch))


def _told(
    scope: Scope, listeners: Sequence[AnyRow], owner: str, event_type: str, data: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    for listener in listeners:
        if listener.owner == owner and event_type in listener.events:
            yield _delivery(scope, listener.id, event_type, data)


def _delivery(scope: Scope, webhook_id: str, event_type: str, data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": new_id("delivery"),
        "webhook_id": webhook_id,
        "event_type": event_type,
        "object_id": data["id"],
        "data": dict(data),
        "created_at": scope.now,
        "next_attempt_at": scope.now,
        "num_attempts": 0,
        "history": [],
    }


def _add(scope: Scope, rows: Iterable[Mapping[str, Any]]) -> None:
    made = list(rows)
    if made:
        scope.connection.execute(sa.insert(Delivery), made)


def _job_data(job: AnyRow, state: JobState) -> dict[str, Any]:
    return {
        "id": job.id,
        "status": str(state),
        "batch_id": job.batch_id,
        "line_number": job.line_number,
        "num_attempts": job.attempt,
    }


_BATCH = sa.select(
    Batch.id,
    Batch.owner,
    Batch.num_total,
    Batch.num_succeeded,
    Batch.num_failed,
    Batch.num_cancelled,
    Batch.num_expired,
    Batch.num_prompt_tokens,
    Batch.num_completion_tokens,
    Batch.input_file_id,
    Batch.output_file_id,
    Batch.error_file_id,
    Batch.failed_at,
    Batch.cancel_requested_at,
    Batch.expires_at,
)


def _status(batch: AnyRow) -> str:
    """The final status. A line past a deadline of its own makes no batch expired: the window does."""
    if batch.failed_at is not None:
        return "failed"
    if batch.cancel_requested_at is not None:
        return "cancelled"
    return "expired" if batch.expires_at is not None and batch.num_expired > 0 else "completed"


def _batch_data(batch: AnyRow) -> dict[str, Any]:
    return {
        "id": batch.id,
        "status": _status(batch),
        "request_counts": {
            "total": batch.num_total,
            "completed": batch.num_succeeded,
            "failed": batch.num_failed + batch.num_expired,
        },
        "counts": {
            "succeeded": batch.num_succeeded,
            "failed": batch.num_failed,
            "cancelled": batch.num_cancelled,
            "expired": batch.num_expired,
        },
        "usage": {
            "input_tokens": batch.num_prompt_tokens,
            "output_tokens": batch.num_completion_tokens,
            "total_tokens": batch.num_prompt_tokens + batch.num_completion_tokens,
        },
        "input_file_id": batch.input_file_id,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
    }
