"""How everything stands, for metrics: the queues as `jobs.store.depths` counts them, and who and what else is there.

It is asked for every few seconds by whoever scrapes, so what it costs must not grow with what waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import sqlalchemy as sa

from jobs.records import Standing
from jobs.store import depths
from jobs.store.dispatching import ALIVE_SECONDS, window
from jobs.store.scope import Scope
from jobs.tables import Batch, Delivery, Worker

MAX_COUNTED = 100_000
"""Rows of one kind that are counted at most: more than a page needs, as one look serves every scrape."""


def standing(scope: Scope) -> Standing:
    """Look at everything once. See `Store.standing`."""
    return Standing(
        at=scope.now,
        queues={depth.priority: depth for depth in depths.queue_depths(scope, most=MAX_COUNTED)},
        num_open_batches=_open_batches(scope),
        num_deliveries_waiting=_deliveries(scope),
        num_workers=_workers(scope),
        window=window(scope),
    )


def _open_batches(scope: Scope) -> int:
    query = sa.select(sa.func.count()).select_from(Batch).where(sa.text("batches.ended_at IS NULL"))
    return scope.connection.scalar(query) or 0


def _deliveries(scope: Scope) -> int:
    waiting = sa.select(sa.literal(1)).select_from(Delivery).where(sa.text("deliveries.next_attempt_at IS NOT NULL"))
    some = waiting.limit(MAX_COUNTED).subquery()
    return scope.connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0


def _workers(scope: Scope) -> Mapping[str, int]:
    """Living workers by model."""
    alive = Worker.seen_at >= scope.now - timedelta(seconds=ALIVE_SECONDS)
    rows = scope.connection.execute(
        sa.select(Worker.model, sa.func.count().label("num")).where(alive).group_by(Worker.model)
    )
    return {row.model: row.num for row in rows}
