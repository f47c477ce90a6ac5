"""Which trace a job belongs to: that of the call which made it, or its batch. Read only while traces are on."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from jobs.store.scope import Scope
from jobs.tables import Batch, Job


def traces_of(scope: Scope, ids: Collection[str]) -> dict[str, str]:
    """See `Store.traces_of`."""
    trace = sa.func.coalesce(Job.traceparent, Batch.traceparent)
    query = sa.select(Job.id, trace.label("trace")).outerjoin(Batch, Batch.id == Job.batch_id)
    rows = scope.connection.execute(query.where(Job.id.in_(list(ids))))
    return {row.id: row.trace for row in rows if row.trace is not None}
