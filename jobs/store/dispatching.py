"""Which queued jobs should have a message out: interactive ones at once, batch lines within a window, fairly.

What a round costs depends on the window, never on how much waits: see the partial indexes of `jobs`.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import chain

import sqlalchemy as sa

from jobs.records import Publishable
from jobs.states import Priority
from jobs.store.scope import PUBLISHED, RUNNING, UNPUBLISHED, AnyRow, Scope
from jobs.tables import Batch, Job

MAX_INTERACTIVE = 500
"""Interactive jobs that one round publishes; the next round follows at once."""
MAX_LANES = 1000
"""Open batches among which a round shares the window, the oldest first."""
CHUNK = 500

Lane = tuple[str, str | None]
"""An owner and one of its batches; None stands for its lines without a batch."""


def to_publish(scope: Scope, num_waiting: Mapping[Priority, int]) -> Publishable:
    """Choose. See `Store.to_publish`."""
    interactive = _unpublished(scope, Priority.INTERACTIVE, MAX_INTERACTIVE)
    lines = _top_up(scope)
    return Publishable(
        interactive=[*_stranded(scope, Priority.INTERACTIVE, num_waiting), *interactive],
        batch=[*_stranded(scope, Priority.BATCH, num_waiting), *(line.id for line in lines)],
        again=[line.id for line in lines if line.attempt > 0],
    )


def _unpublished(scope: Scope, priority: Priority, limit: int) -> Sequence[str]:
    query = sa.select(Job.id).where(UNPUBLISHED, Job.priority == priority, Job.available_at <= scope.now)
    return scope.connection.scalars(query.order_by(Job.available_at, Job.id).limit(limit)).all()


def _stranded(scope: Scope, priority: Priority, num_waiting: Mapping[Priority, int]) -> Sequence[str]:
    """Find jobs whose message must be lost: it was sent long ago, and Redis holds fewer messages than it should.

    Only as many as are missing are sent again, so a long queue of patient messages is never doubled.
    """
    published = sa.select(sa.func.count()).select_from(Job).where(PUBLISHED, Job.priority == priority)
    num_missing = (scope.connection.scalar(published) or 0) - num_waiting.get(priority, 0)
    if num_missing <= 0:
        return []
    long_ago = scope.now - timedelta(seconds=scope.settings.republish_after_seconds)
    query = sa.select(Job.id).where(PUBLISHED, Job.priority == priority, Job.published_at <= long_ago)
    return scope.connection.scalars(query.order_by(Job.published_at, Job.id).limit(min(num_missing, CHUNK))).all()


def _top_up(scope: Scope) -> list[AnyRow]:
    """Fill the window: each free place goes to the owner, and of its batches to the one, with the fewest in flight."""
    in_flight = _in_flight(scope)
    room = scope.settings.dispatch_window - sum(in_flight.values())
    if room <= 0:
        return []
    lanes = dict(_lanes(scope, room))
    loads: dict[str, int] = defaultdict(int)
    queues: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for (owner, _), count in in_flight.items():
        loads[owner] += count
    for owner, batch_id in lanes:
        heapq.heappush(queues[owner], (in_flight.get((owner, batch_id), 0), batch_id or ""))
    owners = [(loads[owner], owner) for owner in queues]
    heapq.heapify(owners)
    chosen: list[AnyRow] = []
    while owners and len(chosen) < room:
        owner_load, owner = heapq.heappop(owners)
        lane_load, batch_id = heapq.heappop(queues[owner])
        line = next(lanes[owner, batch_id or None], None)
        if line is not None:
            chosen.append(line)
            owner_load += 1
            heapq.heappush(queues[owner], (lane_load + 1, batch_id))
        if queues[owner]:
            heapq.heappush(owners, (owner_load, owner))
    return chosen


def _in_flight(scope: Scope) -> dict[Lane, int]:
    """Count the batch lines with a message out or an attempt running: at most about a window of rows."""
    counts: dict[Lane, int] = defaultdict(int)
    for condition in (PUBLISHED, RUNNING):
        query = sa.select(Job.owner, Job.batch_id, sa.func.count().label("num")).where(
            condition, Job.priority == Priority.BATCH
        )
        for row in scope.connection.execute(query.group_by(Job.owner, Job.batch_id)):
            counts[row.owner, row.batch_id] += row.num
    return counts


def _lanes(scope: Scope, room: int) -> Iterator[tuple[Lane, Iterator[AnyRow]]]:
    """Every lane that may have lines waiting, with an iterator that reads them only as far as it is followed."""
    query = sa.select(Batch.id, Batch.owner).where(
        sa.text("batches.ended_at IS NULL"), Batch.cancel_requested_at.is_(None)
    )
    batches = scope.connection.execute(query.order_by(Batch.id).limit(MAX_LANES)).all()
    page = room // (len(batches) + 1) + 1
    for batch in batches:
        yield (batch.owner, batch.id), _lines(scope, batch.id, page)
    loose: dict[str, list[AnyRow]] = defaultdict(list)
    for row in _page(scope, None, room, None):
        loose[row.owner].append(row)
    for owner, lines in loose.items():
        yield (owner, None), iter(lines)


def _lines(scope: Scope, batch_id: str, page: int) -> Iterator[AnyRow]:
    last: tuple[object, str] | None = None
    while rows := _page(scope, batch_id, page, last):
        yield from rows
        last = (rows[-1].available_at, rows[-1].id)


def _page(scope: Scope, batch_id: str | None, limit: int, last: tuple[object, str] | None) -> Sequence[AnyRow]:
    query = sa.select(Job.id, Job.owner, Job.available_at, Job.attempt).where(
        UNPUBLISHED, Job.priority == Priority.BATCH, Job.batch_id == batch_id, Job.available_at <= scope.now
    )
    if last is not None:
        bound = sa.tuple_(sa.bindparam(None, last[0], Job.available_at.type), sa.bindparam(None, last[1]))
        query = query.where(sa.tuple_(Job.available_at, Job.id) > bound)
    return scope.connection.execute(query.order_by(Job.available_at, Job.id).limit(limit)).all()


def mark_published(scope: Scope, ids: Collection[str]) -> None:
    """Note that a message is out. A row that somebody holds just now is being claimed: it needs no note."""
    _mark(scope, [job.id for job in scope.lock_jobs(ids, skip_locked=True)], published=True)


def _mark(scope: Scope, locked: Sequence[str], *, published: bool) -> None:
    if locked:
        scope.connection.execute(
            sa.update(Job)
            .where(Job.id.in_(locked), sa.text("jobs.state = 'queued'"))
            .values(published_at=scope.now if published else None)
        )


def unpublish_some(scope: Scope, after: str) -> str | None:
    """Forget the messages of a chunk of queued jobs with ids past `after`; answer the last id, None at the end."""
    query = sa.select(Job.id).where(PUBLISHED, Job.id > after).order_by(Job.id).limit(CHUNK)
    ids = scope.connection.scalars(query).all()
    _mark(scope, [job.id for job in scope.lock_jobs(ids, skip_locked=True)], published=False)
    return ids[-1] if ids else None


def chunks(ids: Collection[str]) -> Iterator[list[str]]:
    """Cut ids into pieces of at most CHUNK, sorted."""
    ordered = sorted(ids)
    return (ordered[start : start + CHUNK] for start in chain(range(0, len(ordered), CHUNK)))
