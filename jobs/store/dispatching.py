"""Which queued jobs should have a message out: interactive ones at once, batch lines within a window, fairly.

What a round costs depends on the window and on the number of open batches, never on how many lines wait: see the
partial indexes of `jobs`. Who gets a free place is decided in `jobs.store.fairness`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import sqlalchemy as sa

from jobs.records import Publishable
from jobs.states import Priority
from jobs.store.fairness import Lane, LaneKey, Shares, Turns
from jobs.store.scope import PUBLISHED, RUNNING, UNPUBLISHED, AnyRow, Scope
from jobs.tables import Batch, Job, Worker

MAX_INTERACTIVE = 500
"""Interactive jobs that one round publishes; the next round follows at once."""
MAX_LANES = 1000
"""Batches of one owner among which a round shares: those served longest ago, so that each has its turn."""
MAX_LOOSE = 1000
"""Owners of lines without a batch among whom a round shares."""
MAX_WINDOW = 8192
"""As far as workers widen the window by themselves. A message takes about a kilobyte of Redis."""
LINES_A_SLOT = 4
"""A worker holds two lines a slot; as many again wait in Redis until the next round."""
ALIVE_SECONDS = 30.0
CHUNK = 500


class Message(NamedTuple):
    """Where a message stands in the index of those that are out."""

    priority: str
    published_at: datetime | None
    id: str


_LINE_ORDER = (Job.dispatch_order, Job.available_at, Job.id)
"""Lines of a batch with a common prefix stand together; one that runs again takes its old place."""
_IN_LANE = (Job.batch_id, *_LINE_ORDER)
"""The same with the batch before it: PostgreSQL does not see by itself that `batch_id IS NULL` makes it one value, and
would sort what the index has in order."""
_LINE_COLUMNS = (Job.id, Job.owner, Job.batch_id, Job.dispatch_order, Job.available_at, Job.attempt)


def loose_order(owner: str) -> int:
    """`dispatch_order` of a line without a batch: one number an owner, so that the index finds each owner's lines
    without going through another's."""
    return int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8]) >> 1


def to_publish(
    scope: Scope, num_waiting: Mapping[Priority, int], turns: Turns, only: Collection[Priority] = tuple(Priority)
) -> Publishable:
    """Choose. See `Store.to_publish`."""
    interactive: list[str] = []
    lines: list[AnyRow] = []
    stranded: list[str] = []
    size, waits = 0, False
    if Priority.INTERACTIVE in only:
        interactive = [*_stranded(scope, Priority.INTERACTIVE, num_waiting), *_interactive(scope)]
    if Priority.BATCH in only:
        stranded = [*_stranded(scope, Priority.BATCH, num_waiting)]
        size, waits = window(scope), _any_waits(scope, Priority.BATCH)
        lines = _top_up(scope, size, turns) if waits else []
        waits = waits or _any_waits(scope, Priority.INTERACTIVE)
    return Publishable(
        interactive=interactive,
        batch=[*stranded, *(line.id for line in lines)],
        again=[line.id for line in lines if line.attempt > 0],
        window=size,
        waits=waits,
    )


def _interactive(scope: Scope) -> Sequence[str]:
    """In the order of the index: nothing is sorted, however many wait. Without a batch that is the order of time."""
    query = sa.select(Job.id).where(UNPUBLISHED, Job.priority == Priority.INTERACTIVE, Job.available_at <= scope.now)
    return scope.connection.scalars(query.order_by(*_IN_LANE).limit(MAX_INTERACTIVE)).all()


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


def window(scope: Scope) -> int:
    """Batch lines that may be in flight: as set, or more where the slots of the living workers need more."""
    alive = Worker.seen_at >= scope.now - timedelta(seconds=ALIVE_SECONDS)
    num_slots = scope.connection.scalar(sa.select(sa.func.sum(Worker.slots)).where(alive)) or 0
    return max(scope.settings.dispatch_window, min(MAX_WINDOW, LINES_A_SLOT * int(num_slots)))


def _top_up(scope: Scope, size: int, turns: Turns) -> list[AnyRow]:
    """Fill the window, a place at a time, each for the lane whose turn it is."""
    in_flight = _in_flight(scope)
    room = size - sum(in_flight.values())
    if room <= 0:
        return []
    lanes, lines = _lanes(scope, in_flight, room, turns)
    loads: dict[str, int] = defaultdict(int)
    for (owner, _), count in in_flight.items():
        loads[owner] += count
    shares = Shares(lanes, loads, scope.settings.key_weights, turns, scope.now)
    chosen: list[AnyRow] = []
    while len(chosen) < room and (key := shares.next_lane()) is not None:
        line = next(lines[key], None)
        if line is None:
            shares.is_empty(key)
            continue
        chosen.append(line)
        shares.gave(key)
        turns.note(key, scope.now)
    return chosen


def _any_waits(scope: Scope, priority: Priority) -> bool:
    """Whether there is a job without a message at all: mostly there is none, and then nobody's turn need be found."""
    query = sa.select(Job.id).where(UNPUBLISHED, Job.priority == priority).order_by(*_IN_LANE).limit(1)
    return scope.connection.scalar(query) is not None


def _lanes(
    scope: Scope, in_flight: Mapping[LaneKey, int], room: int, turns: Turns
) -> tuple[list[Lane], dict[LaneKey, Iterator[AnyRow]]]:
    """Every lane with lines to dispatch, and those lines."""
    batches, loose = list(_batches(scope, in_flight)), list(_loose(scope, in_flight, turns))
    page = room // max(1, len(batches) + len(loose)) + 1
    lines: dict[LaneKey, Iterator[AnyRow]] = {
        lane.key: chain((head,), _lines(scope, lane.key[1], None, page, head)) for lane, head in batches
    }
    for lane, place in loose:
        lines[lane.key] = chain(lines.get(lane.key, ()), _lines(scope, None, place, page))
    return [lane for lane, _ in (*batches, *loose)], lines


def _in_flight(scope: Scope) -> dict[LaneKey, int]:
    """Count the batch lines with a message out or an attempt running: at most about a window of rows."""
    counts: dict[LaneKey, int] = defaultdict(int)
    for condition in (PUBLISHED, RUNNING):
        query = sa.select(Job.owner, Job.batch_id, sa.func.count().label("num")).where(
            condition, Job.priority == Priority.BATCH
        )
        for row in scope.connection.execute(query.group_by(Job.owner, Job.batch_id)):
            counts[row.owner, row.batch_id] += row.num
    return counts


_NOW = sa.bindparam("now", type_=Job.available_at.type)


def _waiting_lines(batch_id: Any) -> sa.ColumnElement[bool]:
    """Lines that may start at `now`, a parameter of the statement."""
    return sa.and_(UNPUBLISHED, Job.priority == Priority.BATCH, Job.batch_id == batch_id, Job.available_at <= _NOW)


def _head() -> sa.ScalarSelect[str]:
    """The first line that a batch of the statement has to dispatch: one look at the head of its lines in the index.

    A scalar query with an order and a limit, because PostgreSQL turns EXISTS into a join, which may read all lines.
    """
    head = sa.select(Job.id).where(_waiting_lines(Batch.id)).order_by(*_IN_LANE).limit(1)
    return head.correlate(Batch).scalar_subquery()


@cache
def _open_batches() -> sa.Select[*tuple[Any, ...]]:
    """Made once: to put it together takes longer than to run it."""
    since: sa.ColumnElement[Any] = sa.func.coalesce(Batch.served_at, Batch.created_at)
    heads = (
        sa.select(Batch.id, Batch.owner, Batch.weight, since.label("since"), _head().label("head"))
        .where(
            sa.text("batches.ended_at IS NULL"),
            Batch.cancel_requested_at.is_(None),
            sa.or_(Batch.expires_at.is_(None), Batch.expires_at > _NOW),
        )
        .offset(0)  # Keeps PostgreSQL from looking for each head twice.
        .subquery()
    )
    place = sa.func.row_number().over(partition_by=heads.c.owner, order_by=(heads.c.since, heads.c.id))
    ranked = sa.select(heads, place.label("place")).where(heads.c.head.is_not(None)).subquery()
    return sa.select(ranked).where(ranked.c.place <= MAX_LANES)


def _batches(scope: Scope, in_flight: Mapping[LaneKey, int]) -> Iterator[tuple[Lane, AnyRow]]:
    """Open batches with lines to dispatch, and the first of those lines. Of an owner with very many, those that were
    served longest ago."""
    rows = scope.connection.execute(_open_batches(), {"now": scope.now}).all()
    lines = _lines_by_id(scope, [row.head for row in rows])
    for row in rows:
        key = (row.owner, row.id)
        yield Lane(key, row.weight, in_flight.get(key, 0), row.since), lines[row.head]


def _lines_by_id(scope: Scope, ids: Sequence[str]) -> dict[str, AnyRow]:
    """By nothing but their ids, so that it is a look at each: one that was claimed meanwhile costs a message."""
    found: dict[str, AnyRow] = {}
    for chunk in chunks(ids):
        query = sa.select(*_LINE_COLUMNS).where(Job.id.in_(chunk))
        found |= {row.id: row for row in scope.connection.execute(query)}
    return found


def _loose(scope: Scope, in_flight: Mapping[LaneKey, int], turns: Turns) -> Iterator[tuple[Lane, int]]:
    """Owners with lines that belong to no batch, and each one's `dispatch_order`: the index is entered once for each
    of them, whatever they have. Of very many owners, each round takes those that follow the last round's."""
    groups = _loose_groups(scope, turns.loose_from)
    if len(groups) < MAX_LOOSE and turns.loose_from >= 0:
        groups += [row for row in _loose_groups(scope, -1) if row.place <= turns.loose_from]
    turns.loose_from = groups[MAX_LOOSE - 1].place if len(groups) >= MAX_LOOSE else -1
    for row in groups[:MAX_LOOSE]:
        if row.owner is not None:
            key = (row.owner, None)
            yield Lane(key, 1.0, in_flight.get(key, 0), row.since), row.place


def _loose_groups(scope: Scope, past: int) -> list[AnyRow]:
    """Each `dispatch_order` beyond `past` among the waiting lines without a batch, with its first line's owner."""
    return list(scope.connection.execute(_groups(), {"now": scope.now, "past": past}))


@cache
def _groups() -> sa.Select[*tuple[Any, ...]]:
    """A recursion that jumps from one to the next, since neither database skips through an index by itself."""
    waiting = _waiting_lines(None)

    def first(column: Any, *conditions: sa.ColumnElement[bool]) -> sa.ScalarSelect[Any]:
        return sa.select(column).where(waiting, *conditions).order_by(*_IN_LANE).limit(1).scalar_subquery()

    beyond = Job.dispatch_order > sa.bindparam("past", type_=Job.dispatch_order.type)
    start = sa.select(first(Job.dispatch_order, beyond).label("place"), sa.literal(1).label("num"))
    jumps = start.cte("jumps", recursive=True)
    further = first(Job.dispatch_order, Job.dispatch_order > jumps.c.place)
    jumps = jumps.union_all(
        sa.select(further, jumps.c.num + 1).where(jumps.c.place.is_not(None), jumps.c.num < MAX_LOOSE)
    )
    here = Job.dispatch_order == jumps.c.place
    return sa.select(
        jumps.c.place, first(Job.owner, here).label("owner"), first(Job.created_at, here).label("since")
    ).where(jumps.c.place.is_not(None))


def _lines(
    scope: Scope, batch_id: str | None, loose: int | None, page: int, last: AnyRow | None = None
) -> Iterator[AnyRow]:
    """A lane's waiting lines past `last` in their order, read only as far as somebody follows, in growing pages."""
    while rows := _page(scope, batch_id, loose, page, last):
        yield from rows
        last, page = rows[-1], min(2 * page, CHUNK)


def _page(scope: Scope, batch_id: str | None, loose: int | None, limit: int, last: AnyRow | None) -> Sequence[AnyRow]:
    query = sa.select(*_LINE_COLUMNS).where(_waiting_lines(batch_id))
    if loose is not None:
        query = query.where(Job.dispatch_order == loose)
    if last is not None:
        query = query.where(sa.tuple_(*_LINE_ORDER) > _bound(_LINE_ORDER, last))
    return scope.connection.execute(query.order_by(*_IN_LANE).limit(limit), {"now": scope.now}).all()


def _bound(columns: Sequence[sa.orm.InstrumentedAttribute[Any]], row: Any) -> sa.Tuple:
    """The values of a row, to compare a tuple of columns with."""
    return sa.tuple_(*(sa.bindparam(None, getattr(row, column.key), column.type) for column in columns))


def mark_published(scope: Scope, ids: Collection[str]) -> None:
    """Note that a message is out. A row that somebody holds just now is being claimed: it needs no note."""
    _note_served(scope, scope.batches_of(ids))
    _mark(scope, [job.id for job in scope.lock_jobs(ids, skip_locked=True)], published=True)


def _note_served(scope: Scope, batches: Collection[str]) -> None:
    """Write `served_at`. A batch that another transaction holds (its lines are ending, or coming in) is left out:
    dispatch waits for nobody, and `Turns` remembers it."""
    free = sa.select(Batch.id).where(Batch.id.in_(batches)).order_by(Batch.id)
    ids = scope.connection.scalars(free.with_for_update(key_share=True, skip_locked=True)).all() if batches else ()
    if ids:
        scope.connection.execute(sa.update(Batch).where(Batch.id.in_(ids)).values(served_at=scope.now))


def _mark(scope: Scope, locked: Sequence[str], *, published: bool) -> None:
    if locked:
        scope.connection.execute(
            sa.update(Job)
            .where(Job.id.in_(locked), sa.text("jobs.state = 'queued'"))
            .values(published_at=scope.now if published else None)
        )


def unpublish_some(scope: Scope, after: Message | None) -> Message | None:
    """Forget a chunk of messages, those past `after` in the order of their index; the last one, None at the end."""
    order = (Job.priority, Job.published_at, Job.id)
    query = sa.select(*order).where(PUBLISHED)
    if after is not None:
        query = query.where(sa.tuple_(*order) > _bound(order, after))
    rows = scope.connection.execute(query.order_by(*order).limit(CHUNK)).all()
    _mark(scope, [job.id for job in scope.lock_jobs([row.id for row in rows], skip_locked=True)], published=False)
    return Message(rows[-1].priority, rows[-1].published_at, rows[-1].id) if rows else None


def chunks(ids: Collection[str]) -> Iterator[list[str]]:
    """Cut ids into pieces of at most CHUNK, sorted."""
    ordered = sorted(ids)
    return (ordered[start : start + CHUNK] for start in chain(range(0, len(ordered), CHUNK)))
