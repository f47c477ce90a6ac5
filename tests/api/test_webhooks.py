"""/v1/webhooks: made, tested, read, deleted, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from api.hook_wire import DeliveryObject, Event, WebhookObject
from jobs.courier import Courier
from jobs.webhooks import EVENTS
from tests.api.stage import Api, run_to_end
from tests.jobs.batch_support import checked_lines, end_all, make_batch, take_in, write_files
from tests.support.hook_target import HookTarget, hook_target
from tests.support.services import wait_until

PUBLIC = "https://8.8.8.8/hook"
ALICE = {"Authorization": "Bearer alice-key"}
BOB = {"Authorization": "Bearer bob-key"}


@pytest.fixture
def target() -> Iterator[HookTarget]:
    with hook_target() as server:
        yield server


@pytest.fixture
def near(start_api: Callable[..., Api]) -> Api:
    """An application that delivers to loopback too."""
    return start_api(webhook_allow_private=True)


def make(api: Api, url: str = PUBLIC, *, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    body = {"url": url, "events": ["job.succeeded"], **fields}
    reply = api.client.post("/v1/webhooks", json=body, headers=headers)
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


def test_the_documented_events_are_those_that_happen() -> None:
    assert set(Event.__args__) == set(EVENTS)  # type: ignore[attr-defined]


def test_the_secret_is_shown_once(api: Api) -> None:
    made = make(api, description="mine", include_batch_lines=True)
    secret = made.pop("secret")
    assert set(made) == set(WebhookObject.model_fields)
    assert (made["url"], made["events"], made["disabled_at"]) == (PUBLIC, ["job.succeeded"], None)
    assert api.client.get(f"/v1/webhooks/{made['id']}").json() == made
    page = api.client.get("/v1/webhooks")
    assert page.json()["data"] == [made]
    assert secret not in page.text


def test_an_end_arrives_signed_and_its_delivery_can_be_read(near: Api, target: HookTarget) -> None:
    made = make(near, target.url)
    job = near.submit()
    run_to_end(near.store, job["id"])
    Courier(near.store, near.settings).step()
    wait_until(lambda: target.received)
    (received,) = target.received
    assert Verifier(made["secret"]).verify(received.body, received.headers)["data"]["id"] == job["id"]
    path = f"/v1/webhooks/{made['id']}/deliveries"
    wait_until(lambda: near.client.get(path).json()["data"][0]["status"] == "delivered")
    (delivery,) = near.client.get(path).json()["data"]
    assert set(delivery) == set(DeliveryObject.model_fields)
    assert (delivery["id"], delivery["type"]) == (received.headers["webhook-id"], "job.succeeded")
    assert [(attempt["status"], attempt["error"]) for attempt in delivery["attempts"]] == [(204, None)]
    assert near.client.get(f"{path}/{delivery['id']}").json() == delivery


@pytest.mark.parametrize("status", ["completed", "cancelled", "failed"])
def test_what_a_batch_is_told_as_is_what_it_reads_as(api: Api, status: str) -> None:
    made = make(api, events=["batch.completed", "batch.cancelled", "batch.failed"])
    batch = make_batch(api.store, 2, 2 if status == "failed" else 1)
    if status == "cancelled":
        api.store.cancel_batch(batch.id)
    if status != "failed":
        take_in(api.store, batch, checked_lines(2, 1))
        end_all(api.store, batch.id)
        write_files(api.store, batch.id)
        assert api.store.finalize(batch.id)
    (row,), _ = api.store.deliveries(made["id"])
    read = api.client.get(f"/v1/batches/{batch.id}").json()
    assert (row.event_type, read["status"]) == (f"batch.{status}", status)
    for name in ("id", "status", "request_counts", "input_file_id", "output_file_id", "error_file_id"):
        assert row.data[name] == read[name], name
    assert row.data["usage"].items() <= read["usage"].items()
    assert row.data["counts"].items() <= read["counts"].items()


def test_a_test_event_can_be_sent_and_sent_again(near: Api, target: HookTarget) -> None:
    made, courier = make(near, target.url), Courier(near.store, near.settings)
    reply = near.client.post(f"/v1/webhooks/{made['id']}/test")
    assert (reply.status_code, reply.json()["type"], reply.json()["status"]) == (202, "webhook.test", "pending")
    path = f"/v1/webhooks/{made['id']}/deliveries/{reply.json()['id']}"
    target.replies = [(500, {})]
    courier.step()
    wait_until(lambda: near.client.get(path).json()["attempts"])
    again = near.client.post(f"{path}/retry")
    assert (again.status_code, again.json()["status"]) == (202, "pending")
    courier.step()
    wait_until(lambda: near.client.get(path).json()["status"] == "delivered")
    assert [attempt["status"] for attempt in near.client.get(path).json()["attempts"]] == [500, 204]


def test_a_deleted_webhook_is_not_found(api: Api) -> None:
    made = make(api)
    path = f"/v1/webhooks/{made['id']}"
    assert api.client.delete(path).json() == {"id": made["id"], "object": "webhook", "deleted": True}
    for method, call in (("GET", path), ("DELETE", path), ("POST", f"{path}/test"), ("GET", f"{path}/deliveries")):
        assert api.client.request(method, call).status_code == 404


def test_a_disabled_webhook_says_so_and_is_not_tested(api: Api) -> None:
    made = make(api)
    path = f"/v1/webhooks/{made['id']}"
    with api.store._writing() as scope:
        from jobs.store import webhooks

        webhooks.disable(scope, made["id"])
    assert api.client.get(path).json()["disabled_at"] is not None
    assert api.client.post(f"{path}/test").json()["error"]["code"] == "webhook_disabled"


def test_a_target_that_was_gone_is_told_again_once_its_owner_says_so(near: Api, target: HookTarget) -> None:
    made, courier = make(near, target.url), Courier(near.store, near.settings)
    path = f"/v1/webhooks/{made['id']}"
    target.replies = [(410, {})]
    near.client.post(f"{path}/test")
    courier.step()
    wait_until(lambda: near.client.get(path).json()["disabled_at"] is not None)
    run_to_end(near.store, near.submit()["id"])
    reply = near.client.post(path, json={"enabled": True})
    assert (reply.status_code, reply.json()["disabled_at"], "secret" in reply.json()) == (200, None, False)
    job = near.submit()
    run_to_end(near.store, job["id"])
    courier.step()
    wait_until(lambda: near.client.get(f"{path}/deliveries").json()["data"][0]["status"] == "delivered")
    delivered, given_up = near.client.get(f"{path}/deliveries").json()["data"]
    assert (delivered["object_id"], given_up["status"]) == (job["id"], "failed")
    assert Verifier(made["secret"]).verify(target.received[1].body, target.received[1].headers)


def test_a_webhook_is_changed_field_by_field_and_keeps_the_rest(api: Api) -> None:
    made = make(api, description="mine")
    path = f"/v1/webhooks/{made['id']}"
    del made["secret"]
    changes = {"url": "https://8.8.4.4/", "events": ["job.failed", "batch.failed"], "include_batch_lines": True}
    assert api.client.post(path, json=changes).json() == {**made, **changes}
    assert api.client.post(path, json={"enabled": False}).json()["disabled_at"] is not None
    assert api.client.post(path, json={}).json()["description"] == "mine"
    assert api.client.post(path, json={"description": "", "enabled": True}).json() == {
        **made,
        **changes,
        "description": "",
    }


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"url": "http://127.0.0.1:8000/"}, "url", "address_not_allowed"),
        ({"url": ""}, "url", "invalid_value"),
        ({"events": []}, "events", "invalid_value"),
        ({"events": ["job.exploded"]}, "events[0]", "invalid_value"),
        ({"enabled": "yes"}, "enabled", "invalid_type"),
        ({"secret": "whsec_mine"}, "secret", "unknown_field"),
    ],
)
def test_a_wrong_change_changes_nothing(api: Api, fields: dict[str, Any], param: str, code: str) -> None:
    made = make(api)
    path = f"/v1/webhooks/{made.pop('id')}"
    reply = api.client.post(path, json={"description": "other", **fields})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, param, code)
    assert api.client.get(path).json()["description"] == ""


def test_webhooks_belong_to_their_key(start_api: Callable[..., Api]) -> None:
    api = start_api(api_keys="alice-key, bob-key")
    assert api.client.post("/v1/webhooks", json={"url": PUBLIC, "events": ["job.failed"]}).status_code == 401
    made = make(api, headers=ALICE)
    path = f"/v1/webhooks/{made['id']}"
    delivery = api.client.post(f"{path}/test", headers=ALICE).json()
    calls = [
        ("GET", path),
        ("DELETE", path),
        ("POST", path),
        ("POST", f"{path}/test"),
        ("GET", f"{path}/deliveries"),
        ("GET", f"{path}/deliveries/{delivery['id']}"),
        ("POST", f"{path}/deliveries/{delivery['id']}/retry"),
    ]
    replies = [api.client.request(*call, headers=BOB, json={}).status_code for call in calls]
    assert replies == [404] * len(calls)
    assert api.client.get("/v1/webhooks", headers=BOB).json()["data"] == []
    assert len(api.client.get("/v1/webhooks", headers=ALICE).json()["data"]) == 1


def test_pages_of_webhooks_and_deliveries(api: Api) -> None:
    ids = [make(api)["id"] for _ in range(3)][::-1]
    first = api.client.get("/v1/webhooks?limit=2").json()
    assert ([row["id"] for row in first["data"]], first["has_more"]) == (ids[:2], True)
    second = api.client.get(f"/v1/webhooks?limit=2&after={first['last_id']}").json()
    assert ([row["id"] for row in second["data"]], second["has_more"]) == (ids[2:], False)
    path = f"/v1/webhooks/{ids[0]}"
    sent = [api.client.post(f"{path}/test").json()["id"] for _ in range(3)][::-1]
    page = api.client.get(f"{path}/deliveries?limit=2").json()
    assert ([row["id"] for row in page["data"]], page["has_more"]) == (sent[:2], True)
    rest = api.client.get(f"{path}/deliveries?after={page['last_id']}").json()
    assert [row["id"] for row in rest["data"]] == sent[2:]


@pytest.mark.parametrize("after", ["webhook_" + "0" * 32, "delivery_" + "0" * 32, "x", "%00"])
def test_a_cursor_that_names_nothing_is_refused(api: Api, after: str) -> None:
    path = f"/v1/webhooks/{make(api)['id']}/deliveries"
    for url in ("/v1/webhooks", path):
        reply = api.client.get(f"{url}?after={after}")
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "after")


def test_the_same_key_makes_one_webhook_and_shows_its_secret_again(api: Api) -> None:
    headers = {"Idempotency-Key": "once"}
    assert make(api, headers=headers) == make(api, headers=headers)
    body = {"url": PUBLIC, "events": ["job.failed"]}
    reply = api.client.post("/v1/webhooks", json=body, headers=headers)
    assert (reply.status_code, reply.headers["x-should-retry"]) == (409, "false")


def test_a_silent_retry_of_the_client_makes_no_second_webhook(api: Api) -> None:
    first = make(api)
    assert make(api, headers={"x-stainless-retry-count": "1"}) == first
    assert make(api)["id"] != first["id"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"url": "http://127.0.0.1:8000/"}, "url", "address_not_allowed"),
        ({"url": "http://localhost/"}, "url", "address_not_allowed"),
        ({"url": "http://169.254.169.254/latest"}, "url", "address_not_allowed"),
        ({"url": "http://[fd00::1]/"}, "url", "address_not_allowed"),
        ({"url": "gopher://8.8.8.8/"}, "url", "invalid_value"),
        ({"url": "https://me:word@8.8.8.8/"}, "url", "invalid_value"),
        ({"url": ""}, "url", "invalid_value"),
        ({"url": 5}, "url", "invalid_type"),
        ({"url": "https://8.8.8.8/" + "a" * 3000}, "url", "invalid_value"),
        ({"events": []}, "events", "invalid_value"),
        ({"events": ["job.succeeded", "job.exploded"]}, "events[1]", "invalid_value"),
        ({"events": "job.failed"}, "events", "invalid_type"),
        ({"include_batch_lines": "yes"}, "include_batch_lines", "invalid_type"),
        ({"description": "x" * 513}, "description", "invalid_value"),
        ({"secret": "whsec_mine"}, "secret", "unknown_field"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(api: Api, fields: dict[str, Any], param: str, code: str) -> None:
    reply = api.client.post("/v1/webhooks", json={"url": PUBLIC, "events": ["job.failed"], **fields})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, param, code)


@pytest.mark.parametrize("missing", ["url", "events"])
def test_what_is_missing_is_named(api: Api, missing: str) -> None:
    body = {"url": PUBLIC, "events": ["job.failed"]}
    del body[missing]
    error = api.client.post("/v1/webhooks", json=body).json()["error"]
    assert (error["param"], error["code"]) == (missing, "missing_field")
