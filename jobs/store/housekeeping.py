"""What is kept for a while only: idempotency keys, heartbeats of dead workers, samples, deliveries that are over.

A bounded number of rows goes with each call; a caller that gets a truthy answer may call again.
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from jobs.records import Forgotten
from jobs.store.scope import Scope
from jobs.tables import Base, Batch, BatchSample, Delivery, IdempotencyKey, Worker

KEYS_KEPT = timedelta(hours=24)
WORKERS_KEPT = timedelta(days=7)
DELIVERIES_KEPT = timedelta(days=30)
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
    ended = sa.select(Batch.id).where(Batch.ended_at.is_not(None))
    return Forgotten(
        num_keys=_delete(scope, IdempotencyKey, IdempotencyKey.created_at <= scope.now - KEYS_KEPT),
        num_workers=_delete(scope, Worker, Worker.seen_at <= scope.now - WORKERS_KEPT),
        num_samples=_delete(scope, BatchSample, BatchSample.batch_id.in_(ended)),
        num_deliveries=_delete(
            scope, Delivery, Delivery.next_attempt_at.is_(None), Delivery.created_at <= scope.now - DELIVERIES_KEPT
        ),
    )


def _delete(scope: Scope, table: type[Base], *which: sa.ColumnElement[bool]) -> int:
    columns = sa.inspect(table).primary_key
    some = sa.select(*columns).where(*which).limit(CHUNK)
    return scope.connection.execute(sa.delete(table).where(sa.tuple_(*columns).in_(some))).rowcount
