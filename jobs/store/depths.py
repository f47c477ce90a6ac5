"""What waits and runs in each queue, of everybody or of one owner: the one place where queues are counted.

It costs the same whatever waits. Lines of batches are reckoned from the counters of the open batches, single jobs are
counted in partial indexes up to a bound, and what runs is never more than the workers hold. A line of a batch counts
with the batches, whatever its priority.

Of one owner the bound is on the rows that are looked at: another's are never gone through without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from jobs.records import QueueDepth
from jobs.states import JobState, Priority
from jobs.store.progress import NUM_ENDED
from jobs.store.scope import PUBLISHED, RUNNING, UNPUBLISHED, AnyRow, Scope
from jobs.tables import Batch, Job

MAX_COUNTED = 10_000
"""Rows of one kind that are looked at; where there are more the answer says so."""
MAX_BATCHES = 1000
"""Open batches among which the oldest with a waiting line is looked for."""

# Written out, as in `jobs.store.scope`: so that a planner takes the partial index.
_LOOSE = sa.text("jobs.batch_id IS NULL AND jobs.ended_at IS NULL")
_OPEN = sa.text("batches.ended_at IS NULL")

Running = Mapping[tuple[str, str | None], int]
"""Jobs that run, by priority and batch."""


@dataclass(frozen=True, slots=True)
class Some:
    """Jobs that wait. `num_sent`: those of them with a message out. `cut`: the bound was reached."""

    num: int = 0
    num_sent: int = 0
    oldest_at: datetime | None = None
    cut: bool = False

    def __add__(self, other: Some) -> Some:
        ages = [at for at in (self.oldest_at, other.oldest_at) if at is not None]
        return Some(
            self.num + other.num, self.num_sent + other.num_sent, min(ages, default=None), self.cut or other.cut
        )


def queue_depths(scope: Scope, owner: str | None = None, most: int | None = None) -> list[QueueDepth]:
    """Each queue, in the order in which workers serve them. `owner` None: everybody's jobs. `most`: see MAX_COUNTED."""
    most = MAX_COUNTED if most is None else most
    running = _running(scope, owner, most)
    sent = {priority: _sent(scope, priority, owner, most) for priority in Priority}
    singles = _singles(scope, sent, most) if owner is None else _own_singles(scope, owner, most)
    lines, num_to_take_in = _lines(scope, owner, running)
    sent_lines = Some(num_sent=sum(of_batches.num for _, of_batches in sent.values()))
    num_alone = running.get((Priority.INTERACTIVE, None), 0)
    return [
        _depth(Priority.INTERACTIVE, singles[Priority.INTERACTIVE], num_alone),
        _depth(
            Priority.BATCH,
            singles[Priority.BATCH] + lines + sent_lines,
            sum(running.values()) - num_alone,
            num_to_take_in,
        ),
    ]


def _depth(priority: Priority, waiting: Some, num_running: int, num_to_take_in: int = 0) -> QueueDepth:
    return QueueDepth(
        priority=priority,
        num_queued=waiting.num,
        num_published=waiting.num_sent,
        num_running=num_running,
        oldest_at=waiting.oldest_at,
        at_least=waiting.cut,
        num_to_take_in=num_to_take_in,
    )


def _running(scope: Scope, owner: str | None, most: int) -> Running:
    """As many rows as workers hold jobs. They are found before they are grouped or looked at for their owner: asked
    for both at once, a planner may go through all jobs in the order of their owners."""
    held = sa.select(Job.owner, Job.priority, Job.batch_id).where(RUNNING).order_by(Job.lease_expires_at)
    first = held.limit(most).subquery()
    query = sa.select(first.c.priority, first.c.batch_id, sa.func.count().label("num"))
    if owner is not None:
        query = query.where(first.c.owner == owner)
    rows = scope.connection.execute(query.group_by(first.c.priority, first.c.batch_id))
    return {(row.priority, row.batch_id): row.num for row in rows}


def _sent(scope: Scope, priority: Priority, owner: str | None, most: int) -> tuple[Some, Some]:
    """Jobs with a message out: single ones, and lines. The order has the databases enter the index of what is sent."""
    columns = sa.select(Job.owner, Job.batch_id, Job.created_at).where(PUBLISHED, Job.priority == priority)
    first = columns.order_by(Job.published_at, Job.id).limit(most).subquery()
    single = first.c.batch_id.is_(None)
    query = sa.select(single.label("single"), *_tally(first)).group_by(single)
    if owner is not None:
        query = query.where(first.c.owner == owner)
    rows = scope.connection.execute(query).all()
    cut = sum(row.num for row in rows) >= most
    by_kind = {bool(row.single): Some(row.num, row.num, row.oldest_at, cut) for row in rows}
    return by_kind.get(True, Some()), by_kind.get(False, Some())


def _tally(found: sa.Subquery) -> tuple[sa.Label[int], sa.Label[datetime | None]]:
    return sa.func.count().label("num"), sa.func.min(found.c.created_at, type_=Job.created_at.type).label("oldest_at")


def _singles(scope: Scope, sent: Mapping[Priority, tuple[Some, Some]], most: int) -> dict[Priority, Some]:
    """Everybody's jobs without a batch."""
    return {priority: sent[priority][0] + _unsent(scope, priority, most) for priority in Priority}


def _unsent(scope: Scope, priority: Priority, most: int) -> Some:
    alone = sa.select(Job.created_at).where(UNPUBLISHED, Job.priority == priority, Job.batch_id.is_(None))
    # With the batch, though it is the same for all: PostgreSQL would sort what the index has in order.
    first = alone.order_by(Job.batch_id, Job.dispatch_order, Job.available_at, Job.id).limit(most).subquery()
    row = scope.connection.execute(sa.select(*_tally(first))).one()
    return Some(row.num, 0, row.oldest_at, row.num >= most)


def _own_singles(scope: Scope, owner: str, most: int) -> dict[Priority, Some]:
    """An owner's jobs without a batch, from the index of the open ones. Of them those that run are few."""
    columns = sa.select(Job.priority, Job.state, Job.published_at, Job.created_at).where(Job.owner == owner, _LOOSE)
    first = columns.order_by(Job.owner, Job.id).limit(most).subquery()
    kinds = (first.c.priority, first.c.state, first.c.published_at.is_not(None))
    rows = scope.connection.execute(
        sa.select(*kinds[:2], kinds[2].label("sent"), *_tally(first)).group_by(*kinds)
    ).all()
    cut = sum(row.num for row in rows) >= most
    found = dict.fromkeys(Priority, Some(cut=cut))
    for row in rows:
        if row.state == JobState.QUEUED:
            found[Priority(row.priority)] += Some(row.num, row.num if row.sent else 0, row.oldest_at)
    return found


def _lines(scope: Scope, owner: str | None, running: Running) -> tuple[Some, int]:
    """Lines of open batches that have not ended and do not run; of them, those that are no rows yet."""
    sums = sa.select(
        sa.func.coalesce(sa.func.sum(Batch.num_total - NUM_ENDED), 0).label("num_left"),
        sa.func.coalesce(sa.func.sum(Batch.num_total - Batch.num_taken), 0).label("num_to_take_in"),
    )
    row = scope.connection.execute(sums.where(*_waiting(owner))).one()
    running_of = _running_of(scope, owner, running)
    num = max(0, int(row.num_left) - sum(running_of.values()))
    return Some(num, 0, _oldest(scope, owner, running_of) if num else None), int(row.num_to_take_in)


def _running_of(scope: Scope, owner: str | None, running: Running) -> Mapping[str, int]:
    """How many lines run, by batch; of the batches whose others wait."""
    of_batches: Counter[str] = Counter()
    for (_, batch_id), num in running.items():
        if batch_id is not None:
            of_batches[batch_id] += num
    if not of_batches:
        return {}
    query = sa.select(Batch.id).where(Batch.id.in_(of_batches), *_waiting(owner))
    return {batch_id: of_batches[batch_id] for batch_id in scope.connection.scalars(query)}


def _waiting(owner: str | None) -> list[sa.ColumnElement[bool] | sa.TextClause]:
    """Which batches have lines that wait: of one that was cancelled they only have to be ended."""
    owned = sa.true() if owner is None else Batch.owner == owner
    return [owned, _OPEN, Batch.cancel_requested_at.is_(None), Batch.failed_at.is_(None)]


def _oldest(scope: Scope, owner: str | None, running_of: Mapping[str, int]) -> datetime | None:
    """When the oldest batch with a line that waits was made: its lines came with it, or soon after."""
    query = sa.select(Batch.id, Batch.created_at, (Batch.num_total - NUM_ENDED).label("num_left"))
    rows: Sequence[AnyRow] = scope.connection.execute(
        query.where(*_waiting(owner), Batch.num_total > NUM_ENDED).order_by(Batch.id).limit(MAX_BATCHES)
    ).all()
    return next((row.created_at for row in rows if row.num_left > running_of.get(row.id, 0)), None)
