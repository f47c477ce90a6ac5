"""Webhooks and the outbox, on SQLite and PostgreSQL: an end and its delivery come together, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from jobs.errors import IdempotencyConflict, InvalidRequest, NotFound
from jobs.records import Failed, Interrupted
from jobs.states import JobState
from jobs.store import Store, outbox
from jobs.store.scope import Scope
from jobs.tables import Batch, Delivery, Webhook
from jobs.webhooks import EVENTS, MAX_WEBHOOKS, NewWebhook
from tests.jobs.batch_support import (
    checked_lines,
    end_all,
    failed,
    line_ids,
    make_batch,
    take_in,
    taken_batch,
    write_files,
)
from tests.jobs.support import Clock, claim, make_line, submit_one, success
from tests.jobs.test_races import at_once

SECRET_PROMPT = "a prompt that nobody else may read"


def listen(store: Store, *events: str, owner: str = "", **changes: Any) -> Webhook:
    new = NewWebhook("https://target.example/hook", events or EVENTS, **changes)
    return store.create_webhook(new, owner)[0]


def told(store: Store, webhook: Webhook) -> list[tuple[str, str]]:
    """What a webhook was told, the first event first: type and object."""
    rows, has_more = store.deliveries(webhook.id, limit=1000)
    assert not has_more
    return [(row.event_type, row.object_id) for row in reversed(rows)]


def num_deliveries(store: Store) -> int:
    with store.engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(Delivery)) or 0


def run(store: Store, job_id: str) -> None:
    store.finish(claim(store, job_id).ref, success())


def fail(store: Store, job_id: str) -> None:
    store.finish(claim(store, job_id).ref, Failed("broken", SECRET_PROMPT, retryable=False))


def expire(store: Store, clock: Clock) -> str:
    job_id = submit_one(store, deadline_seconds=5)
    clock.move(6)
    store.sweep()
    return job_id


def test_each_end_of_a_job_is_told(store: Store, clock: Clock) -> None:
    webhook = listen(store)
    jobs = [submit_one(store, prompt=SECRET_PROMPT) for _ in range(3)]
    run(store, jobs[0])
    fail(store, jobs[1])
    store.cancel(jobs[2])
    expired = expire(store, clock)
    events = ("job.succeeded", "job.failed", "job.cancelled", "job.expired")
    assert told(store, webhook) == list(zip(events, [*jobs, expired], strict=True))


def test_a_webhook_hears_only_what_it_listens_to(store: Store) -> None:
    webhook = listen(store, "job.failed")
    run(store, submit_one(store))
    failed = submit_one(store)
    fail(store, failed)
    assert told(store, webhook) == [("job.failed", failed)]


def test_a_webhook_hears_only_of_what_its_owner_has(store: Store) -> None:
    alice, bob = listen(store, owner="alice"), listen(store, owner="bob")
    store.cancel(store.submit([make_line()], owner="alice").ids[0])
    assert (len(told(store, alice)), told(store, bob)) == (1, [])


def test_an_attempt_that_is_no_end_is_not_told(store: Store) -> None:
    webhook = listen(store)
    job_id = submit_one(store)
    store.finish(claim(store, job_id).ref, Interrupted())
    store.finish(claim(store, job_id).ref, Failed("broken", "Later.", retryable=True))
    assert told(store, webhook) == []


def test_lines_of_batches_are_told_only_where_they_are_included(store: Store) -> None:
    plain, chatty = listen(store), listen(store, include_batch_lines=True)
    made = store.submit([make_line() for _ in range(3)], new_batch=True)
    for job_id in made.ids:
        run(store, job_id)
    assert told(store, plain) == [("batch.completed", made.batch_id)]
    assert told(store, chatty)[:3] == [("job.succeeded", job_id) for job_id in made.ids]
    assert told(store, chatty)[3:] == [("batch.completed", made.batch_id)]


def test_a_batch_is_told_once_when_its_last_line_ends(store: Store) -> None:
    webhook = listen(store)
    made = store.submit([make_line() for _ in range(3)], new_batch=True)
    run(store, made.ids[0])
    fail(store, made.ids[1])
    assert told(store, webhook) == []
    run(store, made.ids[2])
    assert told(store, webhook) == [("batch.completed", made.batch_id)]
    (row,), _ = store.deliveries(webhook.id)
    assert row.data["status"] == "completed"
    assert row.data["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert row.data["counts"] == {"succeeded": 2, "failed": 1, "cancelled": 0, "expired": 0}


def test_a_cancelled_batch_is_told_as_cancelled(store: Store) -> None:
    webhook = listen(store)
    made = store.submit([make_line() for _ in range(3)], new_batch=True)
    assert made.batch_id is not None
    store.cancel_batch(made.batch_id)
    assert told(store, webhook) == [("batch.cancelled", made.batch_id)]


def test_a_batch_that_is_open_again_is_told_again_when_it_ends(store: Store) -> None:
    webhook = listen(store, "batch.completed")
    made = store.submit([make_line()], new_batch=True)
    fail(store, made.ids[0])
    store.requeue(made.ids[0])
    run(store, made.ids[0])
    assert told(store, webhook) == [("batch.completed", made.batch_id)] * 2


@pytest.mark.parametrize(
    ("columns", "status"),
    [
        ({}, "completed"),
        ({"num_expired": 0, "expires_at": True}, "completed"),
        ({"num_expired": 1, "num_total": 1, "expires_at": True}, "expired"),
        ({"num_expired": 1, "num_total": 1, "expires_at": True, "cancel_requested_at": True}, "cancelled"),
        ({"failed_at": True}, "failed"),
    ],
)
def test_a_batch_with_files_is_told_when_it_is_final(
    store: Store, clock: Clock, columns: dict[str, Any], status: str
) -> None:
    webhook = listen(store)
    values = {name: clock.now if value is True else value for name, value in columns.items()}
    with store._writing() as scope:
        row = {
            "id": "batch_1",
            "created_at": clock.now,
            "input_file_id": "file-1",
            "output_file_id": "file-2",
            **values,
        }
        scope.connection.execute(sa.insert(Batch).values(row))
        outbox.batch_ended(scope, "batch_1")
    assert told(store, webhook) == [(f"batch.{status}", "batch_1")]
    (told_of,), _ = store.deliveries(webhook.id)
    assert (told_of.data["status"], told_of.data["output_file_id"]) == (status, "file-2")


def test_a_batch_with_files_is_told_once_its_files_are_whole(store: Store) -> None:
    webhook = listen(store)
    batch = taken_batch(store, 3, 1)
    end_all(store, batch.id)
    assert told(store, webhook) == []
    write_files(store, batch.id)
    assert [store.finalize(batch.id) for _ in range(2)] == [True, False]
    assert told(store, webhook) == [("batch.completed", batch.id)]
    (row,), _ = store.deliveries(webhook.id)
    final = store.get_batch(batch.id)[0]
    assert row.data["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert row.data["usage"] == {"input_tokens": 6, "output_tokens": 4, "total_tokens": 10}
    files = (row.data["input_file_id"], row.data["output_file_id"], row.data["error_file_id"])
    assert files == (final.input_file_id, final.output_file_id, final.error_file_id)
    assert None not in files


def test_two_clerks_at_once_make_one_delivery(store: Store) -> None:
    webhook = listen(store)
    batch = taken_batch(store, 2)
    end_all(store, batch.id)
    write_files(store, batch.id)
    assert sorted(at_once([partial(store.finalize, batch.id)] * 3)) == [False, False, True]
    assert told(store, webhook) == [("batch.completed", batch.id)]


def test_a_batch_that_is_tried_again_is_told_again(store: Store) -> None:
    webhook = listen(store)
    batch = taken_batch(store, 2)
    end_all(store, batch.id, failed())
    write_files(store, batch.id)
    store.finalize(batch.id)
    store.retry_batch(batch.id)
    end_all(store, batch.id)
    write_files(store, batch.id)
    store.finalize(batch.id)
    assert told(store, webhook) == [("batch.completed", batch.id)] * 2
    newest, oldest = (row.data["counts"] for row in store.deliveries(webhook.id)[0])
    assert (oldest["failed"], newest["succeeded"], newest["failed"]) == (2, 2, 0)


def test_a_window_that_ran_out_is_told_as_expired(store: Store, clock: Clock) -> None:
    webhook = listen(store)
    batch = taken_batch(store, 2)
    clock.move(3601)
    store.sweep()
    write_files(store, batch.id)
    store.finalize(batch.id)
    assert told(store, webhook) == [("batch.expired", batch.id)]


def test_a_refused_batch_is_told_once_however_often_the_reasons_are_given(store: Store) -> None:
    webhook = listen(store)
    refused_at_birth = make_batch(store, 2, 2)
    refused_later = make_batch(store, 2)
    for batch in (refused_at_birth, refused_later, refused_later):
        assert store.fail_batch(batch.id, [{"code": "c", "message": "m", "param": None, "line": 1}])
    assert told(store, webhook) == [("batch.failed", refused_at_birth.id), ("batch.failed", refused_later.id)]


def test_lines_that_are_born_ended_are_told_where_lines_are_included(store: Store) -> None:
    plain, chatty = listen(store), listen(store, include_batch_lines=True)
    batch = make_batch(store, 3, 1)
    store.cancel_batch(batch.id)
    take_in(store, batch, checked_lines(3, 1))
    assert told(store, plain) == []
    lines = line_ids(store, batch.id)
    assert sorted(told(store, chatty)) == sorted(
        [("job.failed", lines[0]), ("job.cancelled", lines[1]), ("job.cancelled", lines[2])]
    )


def test_an_end_that_is_rolled_back_is_not_told(store: Store) -> None:
    listen(store)
    job_id = submit_one(store)
    with pytest.raises(ZeroDivisionError), store._writing() as scope:
        break_after_ending(scope, job_id)
    assert (num_deliveries(store), store.get(job_id).state) == (0, JobState.QUEUED)


def break_after_ending(scope: Scope, job_id: str) -> None:
    from jobs.store import ending

    ending.end_queued(scope, [job_id], JobState.CANCELLED)
    raise ZeroDivisionError


def test_ends_of_one_job_at_once_are_told_once(store: Store) -> None:
    webhook = listen(store)
    for _ in range(5):
        job_id = submit_one(store)
        at_once([partial(store.cancel, job_id) for _ in range(4)])
    assert len(told(store, webhook)) == len(set(told(store, webhook))) == 5


def test_ends_cost_one_statement_where_nobody_listens(store: Store) -> None:
    listen(store, "batch.failed")
    deleted = listen(store)
    made = store.submit([make_line() for _ in range(50)], new_batch=True)
    with_listener = statements(store, partial(store.cancel, made.ids[0]))
    for webhook in store.list_webhooks()[0]:
        store.delete_webhook(webhook.id)
    without = statements(store, partial(store.cancel, made.ids[1]))
    assert len([one for one in without if "webhooks" in one]) == 1
    assert not [one for one in without if "deliveries" in one]
    assert len(with_listener) - len(without) == 1  # Which of the ended are the batches that ended with them.
    assert num_deliveries(store) == 0
    with pytest.raises(NotFound):
        store.get_webhook(deleted.id)


def statements(store: Store, call: Callable[[], object]) -> Sequence[str]:
    seen: list[str] = []

    def note(*arguments: Any) -> None:
        seen.append(arguments[2])

    event.listen(store.engine, "before_cursor_execute", note)
    call()
    event.remove(store.engine, "before_cursor_execute", note)
    return seen


def test_nothing_that_anybody_wrote_is_told(store: Store) -> None:
    webhook = listen(store, include_batch_lines=True)
    lines = [make_line(prompt=SECRET_PROMPT, custom_id="mine", metadata={"a": "b"}) for _ in range(2)]
    made = store.submit(lines, new_batch=True, batch_metadata={"name": "secret plans"})
    store.finish(claim(store, made.ids[0]).ref, success("a completion"))
    fail(store, made.ids[1])
    for row in store.deliveries(webhook.id)[0]:
        for text in (SECRET_PROMPT, "mine", "secret plans", "a completion"):
            assert text not in str(row.data)


# Webhooks themselves


def test_a_webhook_is_made_read_listed_and_deleted(store: Store) -> None:
    made = [listen(store, "job.failed", "job.failed", owner="alice", description=f"number {n}") for n in range(3)]
    assert made[0].events == ["job.failed"]
    assert made[0].secret.startswith("whsec_")
    assert len({webhook.secret for webhook in made}) == 3
    assert store.get_webhook(made[0].id, "alice").description == "number 0"
    first, has_more = store.list_webhooks("alice", limit=2)
    assert ([row.id for row in first], has_more) == ([made[2].id, made[1].id], True)
    second, has_more = store.list_webhooks("alice", limit=2, after=first[-1].id)
    assert ([row.id for row in second], has_more) == ([made[0].id], False)
    store.delete_webhook(made[1].id, "alice")
    assert [row.id for row in store.list_webhooks("alice")[0]] == [made[2].id, made[0].id]


def test_another_owner_finds_no_webhook_and_no_delivery(store: Store) -> None:
    webhook = listen(store, owner="alice")
    delivery = store.test_webhook(webhook.id, "alice")
    calls: list[Callable[[], object]] = [
        lambda: store.get_webhook(webhook.id, "bob"),
        lambda: store.delete_webhook(webhook.id, "bob"),
        lambda: store.test_webhook(webhook.id, "bob"),
        lambda: store.deliveries(webhook.id, "bob"),
        lambda: store.delivery(webhook.id, delivery.id, "bob"),
        lambda: store.retry_delivery(webhook.id, delivery.id, "bob"),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()
    assert store.list_webhooks("bob") == ([], False)


def test_a_delivery_is_found_only_under_its_webhook(store: Store) -> None:
    delivery = store.test_webhook(listen(store).id)
    with pytest.raises(NotFound):
        store.delivery(listen(store).id, delivery.id)


def test_deleting_a_webhook_forgets_its_secret_and_what_waits(store: Store) -> None:
    webhook = listen(store)
    store.test_webhook(webhook.id)
    store.delete_webhook(webhook.id)
    assert store.due_deliveries(10) == []
    with store.engine.connect() as connection:
        assert connection.scalar(sa.select(Webhook.secret)) == ""
        assert connection.scalar(sa.select(Delivery.next_attempt_at)) is None


def test_an_owner_has_a_limited_number_of_webhooks(store: Store) -> None:
    for _ in range(MAX_WEBHOOKS):
        listen(store, owner="alice")
    with pytest.raises(InvalidRequest, match=f"{MAX_WEBHOOKS} webhooks"):
        listen(store, owner="alice")
    listen(store, owner="bob")


def test_the_same_key_and_body_make_one_webhook(store: Store) -> None:
    new = NewWebhook("https://target.example/hook", ["job.failed"])
    answers = at_once(
        [partial(store.create_webhook, new, "alice", idempotency_key="k" * 255, body_sha256="a") for _ in range(4)]
    )
    assert len({row.id for row, _ in answers}) == len({row.secret for row, _ in answers}) == 1
    assert sorted(replayed for _, replayed in answers) == [False, True, True, True]
    with pytest.raises(IdempotencyConflict):
        store.create_webhook(new, "alice", idempotency_key="k" * 255, body_sha256="b")
    assert not store.create_webhook(new, "bob", idempotency_key="k" * 255, body_sha256="b")[1]
