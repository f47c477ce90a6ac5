"""What is kept for a while only: idempotency keys, heartbeats of dead workers, samples, deliveries that are over,
what is left of deleted jobs.

A bounded number of rows goes with each call; a caller that gets a truthy answer may call again.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from jobs.records import Forgotten
from jobs.store.scope import Scope
from jobs.tables import Base, Batch, BatchSample, Delivery, Generation, IdempotencyKey, Job, Worker

KEYS_KEPT = timedelta(hours=24)
WORKERS_KEPT = timedelta(days=7)
DELIVERIES_KEPT = timedelta(days=30)
DELETED_KEPT = timedelta(days=7)
"""So long a deleted job is known to have been one, and its deletion can be asked for once more."""
CHUNK = 1000


def note_taken(scope: Scope) -> None:
    """Older code, while it runs beside this, makes batches without noting that all their lines were taken in."""
    scope.connection.execute(
        sa.update(Batch)
        .where(Batch.input_file_id.is_(None), Batch.taken_at.is_(None))
        .values(num_taken=Batch.num_total, taken_at=Batch.created_at)
    )


def forget(scope: Scope) -> Forgotten:
    """Delete a chunk of each kind."""
    num_jobs = _forget_deleted(scope)
    ended = sa.select(Batch.id).where(Batch.ended_at.is_not(None))
    return Forgotten(
        num_jobs=num_jobs,
        num_keys=_delete(scope, IdempotencyKey, IdempotencyKey.created_at <= scope.now - KEYS_KEPT),
        num_workers=_delete(scope, Worker, Worker.seen_at <= scope.now - WORKERS_KEPT),
        num_samples=_delete(scope, BatchSample, BatchSample.batch_id.in_(ended)),
        num_deliveries=_delete(
            scope, Delivery, Delivery.next_attempt_at.is_(None), Delivery.created_at <= scope.now - DELIVERIES_KEPT
        ),
    )


def _forget_deleted(scope: Scope) -> int:
    """What is left of deleted jobs. A line stays: its batch counts it."""
    over = sa.and_(sa.text("jobs.deleted_at IS NOT NULL"), Job.deleted_at <= scope.now - DELETED_KEPT)
    query = sa.select(Job.id).where(over, Job.batch_id.is_(None)).order_by(Job.deleted_at).limit(CHUNK)
    ids = scope.connection.scalars(query).all()
    scope.connection.execute(sa.delete(Generation).where(Generation.job_id.in_(ids)))
    return scope.connection.execute(sa.delete(Job).where(Job.id.in_(ids))).rowcount


def _delete(scope: Scope, table: type[Base], *which: sa.ColumnElement[bool]) -> int:
    columns = sa.inspect(table).primary_key
    some = sa.select(*columns).where(*which).limit(CHUNK)
    return scope.connection.execute(sa.delete(table).where(sa.tuple_(*columns).in_(some))).rowcount
