"""Reading: jobs, attempts, generations, batches. Rows come back detached; nothing here changes one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session, defer

from jobs.errors import Deleted, NotFound
from jobs.records import BatchCounts
from jobs.states import JobState
from jobs.store.scope import Scope
from jobs.tables import Attempt, Base, Batch, Generation, Job, Recipe

Entity = TypeVar("Entity", bound=Base)

PAST_HEXADECIMAL = "g"
"""Sorts behind every digit of an id."""


def rows(scope: Scope, query: sa.Select[Entity]) -> Sequence[Entity]:
    """Read whole rows as detached objects."""
    with Session(bind=scope.connection, expire_on_commit=False) as session:
        found = session.scalars(query).all()
        session.expunge_all()
        return found


def get_job(scope: Scope, job_id: str, owner: str | None) -> Job:
    """Raises NotFound; Deleted for one that the owner had."""
    job = _row_of(scope, job_id, owner)
    if job.deleted_at is not None:
        raise Deleted("job", job_id)
    return job


def _row_of(scope: Scope, job_id: str, owner: str | None) -> Job:
    found = rows(scope, sa.select(Job).where(Job.id == job_id))
    if not found or owner not in {None, found[0].owner}:
        raise NotFound("job", job_id)
    return found[0]


def get_generation(scope: Scope, job_id: str) -> Generation | None:
    return next(iter(rows(scope, sa.select(Generation).where(Generation.job_id == job_id))), None)


def generations(scope: Scope, ids: Collection[str]) -> dict[str, Generation]:
    """The stored texts of these jobs by job, without their token ids."""
    query = sa.select(Generation).where(Generation.job_id.in_(set(ids)))
    found = rows(scope, query.options(defer(Generation.prompt_token_ids), defer(Generation.completion_token_ids)))
    return {generation.job_id: generation for generation in found}


def get_recipe(scope: Scope, recipe_id: str) -> dict[str, Any]:
    body: dict[str, Any] | None = scope.connection.scalar(sa.select(Recipe.body).where(Recipe.id == recipe_id))
    if body is None:
        raise NotFound("recipe", recipe_id)
    return body


def attempts(scope: Scope, job_id: str) -> list[Attempt]:
    return list(rows(scope, sa.select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)))


def list_jobs(
    scope: Scope,
    *,
    state: JobState | None,
    batch_id: str | None,
    limit: int,
    after: str | None,
    owner: str | None,
    id_prefix: str = "",
) -> tuple[list[Job], bool]:
    """A page, newest first. Lines of one batch come by line number, all others by id (which is the time)."""
    order = Job.id if batch_id is None else Job.line_number
    query = sa.select(Job).where(Job.deleted_at.is_(None))
    if state is not None:
        query = query.where(Job.state == state)
    if batch_id is not None:
        query = query.where(Job.batch_id == batch_id)
    if owner is not None:
        query = query.where(Job.owner == owner)
    if id_prefix:
        query = query.where(Job.id >= id_prefix, Job.id < id_prefix + PAST_HEXADECIMAL)
    if after is not None:
        cursor = _row_of(scope, after, owner)  # Who deletes what a page shows still wants the next one.
        query = query.where(order < (cursor.id if batch_id is None else cursor.line_number))
    found = rows(scope, query.order_by(order.desc()).limit(limit + 1))
    return list(found[:limit]), len(found) > limit


def get_batch(scope: Scope, batch_id: str, owner: str | None) -> tuple[Batch, BatchCounts]:
    found = rows(scope, sa.select(Batch).where(Batch.id == batch_id))
    if not found or owner not in {None, found[0].owner}:
        raise NotFound("batch", batch_id)
    return found[0], counts(scope, found[0])


def counts(scope: Scope, batch: Batch) -> BatchCounts:
    """Ends are counted in the batch's row; only the running ones are looked up, and those are few."""
    running = sa.select(sa.func.count()).select_from(Job).where(Job.batch_id == batch.id, Job.state == JobState.RUNNING)
    return _counts(batch, scope.connection.scalar(running) or 0)


def counts_of(scope: Scope, batches: Collection[Batch]) -> dict[str, BatchCounts]:
    """The same for several batches."""
    query = sa.select(Job.batch_id, sa.func.count().label("num")).where(
        Job.batch_id.in_([batch.id for batch in batches]), Job.state == JobState.RUNNING
    )
    running = {row.batch_id: row.num for row in scope.connection.execute(query.group_by(Job.batch_id))}
    return {batch.id: _counts(batch, running.get(batch.id, 0)) for batch in batches}


def _counts(batch: Batch, num_running: int) -> BatchCounts:
    """Lines that were not taken in yet count as queued; of a batch that was refused, none ever comes."""
    by_state = {
        JobState.SUCCEEDED: batch.num_succeeded,
        JobState.FAILED: batch.num_failed,
        JobState.CANCELLED: batch.num_cancelled,
        JobState.EXPIRED: batch.num_expired,
        JobState.RUNNING: num_running,
    }
    by_state[JobState.QUEUED] = 0 if batch.failed_at is not None else batch.num_total - sum(by_state.values())
    return BatchCounts(batch.num_total, by_state)
