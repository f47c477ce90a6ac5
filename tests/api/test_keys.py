"""API keys: who may call, and what they see."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from api.key_ring import KeyRing, owner_of
from api.routes import streams
from jobs.keys import KeyScope, NewKey
from jobs.settings import Settings
from tests.api.stage import Api, LiveServer, claim, frames

ALICE = {"Authorization": "Bearer alice-key"}
BOB = {"Authorization": "Bearer bob-key"}


@pytest.fixture
def keyed(start_api: Callable[..., Api]) -> Api:
    return start_api(api_keys="alice-key, bob-key")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic alice-key"}, {"Authorization": "Bearer "}],
)
def test_a_call_without_a_good_key_is_refused(keyed: Api, headers: dict[str, str]) -> None:
    for call in (("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/v1/models"), ("GET", "/v1/jobs/x/events")):
        reply = keyed.client.request(*call, headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
        assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_the_key_is_asked_for_before_the_body_is_looked_at(keyed: Api) -> None:
    assert keyed.client.post("/v1/jobs", content=b"\xff").status_code == 401


def test_health_and_docs_need_no_key(keyed: Api) -> None:
    for path in ("/health/live", "/health/ready", "/docs", "/openapi.json"):
        assert keyed.client.get(path).status_code == 200


def test_jobs_and_batches_are_seen_by_their_key_alone(keyed: Api) -> None:
    job = keyed.client.post("/v1/jobs", json={"prompt": "x"}, headers=ALICE).json()
    batch = keyed.client.post("/v1/jobs", json={"jobs": [{"prompt": "x"}]}, headers=ALICE).json()
    paths = [f"/v1/jobs/{job['id']}", f"/v1/batches/{batch['batch_id']}"]
    assert [keyed.client.get(path, headers=ALICE).status_code for path in paths] == [200, 200]
    assert [keyed.client.get(path, headers=BOB).status_code for path in paths] == [404, 404]
    assert [keyed.client.post(f"{path}/cancel", headers=BOB).status_code for path in paths] == [404, 404]
    assert keyed.client.get(f"{paths[0]}/events", headers=BOB).status_code == 404
    assert keyed.client.get("/v1/jobs", headers=BOB).json()["data"] == []
    assert len(keyed.client.get("/v1/jobs", headers=ALICE).json()["data"]) == 2
    more = {"jobs": [{"prompt": "x"}], "batch_id": batch["batch_id"]}
    assert keyed.client.post("/v1/jobs", json=more, headers=BOB).status_code == 404


def test_two_keys_may_use_the_same_idempotency_key(keyed: Api) -> None:
    ids = [
        keyed.client.post("/v1/jobs", json={"prompt": "x"}, headers=who | {"Idempotency-Key": "1"}).json()["id"]
        for who in (ALICE, BOB)
    ]
    assert ids[0] != ids[1]


def test_the_database_holds_no_key(keyed: Api) -> None:
    job = keyed.client.post("/v1/jobs", json={"prompt": "x"}, headers=ALICE).json()
    assert keyed.store.get(job["id"]).owner == owner_of("alice-key")
    assert "alice" not in owner_of("alice-key")


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_of_the_database_works_beside_the_operators(keyed: Api) -> None:
    row, key = keyed.store.create_key(NewKey("a key", owner="carol"))
    job = keyed.client.post("/v1/jobs", json={"prompt": "x"}, headers=_headers(key)).json()
    assert keyed.store.get(job["id"]).owner == "carol"
    assert keyed.client.get(f"/v1/jobs/{job['id']}", headers=ALICE).status_code == 404
    assert row.hint in key


def test_a_stored_key_may_take_over_what_an_operators_key_made(keyed: Api) -> None:
    job = keyed.client.post("/v1/jobs", json={"prompt": "x"}, headers=ALICE).json()
    _, key = keyed.store.create_key(NewKey("alice, from now on", owner=owner_of("alice-key")))
    assert keyed.client.get(f"/v1/jobs/{job['id']}", headers=_headers(key)).status_code == 200


def test_the_first_key_closes_an_open_api_and_its_end_does_not_open_it(start_api: Callable[..., Api]) -> None:
    api = start_api(key_cache_seconds=0)
    assert api.client.get("/v1/jobs").status_code == 200
    row, key = api.store.create_key(NewKey("first"))
    assert api.client.get("/v1/jobs").status_code == 401
    assert api.client.get("/v1/jobs", headers=_headers(key)).status_code == 200
    api.store.revoke_key(row.id)
    assert api.client.get("/v1/jobs", headers=_headers(key)).status_code == 401
    assert api.client.get("/v1/jobs").status_code == 401
    api.store.forget_key(row.id)
    assert api.client.get("/v1/jobs").status_code == 200


def test_what_is_remembered_of_a_key_is_asked_again_after_a_while(api: Api) -> None:
    now = [0.0]
    ring = KeyRing(api.store, Settings(key_cache_seconds=2.0), monotonic=lambda: now[0])
    row, key = api.store.create_key(NewKey("a key"))
    assert ring.identify(key) is not None
    api.store.revoke_key(row.id)
    assert ring.identify(key) is not None
    now[0] = 2.0
    assert ring.identify(key) is None


def test_a_scope_that_is_missing_is_named(api: Api) -> None:
    _, key = api.store.create_key(NewKey("reader", scopes=(KeyScope.READ,)))
    reply = api.client.post("/v1/jobs", json={"prompt": "x"}, headers=_headers(key))
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["type"]) == (403, "insufficient_scope", "permission_error")
    assert "jobs:write" in error["message"]


def test_an_open_stream_ends_with_its_key(
    start_server: Callable[..., LiveServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEY_SECONDS", 0.0)
    server = start_server(key_cache_seconds=0)
    row, key = server.store.create_key(NewKey("a key"))
    server.client.headers.update(_headers(key))
    job_id = server.submit()
    ref = claim(server.store, job_id)
    with server.client.stream("GET", f"/v1/jobs/{job_id}/events") as reply:
        told = frames(reply.iter_raw())
        assert next(told).event == "state"
        server.store.revoke_key(row.id)
        server.writer.text([(job_id, ref.number, 4, "Ice ", "Ice ")])
        with pytest.raises((StopIteration, httpx.RemoteProtocolError)):
            next(told)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8000"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Host": "["},
        {"Host": "127.0.0.1.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_without_keys_a_page_of_another_site_is_refused(api: Api, headers: dict[str, str]) -> None:
    for method in ("GET", "POST"):
        reply = api.client.request(method, "/v1/jobs", headers=headers)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "cross_site_request")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "127.0.0.1:8000"},
        {"Host": "[::1]:8000"},
        {"Host": "localhost:8000", "Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"},
        {"Host": "penstock.localhost"},
        {"Host": "proxied.example", "Origin": "https://proxied.example"},
    ],
)
def test_without_keys_this_machines_own_pages_and_programs_are_served(
    start_api: Callable[..., Api], headers: dict[str, str]
) -> None:
    api = start_api(trusted_hosts="proxied.example, other.example")
    assert api.client.get("/v1/jobs", headers=headers).status_code == 200


def test_with_a_key_any_name_serves(keyed: Api) -> None:
    headers = ALICE | {"Host": "penstock.example", "Origin": "https://elsewhere.example"}
    assert keyed.client.get("/v1/jobs", headers=headers).status_code == 200
