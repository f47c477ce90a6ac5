"""Which jobs get a message, in which order, and how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import pytest
import sqlalchemy as sa

from jobs.database import open_engine
from jobs.records import Failed, Interrupted
from jobs.states import Priority
from jobs.store import Store, dispatching
from jobs.tables import Batch, Job
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


def share_of(published: list[str], **owners: Collection[str]) -> dict[str, int]:
    """How many of the published jobs are among each one's."""
    return {name: len(set(ids) & set(published)) for name, ids in owners.items()}


def test_keys_share_by_their_weights(store: Store) -> None:
    store.settings = make_settings(dispatch_window=8, key_weights={"heavy": 3.0})
    heavy = store.submit([make_line() for _ in range(50)], owner="heavy", new_batch=True)
    light = store.submit([make_line() for _ in range(50)], owner="light", new_batch=True)
    assert share_of(publish(store), heavy=heavy.ids, light=light.ids) == {"heavy": 6, "light": 2}


def test_batches_of_one_key_share_by_theirs(narrow: Store) -> None:
    heavy, light = (narrow.submit([make_line() for _ in range(50)], new_batch=True) for _ in range(2))
    change_batch(narrow, heavy.batch_id, weight=3.0)
    assert share_of(publish(narrow), heavy=heavy.ids, light=light.ids) == {"heavy": 6, "light": 2}


def change_batch(store: Store, batch_id: str | None, **values: object) -> None:
    with store.engine.begin() as connection:
        connection.execute(sa.update(Batch).where(Batch.id == batch_id).values(**values))


def run(store: Store, ids: Collection[str]) -> None:
    store.finish_many([(claim(store, job_id).ref, success()) for job_id in ids])


@pytest.mark.parametrize("restarts", [False, True])
def test_more_batches_than_places_all_have_their_turn(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, *, restarts: bool
) -> None:
    """Two places, more batches than a round looks at, and a dispatcher that forgets: `served_at` says who is next."""
    store.settings = make_settings(dispatch_window=2)
    monkeypatch.setattr(dispatching, "MAX_LANES", 4)
    made = [store.submit([make_line() for _ in range(4)], new_batch=True) for _ in range(10)]
    served: list[str] = []
    for _ in range(10):
        clock.move(1)
        if restarts:
            store = Store(store.engine, settings=store.settings, clock=clock)
        ids = publish(store)
        run(store, ids)
        served += ids
    assert len(served) == 20
    assert [len(set(batch.ids) & set(served)) for batch in made] == [2] * 10


def test_owners_of_lines_without_a_batch_share_however_many_one_has(narrow: Store) -> None:
    many = narrow.submit([make_line() for _ in range(50)], owner="many")
    few = narrow.submit([make_line() for _ in range(5)], owner="few")
    assert share_of(publish(narrow), many=many.ids, few=few.ids) == {"many": 4, "few": 4}


def test_very_many_owners_of_lines_without_a_batch_all_have_their_turn(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.settings = make_settings(dispatch_window=2)
    monkeypatch.setattr(dispatching, "MAX_LOOSE", 3)
    made = [store.submit([make_line() for _ in range(10)], owner=f"owner-{number}") for number in range(7)]
    served: list[str] = []
    for _ in range(14):
        clock.move(1)
        ids = publish(store)
        run(store, ids)
        served += ids
    assert len(served) == 28
    assert all(share_of(served, own=batch.ids)["own"] >= 2 for batch in made)


def test_lines_without_a_batch_from_before_they_had_a_lane_go_out_too(narrow: Store) -> None:
    """Older code gave all of them the same `dispatch_order`."""
    old = narrow.submit([make_line() for _ in range(3)], owner="a")
    with narrow.engine.begin() as connection:
        connection.execute(sa.update(Job).values(dispatch_order=0))
    new = narrow.submit([make_line() for _ in range(3)], owner="a")
    assert sorted(publish(narrow)) == sorted([*old.ids, *new.ids])


def test_lines_with_a_common_prefix_go_out_together(narrow: Store) -> None:
    made = narrow.submit([make_line() for _ in range(6)], new_batch=True)
    with narrow.engine.begin() as connection:
        for job_id, place in zip(made.ids, (0, 1, 0, 1, 4, 0), strict=True):
            connection.execute(sa.update(Job).where(Job.id == job_id).values(dispatch_order=place))
    assert publish(narrow) == [made.ids[index] for index in (0, 2, 5, 1, 3, 4)]


def test_a_batch_whose_window_is_over_is_not_dispatched(narrow: Store, clock: Clock) -> None:
    made = narrow.submit([make_line()], new_batch=True)
    change_batch(narrow, made.batch_id, expires_at=clock.now)
    assert publish(narrow) == []


def test_workers_widen_the_window_by_their_slots(narrow: Store, clock: Clock) -> None:
    narrow.submit([make_line() for _ in range(200)], new_batch=True)
    assert narrow.to_publish().window == 8
    narrow.heartbeat("one", "demo", 18, 0, 0.0)
    narrow.heartbeat("two", "demo", 10, 0, 0.0)
    assert (narrow.to_publish().window, len(publish(narrow))) == (112, 112)
    clock.move(20)
    narrow.heartbeat("two", "demo", 10, 0, 0.0)
    clock.move(20)  # One is dead.
    assert narrow.to_publish().window == 40


def test_a_window_does_not_grow_beyond_what_redis_should_hold(store: Store) -> None:
    store.heartbeat("rack", "demo", 100_000, 0, 0.0)
    assert store.to_publish().window == dispatching.MAX_WINDOW
    store.settings = make_settings(dispatch_window=20_000)
    assert store.to_publish().window == 20_000


def test_a_round_may_look_at_one_kind_only(narrow: Store) -> None:
    interactive = submit_one(narrow)
    line = narrow.submit([make_line()], new_batch=True).ids[0]
    assert not narrow.to_publish({}, (Priority.BATCH,)).interactive
    assert not narrow.to_publish({}, (Priority.INTERACTIVE,)).batch
    assert sorted(publish(narrow)) == sorted([interactive, line])


def test_dispatch_does_not_wait_for_a_batch_that_somebody_holds(postgres_url: str, clock: Clock) -> None:
    """While a chunk of it comes in, or lines of it end: its lines are marked all the same. (SQLite has one writer.)"""
    store = Store(open_engine(postgres_url), settings=make_settings(), clock=clock)
    made = store.submit([make_line() for _ in range(5)], new_batch=True)
    with store.engine.begin() as holder:
        holder.execute(sa.select(Batch.id).where(Batch.id == made.batch_id).with_for_update(key_share=True))
        assert publish(store) == list(made.ids)
    assert store.get_batch(str(made.batch_id))[0].served_at is None
    assert store.get(made.ids[0]).published_at is not None
    store.engine.dispose()


def test_a_batch_remembers_when_it_was_served(narrow: Store, clock: Clock) -> None:
    made = narrow.submit([make_line() for _ in range(5)], new_batch=True)
    clock.move(7)
    publish(narrow)
    assert narrow.get_batch(str(made.batch_id))[0].served_at == clock.now


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
