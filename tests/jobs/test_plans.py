"""What is asked often must cost the same beside a million rows: each statement's plan is an index that it enters.

Plans are asserted, not times. The tables are large enough, and PostgreSQL knows them well enough, that reading one from
end to end would not be the better plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from jobs.database import open_engine
from jobs.keys import Quota
from jobs.records import Failed
from jobs.states import JobState
from jobs.store import Store, cancelling
from tests.jobs.batch_support import checked_lines, line_ids, make_batch
from tests.jobs.support import Clock, claim, make_job, make_settings, submit_one, success

NUM_LINES = 4000


@pytest.fixture
def full(database_url: str) -> Iterator[Store]:
    """Two large batches of one owner, some of their lines ended, and a few jobs of somebody else."""
    engine = open_engine(database_url)
    store = Store(engine, settings=make_settings(), clock=Clock())
    lines = checked_lines(NUM_LINES, 600)
    for _ in range(2):
        batch = make_batch(store, NUM_LINES, 600, owner="many")
        assert store.take_in(batch.id, lines, lines[-1].end, done=True)
    ids = line_ids(store, batch.id)
    store.finish_many([(claim(store, job_id).ref, success()) for job_id in ids[600:900]])
    store.mark_published(ids[900:920])
    for job_id in ids[920:923]:
        claim(store, job_id)
    for _ in range(3):
        submit_one(store)
    store.finish(claim(store, submit_one(store)).ref, Failed("bad", "never", False))
    if engine.dialect.name == "postgresql":  # It gathers statistics by itself; SQLite never does.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT", writes=False) as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    yield store
    engine.dispose()


def plans_of(store: Store, work: Callable[[], object]) -> list[str]:
    """Do the work, and ask the database how it runs each SELECT that the work makes."""
    statements: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: Any, *rest: object) -> None:
        if statement.startswith("SELECT") and any(f"FROM {name}" in statement for name in ("jobs", "generations")):
            statements.append((statement, parameters))

    sa.event.listen(store.engine, "before_cursor_execute", note)
    work()
    sa.event.remove(store.engine, "before_cursor_execute", note)
    prefix = "EXPLAIN QUERY PLAN " if store.engine.dialect.name == "sqlite" else "EXPLAIN "
    with store.engine.begin() as connection:
        return [
            statement + "\n" + "\n".join(str(row[-1]) for row in connection.exec_driver_sql(prefix + statement, given))
            for statement, given in statements
        ]


def goes_through_all(plan: str) -> bool:
    """Whether a plan reads all jobs, or sorts what it found before it answers the first row."""
    lines = plan.split("\n")
    scans = [line for line in lines if line == "SCAN jobs" or "Seq Scan on jobs" in line]
    if "ORDER BY jobs.line_number" not in plan and "ORDER BY jobs.end_number" not in plan:
        # The index of a batch that is entered for nothing but the batch: all its lines.
        scans += [line for line in lines if "(batch_id=?)" in line]
    sorts = [line for line in lines if "TEMP B-TREE FOR ORDER BY" in line]
    return bool(scans or sorts)


Work = Callable[[Store, str, Sequence[str]], object]
"""What is done with the store, a batch and the ids of its lines."""

OFTEN: dict[str, Work] = {
    "a job": lambda store, _, ids: store.get(ids[0]),
    "a batch": lambda store, batch_id, _: store.get_batch(batch_id),
    "batches": lambda store, _, __: store.counts_of(store.list_batches()[0]),
    "the newest jobs": lambda store, _, __: store.list_jobs(),
    "an owner's jobs": lambda store, _, __: store.list_jobs(owner="many"),
    "another owner's jobs": lambda store, _, __: store.list_jobs(owner=""),
    "an owner's next jobs": lambda store, _, ids: store.list_jobs(owner="many", after=ids[9]),
    "failed jobs": lambda store, _, __: store.list_jobs(JobState.FAILED),
    "running jobs": lambda store, _, __: store.list_jobs(JobState.RUNNING),
    "an owner's failed jobs": lambda store, _, __: store.list_jobs(JobState.FAILED, owner=""),
    "a batch's lines": lambda store, batch_id, _: store.list_jobs(batch_id=batch_id, owner="many"),
    "a batch's failed lines": lambda store, batch_id, _: store.list_jobs(JobState.FAILED, batch_id, owner="many"),
    "a batch's ends": lambda store, batch_id, _: store.ended_lines(batch_id, 100),
    "a batch's failed ends": lambda store, batch_id, _: store.ended_lines(batch_id, 100, succeeded=False),
    "a batch's lines in their order": lambda store, batch_id, _: store.lines_in_order(batch_id, 700),
    "jobs by how their ids begin": lambda store, _, ids: store.list_jobs(id_prefix=ids[9][:20]),
    "the depths of the queues": lambda store, _, __: store.queue_depths(),
    "the depths of an owner's queues": lambda store, _, __: store.queue_depths("many"),
    "what workers hold of another owner's": lambda store, _, __: store.held_by_workers(""),
    "texts": lambda store, _, ids: store.generations(ids[600:620]),
    "a claim": lambda store, _, ids: store.claim(ids[1000], "w"),
    "what an owner has open": lambda store, _, __: store.queued_tokens("many"),
    "what another owner has open": lambda store, _, __: store.queued_tokens(""),
    "a job under a limit": lambda store, _, __: store.submit([make_job()], owner="many", quota=Quota(10**9, 100)),
    "a sweep": lambda store, _, __: store.sweep(),
    "a retry": lambda store, batch_id, _: store.retry_batch(batch_id),
    "a sweep that cancels": lambda store, batch_id, _: (_mark(store, batch_id), store.sweep()),
    "a cancel": lambda store, batch_id, _: store.cancel_batch(batch_id),
}


def _mark(store: Store, batch_id: str) -> None:
    with store._writing() as scope:
        cancelling.request_batch(scope, batch_id)


def test_nothing_that_is_asked_often_goes_through_all_rows(full: Store) -> None:
    batch_id = full.list_batches()[0][0].id
    ids = line_ids(full, batch_id)
    bad: list[str] = []
    for what, work in OFTEN.items():
        plans = plans_of(full, partial(work, full, batch_id, ids))
        assert plans or what == "a claim", what
        bad += [f"{what}: {plan}" for plan in plans if goes_through_all(plan)]
    assert bad == []
