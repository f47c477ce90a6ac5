"""Claims and notes of deliveries, on SQLite and PostgreSQL: nobody makes the same attempt twice."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise

import pytest
import sqlalchemy as sa

from jobs.errors import InvalidRequest, NotFound
from jobs.store import Store
from jobs.store.deliveries import CLAIM_MARGIN_SECONDS, MAX_PER_WEBHOOK
from jobs.tables import Delivery, Webhook
from jobs.webhooks import (
    BACKOFF_MAX_SECONDS,
    MAX_TRIES,
    RETRY_AFTER_MAX_SECONDS,
    DueDelivery,
    NewWebhook,
    Tried,
    WebhookChange,
    delay_seconds,
    message,
    parse_retry_after,
)
from tests.jobs.support import Clock, submit_one
from tests.jobs.test_races import at_once

TAKEN = Tried(204, None, 0.1)
REFUSED = Tried(500, "http_status", 0.1)
GONE = Tried(410, "http_status", 0.1)


@pytest.fixture
def webhook(store: Store) -> Webhook:
    return listen(store)


def listen(store: Store) -> Webhook:
    return store.create_webhook(NewWebhook("https://target.example/hook", ["job.cancelled"]))[0]


def claim_one(store: Store) -> DueDelivery:
    (due,) = store.due_deliveries(10)
    return due


def only(store: Store, webhook: Webhook) -> Delivery:
    (row,), _ = store.deliveries(webhook.id)
    return row


def test_a_claim_hands_out_all_that_an_attempt_needs(store: Store, webhook: Webhook) -> None:
    job_id = submit_one(store)
    store.cancel(job_id)
    due = claim_one(store)
    assert (due.number, due.url, due.secret, due.event_type) == (1, webhook.url, webhook.secret, "job.cancelled")
    assert due.data == {
        "id": job_id,
        "status": "cancelled",
        "batch_id": None,
        "line_number": None,
        "num_attempts": 0,
    }


def test_a_taken_delivery_is_over(store: Store, webhook: Webhook, clock: Clock) -> None:
    store.test_webhook(webhook.id)
    due = claim_one(store)
    assert store.note_delivery(due, TAKEN) is None
    row = only(store, webhook)
    assert (row.delivered_at, row.next_attempt_at, row.num_attempts) == (clock.now, None, 1)
    assert row.history == [{"at": clock.now.isoformat(), "status": 204, "error": None, "seconds": 0.1}]
    clock.move(100_000)
    assert store.due_deliveries(10) == []


def test_a_failed_delivery_comes_again_with_the_same_message(store: Store, webhook: Webhook, clock: Clock) -> None:
    store.test_webhook(webhook.id)
    first = claim_one(store)
    again_at = store.note_delivery(first, REFUSED)
    assert again_at is not None
    assert store.due_deliveries(10) == []
    clock.now = again_at
    second = claim_one(store)
    assert (second.id, second.number, message(second)) == (first.id, 2, message(first))


def test_attempts_grow_apart_and_end(store: Store, webhook: Webhook, clock: Clock) -> None:
    store.test_webhook(webhook.id)
    began, gaps = clock.now, []
    for number in range(1, store.settings.webhook_max_attempts + 1):
        due = claim_one(store)
        assert due.number == number
        again_at = store.note_delivery(due, REFUSED)
        if again_at is not None:
            gaps.append((again_at - clock.now).total_seconds())
            clock.now = again_at
    assert again_at is None
    assert len(gaps) == 11
    assert 4 <= gaps[0] <= 6
    assert all(later > earlier for earlier, later in pairwise(gaps[:9]))
    assert max(gaps) <= BACKOFF_MAX_SECONDS
    assert timedelta(hours=16) < clock.now - began < timedelta(hours=30)
    assert (only(store, webhook).num_attempts, len(only(store, webhook).history)) == (12, 12)


def test_retry_after_is_honoured_within_reason(store: Store, webhook: Webhook, clock: Clock) -> None:
    store.test_webhook(webhook.id)
    due = claim_one(store)
    again_at = store.note_delivery(due, Tried(429, "http_status", 0.1, retry_after_seconds=3600.0))
    assert again_at == clock.now + timedelta(hours=1)
    dice = random.Random(7)
    assert delay_seconds(1, 10.0**9, dice) == RETRY_AFTER_MAX_SECONDS
    assert delay_seconds(9, 1.0, dice) > 1000
    assert delay_seconds(10_000, None, dice) <= BACKOFF_MAX_SECONDS


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("Sat, 21 Nov 2026 12:01:00 GMT", 60.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("9" * 5000, 999_999_999.0),
    ],
)
def test_both_forms_of_retry_after_are_read(value: str, seconds: float | None) -> None:
    assert parse_retry_after(value, datetime(2026, 11, 21, 12, tzinfo=UTC)) == seconds


def test_a_target_that_is_gone_disables_its_webhook(store: Store, webhook: Webhook, clock: Clock) -> None:
    first, second = store.test_webhook(webhook.id), store.test_webhook(webhook.id)
    due = store.due_deliveries(1)[0]
    assert store.note_delivery(due, GONE) is None
    assert store.get_webhook(webhook.id).disabled_at == clock.now
    clock.move(100_000)
    assert store.due_deliveries(10) == []
    store.cancel(submit_one(store))
    assert {row.id for row in store.deliveries(webhook.id)[0]} == {first.id, second.id}
    for call in (partial(store.test_webhook, webhook.id), partial(store.retry_delivery, webhook.id, first.id)):
        with pytest.raises(InvalidRequest, match="410"):
            call()


ENABLE, DISABLE = WebhookChange(enabled=True), WebhookChange(enabled=False)


def test_an_enabled_webhook_hears_of_what_ends_from_then_on_and_keeps_its_history(
    store: Store, webhook: Webhook, clock: Clock
) -> None:
    told, waiting = store.test_webhook(webhook.id), store.test_webhook(webhook.id)
    store.note_delivery(store.due_deliveries(1)[0], GONE)
    store.cancel(submit_one(store))
    assert store.change_webhook(webhook.id, ENABLE).disabled_at is None
    clock.move(100_000)
    assert store.due_deliveries(10) == []
    assert {row.id for row in store.deliveries(webhook.id)[0]} == {told.id, waiting.id}
    job_id = submit_one(store)
    store.cancel(job_id)
    assert claim_one(store).data["id"] == job_id
    assert store.retry_delivery(webhook.id, waiting.id).next_attempt_at == clock.now


def test_an_owner_may_disable_a_webhook_and_change_what_it_hears_and_where(store: Store, webhook: Webhook) -> None:
    store.test_webhook(webhook.id)
    assert store.change_webhook(webhook.id, DISABLE).disabled_at is not None
    store.cancel(submit_one(store))
    assert (store.due_deliveries(10), num_waiting(store, [only(store, webhook).id])) == ([], 0)
    change = WebhookChange("https://other.example/", ["job.succeeded", "job.succeeded"], True, "mine", enabled=True)
    changed = store.change_webhook(webhook.id, change)
    assert (changed.url, changed.events, changed.description) == ("https://other.example/", ["job.succeeded"], "mine")
    assert (changed.include_batch_lines, changed.disabled_at, changed.secret) == (True, None, webhook.secret)
    store.cancel(submit_one(store))
    assert store.due_deliveries(10) == []
    assert store.change_webhook(webhook.id, WebhookChange()).url == changed.url


def test_what_waits_goes_to_the_new_url(store: Store, webhook: Webhook) -> None:
    store.test_webhook(webhook.id)
    store.change_webhook(webhook.id, WebhookChange(url="https://other.example/"))
    assert claim_one(store).url == "https://other.example/"


def test_a_late_410_of_the_url_before_disables_nothing(store: Store, webhook: Webhook, clock: Clock) -> None:
    store.test_webhook(webhook.id)
    due = claim_one(store)
    store.change_webhook(webhook.id, WebhookChange(url="https://other.example/"))
    again_at = store.note_delivery(due, GONE)
    assert store.get_webhook(webhook.id).disabled_at is None
    assert again_at is not None
    clock.now = again_at
    assert claim_one(store).url == "https://other.example/"


def test_a_late_410_from_before_the_webhook_was_enabled_disables_nothing(store: Store, webhook: Webhook) -> None:
    for _ in range(2):
        store.test_webhook(webhook.id)
    first, late = store.due_deliveries(10)
    store.note_delivery(first, GONE)
    store.change_webhook(webhook.id, ENABLE)
    store.note_delivery(late, GONE)
    assert store.get_webhook(webhook.id).disabled_at is None


def test_a_delivery_given_up_while_its_courier_died_can_be_sent_again(store: Store, webhook: Webhook) -> None:
    made = store.test_webhook(webhook.id)
    lost = claim_one(store)
    store.change_webhook(webhook.id, DISABLE)
    store.change_webhook(webhook.id, ENABLE)
    store.retry_delivery(webhook.id, made.id)
    again = claim_one(store)
    assert (again.id, again.number) == (lost.id, 2)
    assert store.note_delivery(lost, TAKEN) is None
    store.note_delivery(again, TAKEN)
    assert [entry["error"] for entry in only(store, webhook).history] == ["interrupted", None]


def test_a_deleted_webhook_and_another_ones_cannot_be_changed(store: Store, webhook: Webhook) -> None:
    with pytest.raises(NotFound):
        store.change_webhook(webhook.id, ENABLE, owner="somebody")
    store.delete_webhook(webhook.id)
    with pytest.raises(NotFound):
        store.change_webhook(webhook.id, ENABLE)


def test_all_that_waits_for_a_deleted_webhook_is_given_up_by_and_by(
    store: Store, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.webhooks.CHUNK", 2)
    made = [store.test_webhook(webhook.id).id for _ in range(5)]
    store.delete_webhook(webhook.id)
    assert [(store.due_deliveries(10), num_waiting(store, made)) for _ in range(3)] == [([], 1), ([], 0), ([], 0)]


def num_waiting(store: Store, ids: list[str]) -> int:
    waiting = sa.select(sa.func.count()).where(Delivery.id.in_(ids), Delivery.next_attempt_at.is_not(None))
    with store.engine.connect() as connection:
        return connection.scalar(waiting) or 0


def test_a_delivery_that_fails_after_its_webhook_was_deleted_is_given_up(store: Store, webhook: Webhook) -> None:
    store.test_webhook(webhook.id)
    due = claim_one(store)
    store.delete_webhook(webhook.id)
    assert store.note_delivery(due, REFUSED) is None
    assert store.due_deliveries(10) == []


def test_two_couriers_at_once_never_claim_the_same_attempt(store: Store) -> None:
    for _ in range(6):
        webhook = listen(store)
        for _ in range(2):
            store.test_webhook(webhook.id)
    claimed = [due.id for dues in at_once([partial(store.due_deliveries, 10)] * 4) for due in dues]
    claimed += [due.id for due in store.due_deliveries(100)]  # What one left to the lock of another.
    assert len(claimed) == len(set(claimed)) == 12


def test_a_claim_of_a_dead_courier_runs_out_and_leaves_a_trace(store: Store, webhook: Webhook, clock: Clock) -> None:
    store.test_webhook(webhook.id)
    lost = claim_one(store)
    clock.move(store.settings.webhook_timeout_seconds + CLAIM_MARGIN_SECONDS - 1)
    assert store.due_deliveries(10) == []
    clock.move(1)
    second = claim_one(store)
    assert (second.id, second.number) == (lost.id, 2)
    assert store.note_delivery(lost, REFUSED) is None, "the late courier changes nothing"
    store.note_delivery(second, TAKEN)
    assert [entry["error"] for entry in only(store, webhook).history] == ["interrupted", None]
    assert store.note_delivery(second, REFUSED) is None, "one note an attempt"
    assert only(store, webhook).delivered_at == clock.now


def test_attempts_that_are_always_interrupted_end(store: Store, webhook: Webhook, clock: Clock) -> None:
    store.test_webhook(webhook.id)
    for _ in range(store.settings.webhook_max_attempts):
        claim_one(store)
        clock.move(1000)
    assert store.due_deliveries(10) == []
    row = only(store, webhook)
    assert (row.next_attempt_at, row.num_attempts, len(row.history)) == (None, 12, 12)


def test_one_webhook_never_takes_all_the_room(store: Store) -> None:
    crowded, other = listen(store), listen(store)
    for _ in range(20):
        store.test_webhook(crowded.id)
    store.test_webhook(other.id)
    claimed = store.due_deliveries(32)
    assert sorted(due.webhook_id for due in claimed) == sorted([crowded.id] * MAX_PER_WEBHOOK + [other.id])
    assert store.due_deliveries(32, {crowded.id: MAX_PER_WEBHOOK}) == []
    assert len(store.due_deliveries(32, {crowded.id: MAX_PER_WEBHOOK - 1})) == 1


def test_a_claim_takes_no_more_than_there_is_room_for(store: Store) -> None:
    for _ in range(3):
        webhook = listen(store)
        for _ in range(3):
            store.test_webhook(webhook.id)
    assert [len(store.due_deliveries(5)) for _ in range(3)] == [5, 4, 0]


def test_the_history_is_read_a_page_at_a_time(store: Store, webhook: Webhook) -> None:
    made = [store.test_webhook(webhook.id).id for _ in range(5)]
    first, has_more = store.deliveries(webhook.id, limit=3)
    assert ([row.id for row in first], has_more) == (made[:1:-1], True)
    second, has_more = store.deliveries(webhook.id, limit=3, after=first[-1].id)
    assert ([row.id for row in second], has_more) == (made[1::-1], False)


@pytest.mark.parametrize("tried", [TAKEN, REFUSED])
def test_an_owner_may_ask_for_one_more_attempt_at_once(store: Store, webhook: Webhook, tried: Tried) -> None:
    delivery = store.test_webhook(webhook.id)
    due = claim_one(store)
    store.note_delivery(due, tried)
    store.retry_delivery(webhook.id, delivery.id)
    again = claim_one(store)
    assert (again.id, again.number) == (delivery.id, 2)


def test_asking_again_while_an_attempt_runs_makes_no_second_one(store: Store, webhook: Webhook) -> None:
    delivery = store.test_webhook(webhook.id)
    claim_one(store)
    store.retry_delivery(webhook.id, delivery.id)
    assert store.due_deliveries(10) == []


def test_a_delivery_that_was_given_up_has_one_attempt_each_time_it_is_asked_for(
    store: Store, webhook: Webhook, clock: Clock
) -> None:
    store.settings = store.settings.model_copy(update={"webhook_max_attempts": 1})
    delivery = store.test_webhook(webhook.id)
    for number in range(1, MAX_TRIES + 1):
        due = claim_one(store)
        assert (due.number, store.note_delivery(due, REFUSED)) == (number, None)
        if number < MAX_TRIES:
            store.retry_delivery(webhook.id, delivery.id)
    with pytest.raises(InvalidRequest, match=f"{MAX_TRIES} times"):
        store.retry_delivery(webhook.id, delivery.id)
