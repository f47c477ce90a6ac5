"""What is kept for a while only, and what older code leaves undone during a rolling upgrade."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from jobs.records import Forgotten
from jobs.store import Store, numbering
from jobs.tables import Batch, BatchSample, Delivery, IdempotencyKey, Job, Webhook
from tests.jobs.batch_support import end_all, line_ids, taken_batch, write_files
from tests.jobs.support import Clock, make_job, make_line


def test_old_keys_workers_samples_and_deliveries_are_forgotten(store: Store, clock: Clock) -> None:
    running, ended = taken_batch(store, 1), taken_batch(store, 1)
    end_all(store, ended.id)
    store.submit([make_job()], idempotency_key="old", body_sha256="a")
    store.heartbeat("old", "demo", 1, 0, 0.0)
    with store._writing() as scope:
        samples = [
            {"batch_id": batch.id, "at": clock.now, "num_ended": 0, "num_completion_tokens": 0}
            for batch in (running, ended)
        ]
        scope.connection.execute(sa.insert(BatchSample), samples)
        hook = {"id": "wh", "url": "u", "events": [], "secret": "s", "created_at": clock.now}
        scope.connection.execute(sa.insert(Webhook), [hook])
        fields = {"webhook_id": "wh", "event_type": "e", "object_id": "o", "data": {}, "created_at": clock.now}
        due = [None, clock.now + timedelta(days=1)]
        scope.connection.execute(
            sa.insert(Delivery), [{**fields, "id": f"d{n}", "next_attempt_at": at} for n, at in enumerate(due)]
        )
    assert store.forget() == Forgotten(num_samples=1)
    clock.move(31 * 24 * 3600)
    store.submit([make_job()], idempotency_key="new", body_sha256="a")
    store.heartbeat("new", "demo", 1, 0, 0.0)
    assert store.forget() == Forgotten(num_keys=1, num_workers=1, num_deliveries=1)
    assert not store.forget()
    with store._reading() as scope:
        assert scope.connection.scalars(sa.select(IdempotencyKey.key)).all() == ["jobs:new"]
        assert scope.connection.scalars(sa.select(Delivery.id)).all() == ["d1"]
    assert [worker.name for worker in store.list_workers()] == ["new"]


def end_as_older_code_does(store: Store, job_id: str) -> None:
    """Cancel a queued line without a number for its end."""
    with store._writing() as scope:
        batch_id = scope.connection.scalar(sa.select(Job.batch_id).where(Job.id == job_id))
        cancelled = sa.update(Job).where(Job.id == job_id).values(state="cancelled", ended_at=scope.now)
        scope.connection.execute(cancelled)
        num_ended: sa.ColumnElement[int] = Batch.num_succeeded + Batch.num_cancelled + 1
        scope.connection.execute(
            sa.update(Batch)
            .where(Batch.id == batch_id)
            .values(
                num_cancelled=Batch.num_cancelled + 1,
                ended_at=sa.case((num_ended == Batch.num_total, scope.now), else_=None),
            )
        )


def test_the_sweep_numbers_ends_that_older_code_left_without(store: Store, clock: Clock) -> None:
    batch = taken_batch(store, 4)
    ids = line_ids(store, batch.id)
    for job_id in (ids[2], ids[0]):
        clock.move(1)
        end_as_older_code_does(store, job_id)
    store.sweep()
    assert [line.job.id for line in store.ended_lines(batch.id)] == [ids[2], ids[0]]
    end_as_older_code_does(store, ids[1])
    end_all(store, batch.id)
    assert store.get_batch(batch.id)[0].num_ends == 3
    write_files(store, batch.id)
    assert not store.finalize(batch.id)  # It finds the end without a number, and gives it one.
    write_files(store, batch.id)
    assert store.finalize(batch.id)
    assert sorted(line.end_number for line in store.ended_lines(batch.id)) == [1, 2, 3, 4]
    assert store.audit() == []


def test_many_ends_without_a_number_are_numbered_in_chunks(store: Store, monkeypatch: object) -> None:
    made = store.submit([make_line() for _ in range(5)], new_batch=True)
    for job_id in made.ids:
        end_as_older_code_does(store, job_id)
    monkeypatch.setattr(numbering, "CHUNK", 2)  # type: ignore[attr-defined]
    store.sweep()  # The batch has ended, so the sweep does not look at it: housekeeping does.
    assert store.ended_lines(str(made.batch_id)) == []
    for _ in range(3):
        store.forget()
    assert [line.job.id for line in store.ended_lines(str(made.batch_id))] == list(made.ids)
    assert store.audit() == []


def test_a_batch_that_older_code_made_is_noted_as_taken(store: Store) -> None:
    made = store.submit([make_line()], new_batch=True)
    with store._writing() as scope:
        scope.connection.execute(sa.update(Batch).values(num_taken=0, taken_at=None))
    assert store.audit() == []
    store.forget()
    batch = store.get_batch(str(made.batch_id))[0]
    assert (batch.num_taken, batch.taken_at) == (1, batch.created_at)
