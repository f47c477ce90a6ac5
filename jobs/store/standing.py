"""How the queues stand, for metrics: what waits, since when, what runs, who is there.

It is asked for every few seconds by whoever scrapes, so what it costs must not grow with what waits: lines of batches
are reckoned from the counters of the open batches, the rest is counted in the partial indexes, up to a limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from jobs.records import QueueStanding, Standing
from jobs.states import Priority
from jobs.store.dispatching import ALIVE_SECONDS, window
from jobs.store.progress import NUM_ENDED
from jobs.store.scope import PUBLISHED, RUNNING, UNPUBLISHED, Scope
from jobs.tables import Batch, Delivery, Job, Worker

MAX_COUNTED = 100_000
"""Rows of one kind that are counted at most."""
MAX_BATCHES = 1000
"""Open batches that are looked at for the oldest waiting line."""

_OPEN = sa.text("batches.ended_at IS NULL")
_WAITING = (Job.batch_id, Job.dispatch_order, Job.available_at, Job.id)
_SENT = (Job.published_at, Job.id)

Running = Mapping[tuple[str, str | None], int]


def standing(scope: Scope) -> Standing:
    """Look at everything once. See `Store.standing`."""
    running = _running(scope)
    num_open, num_lines, num_to_take_in = _open_batches(scope)
    of_batches = sum(number for (_, batch_id), number in running.items() if batch_id is not None)
    loose = _count(scope, UNPUBLISHED, _WAITING, Job.priority == Priority.BATCH, Job.batch_id.is_(None))
    loose += _count(scope, PUBLISHED, _SENT, Job.priority == Priority.BATCH, Job.batch_id.is_(None))
    lines = QueueStanding(
        num_waiting=max(0, num_lines - of_batches) + loose,
        num_messages=_count(scope, PUBLISHED, _SENT, Job.priority == Priority.BATCH),
        num_running=_num_running(running, Priority.BATCH),
        oldest_seconds=_seconds_since(scope, [_oldest_line(scope, running), _oldest_loose_line(scope)]),
    )
    return Standing(
        queues={Priority.INTERACTIVE: _interactive(scope, running), Priority.BATCH: lines},
        num_open_batches=num_open,
        num_lines_to_take_in=num_to_take_in,
        num_deliveries_waiting=_deliveries(scope),
        num_workers=_workers(scope),
        window=window(scope),
    )


def _running(scope: Scope) -> Running:
    """As many rows as slots are busy."""
    query = sa.select(Job.priority, Job.batch_id, sa.func.count().label("num")).where(RUNNING)
    rows = scope.connection.execute(query.group_by(Job.priority, Job.batch_id))
    return {(row.priority, row.batch_id): row.num for row in rows}


def _num_running(running: Running, priority: Priority) -> int:
    return sum(number for (kind, _), number in running.items() if kind == priority)


def _interactive(scope: Scope, running: Running) -> QueueStanding:
    interactive = Job.priority == Priority.INTERACTIVE
    num_messages = _count(scope, PUBLISHED, _SENT, interactive)
    heads = [_head(scope, UNPUBLISHED, _WAITING, interactive), _head(scope, PUBLISHED, _SENT, interactive)]
    return QueueStanding(
        num_waiting=num_messages + _count(scope, UNPUBLISHED, _WAITING, interactive),
        num_messages=num_messages,
        num_running=_num_running(running, Priority.INTERACTIVE),
        oldest_seconds=_seconds_since(scope, heads),
    )


def _count(scope: Scope, kind: sa.TextClause, order: Sequence[Any], *conditions: sa.ColumnElement[bool]) -> int:
    """Count in the index of a kind; its order keeps the databases in it."""
    some = sa.select(sa.literal(1)).select_from(Job).where(kind, *conditions).order_by(*order).limit(MAX_COUNTED)
    return scope.connection.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0


def _head(
    scope: Scope, kind: sa.TextClause, order: Sequence[Any], *conditions: sa.ColumnElement[bool]
) -> datetime | None:
    """When the first job of an index was made: the one whose turn is next."""
    return scope.connection.scalar(sa.select(Job.created_at).where(kind, *conditions).order_by(*order).limit(1))


def _open_batches(scope: Scope) -> tuple[int, int, int]:
    """Open batches, their lines in `jobs` that have not ended, and their lines that the clerk has still to take in."""
    query = sa.select(
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(Batch.num_taken - NUM_ENDED), 0),
        sa.func.coalesce(sa.func.sum(Batch.num_total - Batch.num_taken), 0),
    ).where(_OPEN)
    num_open, num_lines, num_to_take_in = scope.connection.execute(query).one()
    return int(num_open), int(num_lines), int(num_to_take_in)


def _oldest_line(scope: Scope, running: Running) -> datetime | None:
    """When the oldest open batch with waiting lines was made: its lines came with it, or soon after."""
    query = sa.select(Batch.id, Batch.created_at, (Batch.num_taken - NUM_ENDED).label("num_left")).where(_OPEN)
    for row in scope.connection.execute(query.order_by(Batch.id).limit(MAX_BATCHES)):
        if row.num_left > running.get((Priority.BATCH, row.id), 0):
            found: datetime = row.created_at
            return found
    return None


def _oldest_loose_line(scope: Scope) -> datetime | None:
    line = sa.and_(Job.priority == Priority.BATCH, Job.batch_id.is_(None))
    return _head(scope, UNPUBLISHED, _WAITING, line) or _head(scope, PUBLISHED, _SENT, line)


def _seconds_since(scope: Scope, instants: Sequence[datetime | None]) -> float:
    known = [instant for instant in instants if instant is not None]
    return max(0.0, (scope.now - min(known)).total_seconds()) if known else 0.0


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
