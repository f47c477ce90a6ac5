"""How long a job has to wait: its place in the order of dispatch, and when a poll of it is worth the while.

A place is an estimate and costs the same whatever waits: what is near is counted, what is far is reckoned from the
numbers of lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from jobs.records import Rates
from jobs.states import ENDED, JobState, Priority
from jobs.store import pace
from jobs.store.dispatching import ALIVE_SECONDS
from jobs.store.pace import Share
from jobs.store.progress import NUM_ENDED
from jobs.store.scope import PUBLISHED, UNPUBLISHED, AnyRow, Scope
from jobs.tables import Batch, Job, Worker

MAX_COUNTED = 1000
"""Rows that are counted for one part of a place. Beyond it a line's place in its batch is reckoned."""
MAX_BESIDE = 200
"""Other batches that are reckoned with."""
POLL_SECONDS = (1, 60)
UNKNOWN_SECONDS = 5
"""Before the next poll when no pace is known."""

_ORDER = (Job.dispatch_order, Job.available_at, Job.id)
_WAITING = (UNPUBLISHED, (Job.batch_id, *_ORDER))
_SENT = (PUBLISHED, (Job.published_at, Job.id))
"""Jobs without and with a message, each in the order of its index."""


def queue_position(scope: Scope, job: Job) -> int | None:
    """How many queued jobs go first, as things stand: 0 is next, None is not queued."""
    if job.state != JobState.QUEUED:
        return None
    if job.priority == Priority.INTERACTIVE:
        return _in_own_queue(scope, job)
    interactive = Job.priority == Priority.INTERACTIVE
    first = _count(scope, _SENT, interactive) + _count(scope, _WAITING, interactive)
    return first + _in_own_queue(scope, job) + (_lines_between(scope, job) if job.published_at is None else 0)


def _in_own_queue(scope: Scope, job: Job) -> int:
    """Jobs of the same priority that go first; of those without a message, the ones of the same batch."""
    same = Job.priority == job.priority
    if job.published_at is not None:
        return _count(scope, _SENT, same, _before((Job.published_at, Job.id), job))
    # Its own message may have gone out since the job was read: it does not go before itself.
    return _count(scope, _SENT, same, Job.id != job.id) + _ahead_in_lane(scope, job)


def _ahead_in_lane(scope: Scope, job: Job) -> int:
    lane = sa.and_(Job.priority == job.priority, Job.batch_id == job.batch_id)
    if job.batch_id is None:
        lane = sa.and_(lane, Job.dispatch_order == job.dispatch_order)
    counted = _count(scope, _WAITING, lane, _before(_ORDER, job))
    if counted < MAX_COUNTED or job.line_number is None:
        return counted
    head = scope.connection.execute(
        sa.select(Job.dispatch_order, Job.line_number).where(UNPUBLISHED, lane).order_by(Job.batch_id, *_ORDER).limit(1)
    ).first()
    return counted if head is None else max(counted, _apart(job, head))


def _apart(job: Job, head: AnyRow) -> int:
    """Lines between the head of a batch and one of its lines. `dispatch_order` is a number of a line too."""
    by_order = job.dispatch_order - head.dispatch_order
    return int(by_order or (job.line_number or 0) - (head.line_number or 0))


def _before(order: Sequence[Any], job: Job) -> sa.ColumnElement[bool]:
    bound = [sa.bindparam(None, getattr(job, column.key), column.type) for column in order]
    return sa.tuple_(*order) < sa.tuple_(*bound)


def _count(scope: Scope, kind: tuple[sa.TextClause, Sequence[Any]], *conditions: sa.ColumnElement[bool]) -> int:
    """Count some jobs of a kind, up to MAX_COUNTED. The order has the databases enter the index of the kind."""
    which, order = kind
    some = sa.select(sa.literal(1)).select_from(Job).where(which, *conditions).order_by(*order).limit(MAX_COUNTED)
    return scope.connection.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0


def _lines_between(scope: Scope, job: Job) -> int:
    """Lines of other batches that are dispatched while those ahead in the job's own batch are: as the weights say,
    and no more than they have."""
    others = _other_batches(scope, job)
    weights = scope.settings.key_weights
    own_weight = scope.connection.scalar(sa.select(Batch.weight).where(Batch.id == job.batch_id)) or 1.0
    shares = {0: Share(0, 0.0, job.owner, weights.get(job.owner, 1.0), own_weight)}
    for number, row in enumerate(others, start=1):
        shares[number] = Share(row.num_left, 0.0, row.owner, weights.get(row.owner, 1.0), row.weight)
    parts = pace.parts(shares)
    turns = _ahead_in_lane(scope, job)
    return sum(min(shares[number].num_left, int(turns * parts[number] / parts[0])) for number in range(1, len(shares)))


def _other_batches(scope: Scope, job: Job) -> Sequence[AnyRow]:
    query = sa.select(Batch.owner, Batch.weight, (Batch.num_total - NUM_ENDED).label("num_left")).where(
        sa.text("batches.ended_at IS NULL"), Batch.cancel_requested_at.is_(None), Batch.id != (job.batch_id or "")
    )
    return scope.connection.execute(query.order_by(Batch.id).limit(MAX_BESIDE)).all()


def seconds_to_poll(scope: Scope, job: Job, position: int | None) -> int | None:
    """What `Retry-After` says of a job: when its turn should come; None once it has ended."""
    if job.state in ENDED:
        return None
    lines_per_second = _machine_pace(scope, job)
    if lines_per_second is None:
        return POLL_SECONDS[0] if not position else UNKNOWN_SECONDS
    return _bounded((position or 0) / lines_per_second)


def _machine_pace(scope: Scope, job: Job) -> float | None:
    """Jobs a second of all living workers: the tokens they make, by the tokens of a job like this one."""
    alive = Worker.seen_at >= scope.now - timedelta(seconds=ALIVE_SECONDS)
    tokens_per_second = scope.connection.scalar(sa.select(sa.func.sum(Worker.tokens_per_second)).where(alive))
    return tokens_per_second / _tokens_of(scope, job) if tokens_per_second else None


def _tokens_of(scope: Scope, job: Job) -> float:
    """As the lines of its batch had so far; else as many as it may have."""
    columns = sa.select(Batch.num_completion_tokens, Batch.num_succeeded).where(Batch.id == job.batch_id)
    batch = None if job.batch_id is None else scope.connection.execute(columns).one()
    if batch is not None and batch.num_succeeded and batch.num_completion_tokens:
        return float(batch.num_completion_tokens / batch.num_succeeded)
    return float(max(1, job.parameters.get("max_tokens") or 100))


def seconds_to_poll_batch(batch: Batch, rates: Rates) -> int | None:
    """What `Retry-After` says of a batch: when it should be done; None once it is."""
    if batch.ended_at is not None:
        return None
    return UNKNOWN_SECONDS if rates.eta_p50_seconds is None else _bounded(rates.eta_p50_seconds)


def _bounded(seconds: float) -> int:
    least, most = POLL_SECONDS
    return max(least, min(most, math.ceil(seconds)))
