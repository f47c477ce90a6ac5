"""How deep the queues are. Costs the same whatever waits: lines of batches are reckoned from their batches' counters,
single jobs are counted up to a bound, and what has a message out is never much.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from jobs.records import QueueDepth
from jobs.states import Priority
from jobs.store.progress import NUM_ENDED
from jobs.store.scope import PUBLISHED, RUNNING, UNPUBLISHED, AnyRow, Scope
from jobs.tables import Batch, Job

MAX_COUNTED = 10_000
"""Jobs of one kind that are counted; beyond it the answer says that there are more."""


def queue_depths(scope: Scope) -> list[QueueDepth]:
    """Each queue, in the order in which workers serve them."""
    return [_interactive(scope), _batch(scope)]


def _interactive(scope: Scope) -> QueueDepth:
    unsent, sent = _waiting(scope, UNPUBLISHED), _waiting(scope, PUBLISHED)
    ages = [at for at in (unsent.oldest_at, sent.oldest_at) if at is not None]
    return QueueDepth(
        priority=Priority.INTERACTIVE,
        num_queued=unsent.num + sent.num,
        num_published=sent.num,
        num_running=_running(scope, Job.priority == Priority.INTERACTIVE),
        oldest_at=min(ages, default=None),
        at_least=MAX_COUNTED in {unsent.num, sent.num},
    )


def _batch(scope: Scope) -> QueueDepth:
    """Lines of open batches that have not ended and do not run; and jobs of low priority without a batch."""
    lines, single = _open_batches(scope), _single(scope)
    running_lines = _running(scope, Job.batch_id.is_not(None))
    running = _running(scope, Job.priority == Priority.BATCH)
    num_lines = max(0, (lines.num_left or 0) - running_lines)
    ages = [at for at in (lines.oldest_at if num_lines else None, single.oldest_at) if at is not None]
    return QueueDepth(
        priority=Priority.BATCH,
        num_queued=num_lines + single.num,
        num_published=_published(scope),
        num_running=running,
        oldest_at=min(ages, default=None),
        at_least=single.num == MAX_COUNTED,
    )


def _waiting(scope: Scope, kind: sa.TextClause) -> AnyRow:
    """Interactive jobs of a kind: how many, and since when. A line of a batch may be interactive as well, but is
    reckoned with its batch."""
    return _tally(scope, _first(kind, sa.and_(Job.priority == Priority.INTERACTIVE, Job.batch_id.is_(None))))


def _first(kind: sa.TextClause, condition: sa.ColumnElement[bool]) -> sa.Subquery:
    """When the first jobs of a kind were accepted. The order has the databases enter the index of the kind."""
    order = (Job.published_at, Job.id) if kind is PUBLISHED else (Job.dispatch_order, Job.available_at, Job.id)
    return sa.select(Job.created_at).where(kind, condition).order_by(*order).limit(MAX_COUNTED).subquery()


def _single(scope: Scope) -> AnyRow:
    """Jobs of low priority without a batch, with a message or not."""
    alone = sa.and_(Job.priority == Priority.BATCH, Job.batch_id.is_(None))
    unsent, sent = (_first(kind, alone) for kind in (UNPUBLISHED, PUBLISHED))
    both = sa.union_all(sa.select(unsent.c.created_at), sa.select(sent.c.created_at)).limit(MAX_COUNTED).subquery()
    return _tally(scope, both)


def _tally(scope: Scope, found: sa.Subquery) -> AnyRow:
    oldest: sa.ColumnElement[datetime | None] = sa.func.min(found.c.created_at, type_=Job.created_at.type)
    return scope.connection.execute(sa.select(sa.func.count().label("num"), oldest.label("oldest_at"))).one()


def _open_batches(scope: Scope) -> AnyRow:
    waiting = sa.and_(
        sa.text("batches.ended_at IS NULL"), Batch.cancel_requested_at.is_(None), Batch.failed_at.is_(None)
    )
    oldest = sa.func.min(Batch.created_at, type_=Batch.created_at.type)
    query = sa.select(sa.func.sum(Batch.num_total - NUM_ENDED).label("num_left"), oldest.label("oldest_at"))
    return scope.connection.execute(query.where(waiting, Batch.num_total > NUM_ENDED)).one()


def _published(scope: Scope) -> int:
    some = _first(PUBLISHED, Job.priority == Priority.BATCH)
    return scope.connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0


def _running(scope: Scope, condition: sa.ColumnElement[bool]) -> int:
    return scope.connection.scalar(sa.select(sa.func.count()).select_from(Job).where(RUNNING, condition)) or 0
