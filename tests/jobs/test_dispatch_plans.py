"""What a round, a place and an estimate cost must not grow with what waits: each statement enters a small index.

PostgreSQL is asked how many rows each plan really read, with statistics of the table, before it has any, and with those
of another day; SQLite, which does not say, for its plan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from jobs.database import open_engine
from jobs.states import Priority
from jobs.store import Store
from tests.jobs.support import Clock, claim, make_line, make_settings, submit_one, success

NUM_LINES = 2500
MAX_READ = 600
"""Rows that one statement may look at: a window of lines and some more, and far fewer than wait."""


UNKNOWN, STALE, FRESH = "before statistics", "with another day's statistics", "with statistics"


@pytest.fixture(params=[UNKNOWN, STALE, FRESH])
def full(request: pytest.FixtureRequest, database_url: str, clock: Clock) -> Iterator[Store]:
    """Two large batches and many lines without one that wait, a window in flight, and some ends."""
    engine = open_engine(database_url)
    # What PostgreSQL knows is said here: it must not look at a table that is half full, nor remember an earlier test's.
    _tell_postgres(
        engine,
        "ALTER TABLE jobs SET (autovacuum_enabled = off)",
        "DELETE FROM pg_statistic WHERE starelid = 'jobs'::regclass",
    )
    store = Store(engine, settings=make_settings(dispatch_window=64, republish_after_seconds=1000.0), clock=clock)
    if request.param == STALE:
        _know_another_day(store)
    batches = [store.submit([make_line() for _ in range(NUM_LINES)], new_batch=True, owner=owner) for owner in "ab"]
    for owner in "cde":
        store.submit([make_line() for _ in range(NUM_LINES // 2)], owner=owner)
    store.finish_many([(claim(store, job_id).ref, success()) for job_id in batches[0].ids[:50]])
    chosen = store.to_publish().batch
    store.mark_published(chosen)
    refs = [claim(store, job_id).ref for job_id in chosen[:20]]
    store.finish_many([(ref, success()) for ref in refs[:10]])
    submit_one(store)
    store.sample_batches()
    if request.param == FRESH:
        _tell_postgres(engine, "VACUUM ANALYZE")
    yield store
    engine.dispose()


def _tell_postgres(engine: sa.Engine, *statements: str) -> None:
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT", writes=False) as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)


def _know_another_day(store: Store) -> None:
    """One batch waits, and nothing without a batch: to these statistics "lines without one" is no row at all."""
    ids = store.submit([make_line() for _ in range(NUM_LINES // 5)], new_batch=True, owner="z").ids
    _tell_postgres(store.engine, "VACUUM ANALYZE jobs")
    store.finish_many([(claim(store, job_id).ref, success()) for job_id in ids])


def statements_of(store: Store, work: Callable[[], object]) -> list[tuple[str, Any]]:
    """Every SELECT, and the update of samples, that the work makes."""
    found: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: Any, *rest: object) -> None:
        if statement.startswith(("SELECT", "WITH")) and "pg_catalog" not in statement:
            found.append((statement.replace(" SKIP LOCKED", ""), parameters))

    sa.event.listen(store.engine, "before_cursor_execute", note)
    work()
    sa.event.remove(store.engine, "before_cursor_execute", note)
    return found


def rows_read(node: dict[str, Any]) -> int:
    """Rows that the scans of a plan looked at, those that they threw away included."""
    own = 0
    if "Scan" in node["Node Type"] and node.get("Relation Name") == "jobs":
        own = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        own *= node["Actual Loops"]
    return int(own) + sum(rows_read(child) for child in node.get("Plans", ()))


SMALL = re.compile(
    r"ix_jobs_unpublished \(priority=\? AND batch_id=\?|ix_jobs_unpublished \(priority=\?\)"
    r"|ix_jobs_owner_loose \(owner="
    r"|ix_jobs_published|ix_jobs_lease|ix_jobs_deadline|ix_jobs_batch \(batch_id=\? AND state=\?"
    r"|sqlite_autoindex_jobs_1 \(id=|\(state=\? AND id=\?\)"
)


def too_much(store: Store, statement: str, parameters: Any) -> str | None:
    """What a statement does too much of; None when it is small."""
    with store.engine.begin() as connection:
        if store.engine.dialect.name == "postgresql":
            store._scope(connection).prefer_indexes()
            ((plan,),) = connection.exec_driver_sql("EXPLAIN (ANALYZE, FORMAT JSON) " + statement, parameters).all()
            (top,) = json.loads(plan) if isinstance(plan, str) else plan
            num = rows_read(top["Plan"])
            return f"{num} rows: {statement} {json.dumps(top['Plan'])}" if num > MAX_READ else None
        rows = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters).all()
    for detail in (str(row[-1]) for row in rows):
        if re.match(r"(SCAN|SEARCH) jobs", detail) and not SMALL.search(detail):
            return f"{detail}: {statement}"
        if (
            detail == "USE TEMP B-TREE FOR ORDER BY"
            and "ix_jobs_unpublished" in str(rows)
            and "row_number" not in statement
        ):
            return f"sorts: {statement}"
    return None


def work_of(store: Store, clock: Clock) -> dict[str, Callable[[], object]]:
    line = next(job for job in store.list_jobs(limit=100, owner="b")[0] if job.state == "queued" and job.batch_id)
    loose = store.list_jobs(limit=1, owner="c")[0][0]
    interactive = store.list_jobs(limit=1, owner="")[0][0]
    published = next(job for job in store.list_jobs(limit=10_000)[0] if job.published_at is not None)
    batch = store.get_batch(str(line.batch_id))[0]

    def refill() -> None:
        clock.move(2000)  # Messages are missing, and the window has room.
        store.to_publish({Priority.BATCH: 0})

    return {
        "a round with room": lambda: store.to_publish({Priority.BATCH: 44}),
        "a sweep": store.sweep,
        "an emptied Redis": store.unpublish_all,
        "a sample": store.sample_batches,
        "rates": lambda: store.batch_rates(batch.id),
        "the place of a line": lambda: store.queue_position(line),
        "the place of a line without a batch": lambda: store.queue_position(loose),
        "the place of an interactive job": lambda: store.queue_position(interactive),
        "the place of a message": lambda: store.queue_position(published),
        "a poll": lambda: store.poll_after_seconds(line),
        "a poll of a batch": lambda: store.poll_after_seconds(batch),
        "a note of what is published": lambda: store.mark_published([line.id]),
        "how the queues stand": store.standing,
        "the depths of the queues": store.queue_depths,
        "an owner's queues": lambda: store.queue_depths("b"),
        "the queues of an owner of single jobs": lambda: store.queue_depths("c"),
        "what workers hold": lambda: store.held_by_workers("b"),
        "lost messages": refill,
    }


def test_nothing_reads_all_that_waits(full: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.store.waiting.MAX_COUNTED", 200)
    monkeypatch.setattr("jobs.store.standing.MAX_COUNTED", 200)
    monkeypatch.setattr("jobs.store.depths.MAX_COUNTED", 200)
    found = {name: statements_of(full, work) for name, work in work_of(full, clock).items()}
    assert [name for name, statements in found.items() if not statements] == []
    bad = [
        f"{name}: {problem}"
        for name, statements in found.items()
        for statement, parameters in statements
        if (problem := too_much(full, statement, parameters))
    ]
    assert bad == []
