"""API keys: who may call, and what they see."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from api.key_ring import owner_of
from tests.api.stage import Api

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
