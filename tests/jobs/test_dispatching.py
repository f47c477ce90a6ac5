"""Which jobs get a message, in which order, and how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from jobs.records import Failed, Interrupted
from jobs.states import Priority
from jobs.store import Store, dispatching
from tests.jobs.support import Clock, claim, make_job, make_line, make_settings, submit_one, success


@pytest.fixture
def narrow(store: Store) -> Store:
    """The store with a window of eight lines."""
    store.settings = make_settings(dispatch_window=8)
    return store


def publish(store: Store, num_waiting: dict[Priority, int] | None = None) -> list[str]:
    chosen = store.to_publish(num_waiting)
    ids = [*chosen.interactive, *chosen.batch]
    store.mark_published(ids)
    return ids


def test_an_interactive_job_is_published_once(store: Store) -> None:
    job_id = submit_one(store)
    assert publish(store) == [job_id]
    assert publish(store, {Priority.INTERACTIVE: 1}) == []


def test_a_job_in_backoff_waits_for_its_time(store: Store, clock: Clock) -> None:
    job_id = submit_one(store)
    store.finish(claim(store, job_id).ref, Failed("busy", "again", True))
    assert publish(store) == []
    clock.move(2)
    assert publish(store) == [job_id]


def test_an_interrupted_job_is_published_again(store: Store) -> None:
    job_id = submit_one(store)
    publish(store)
    store.finish(claim(store, job_id).ref, Interrupted())
    assert publish(store) == [job_id]


def test_a_window_bounds_the_lines_in_flight(narrow: Store) -> None:
    made = narrow.submit([make_line() for _ in range(20)], new_batch=True)
    assert publish(narrow) == list(made.ids[:8])
    assert publish(narrow, {Priority.BATCH: 8}) == []
    refs = [claim(narrow, job_id).ref for job_id in made.ids[:3]]
    assert publish(narrow, {Priority.BATCH: 5}) == []  # A running line is in flight as well.
    for ref in refs:
        narrow.finish(ref, success())
    assert publish(narrow, {Priority.BATCH: 5}) == list(made.ids[8:11])


@pytest.mark.parametrize("worker_died", [False, True])
def test_a_line_that_lost_its_worker_goes_before_those_that_never_ran(
    narrow: Store, clock: Clock, *, worker_died: bool
) -> None:
    made = narrow.submit([make_line() for _ in range(20)], new_batch=True)
    publish(narrow)
    clock.move(1)
    ref = claim(narrow, made.ids[2]).ref
    if worker_died:
        clock.move(narrow.settings.lease_seconds)
        narrow.sweep()
    else:
        narrow.finish(ref, Interrupted())
    assert publish(narrow, {Priority.BATCH: 7}) == [made.ids[2]]


def test_batches_share_the_window(narrow: Store) -> None:
    first = narrow.submit([make_line() for _ in range(50)], new_batch=True)
    second = narrow.submit([make_line() for _ in range(50)], new_batch=True)
    assert publish(narrow) == [job_id for pair in zip(first.ids[:4], second.ids[:4], strict=True) for job_id in pair]


def test_owners_share_the_window_before_their_batches_do(narrow: Store) -> None:
    for _ in range(3):
        narrow.submit([make_line() for _ in range(50)], owner="many", new_batch=True)
    few = narrow.submit([make_line() for _ in range(50)], owner="few", new_batch=True)
    owners = Counter("few" if job_id in few.ids else "many" for job_id in publish(narrow))
    assert owners == {"few": 4, "many": 4}


def test_a_late_batch_gets_the_places_that_come_free(narrow: Store) -> None:
    first = narrow.submit([make_line() for _ in range(50)], new_batch=True)
    publish(narrow)
    second = narrow.submit([make_line() for _ in range(50)], new_batch=True)
    for job_id in first.ids[:4]:
        narrow.finish(claim(narrow, job_id).ref, success())
    assert publish(narrow, {Priority.BATCH: 4}) == list(second.ids[:4])


def test_a_short_batch_leaves_its_places_to_the_others(narrow: Store) -> None:
    first = narrow.submit([make_line()], new_batch=True)
    second = narrow.submit([make_line() for _ in range(50)], new_batch=True)
    assert publish(narrow) == [first.ids[0], *second.ids[:7]]


def test_lines_without_a_batch_go_along(narrow: Store) -> None:
    loose = narrow.submit([make_line(), make_line()])
    batch = narrow.submit([make_line() for _ in range(20)], new_batch=True)
    published = publish(narrow)
    assert set(loose.ids) <= set(published)
    assert len(set(batch.ids) & set(published)) == 6


def test_a_message_that_redis_lost_is_sent_again_after_a_while(store: Store, clock: Clock) -> None:
    jobs = store.submit([make_job(), make_job(), make_line()]).ids
    publish(store)
    assert publish(store, {}) == []
    clock.move(16)
    assert sorted(publish(store, {Priority.INTERACTIVE: 1})) == sorted([jobs[0], jobs[2]])


def test_patient_messages_are_not_doubled(store: Store, clock: Clock) -> None:
    store.submit([make_job() for _ in range(5)])
    publish(store)
    clock.move(1000)
    assert publish(store, {Priority.INTERACTIVE: 5}) == []


def test_an_emptied_redis_is_refilled(narrow: Store) -> None:
    interactive = submit_one(narrow)
    made = narrow.submit([make_line() for _ in range(20)], new_batch=True)
    before = publish(narrow)
    narrow.unpublish_all()
    assert publish(narrow) == before == [interactive, *made.ids[:8]]


def test_unpublishing_goes_through_many_chunks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatching, "CHUNK", 3)
    ids = store.submit([make_job() for _ in range(10)]).ids
    publish(store)
    store.unpublish_all()
    assert sorted(publish(store)) == sorted(ids)


def test_a_job_claimed_meanwhile_is_not_marked(store: Store) -> None:
    job_id = submit_one(store)
    claim(store, job_id)
    store.mark_published([job_id])
    assert store.get(job_id).published_at is None


def plans_of(store: Store, work: Callable[[], object]) -> list[str]:
    """Do the work, and ask the database how it runs each SELECT that the work made."""
    statements: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: Any, *rest: object) -> None:
        if statement.startswith("SELECT") and "FROM jobs" in statement and "FOR NO KEY" not in statement:
            statements.append((statement, parameters))

    sa.event.listen(store.engine, "before_cursor_execute", note)
    work()
    sa.event.remove(store.engine, "before_cursor_execute", note)
    prefix = "EXPLAIN QUERY PLAN " if store.engine.dialect.name == "sqlite" else "EXPLAIN "
    with store.engine.begin() as connection:
        return [
            statement + str(connection.exec_driver_sql(prefix + statement, parameters).all())
            for statement, parameters in statements
        ]


def test_a_round_over_many_waiting_lines_reads_small_indexes_only(store: Store, clock: Clock) -> None:
    """What a round costs must not grow with what waits: no statement of it may go through all queued jobs."""
    for _ in range(3):
        store.submit([make_line(deadline_seconds=1000) for _ in range(1000)], new_batch=True)
    publish(store)
    claim(store, submit_one(store))
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT", writes=False) as connection:
        if store.engine.dialect.name == "postgresql":  # It gathers statistics by itself; SQLite never does.
            connection.exec_driver_sql("VACUUM ANALYZE jobs")
    clock.move(20)
    plans = plans_of(store, lambda: (store.sweep(), store.to_publish({Priority.BATCH: 10})))
    assert len(plans) >= 8
    small = ("ix_jobs_unpublished", "ix_jobs_published", "ix_jobs_lease", "ix_jobs_deadline", "ix_jobs_batch")
    assert [plan for plan in plans if not any(index in plan for index in small)] == []
