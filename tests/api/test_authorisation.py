"""The authorisation matrix: every endpoint, with every sort of key. A new endpoint fails here until it is listed.

Whatever is refused must also be silent: no reply to anybody but the owner (or an admin) holds the mark that stands in
all that the owner made. And what is answered must not count it: to a stranger, every endpoint that names nothing of the
owner's answers the same whatever the owner does.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from api.app import create_app
from jobs.database import open_engine
from jobs.events import EventWriter, open_redis
from jobs.ids import new_id
from jobs.keys import KeyScope, NewKey
from jobs.records import recipe_id
from jobs.settings import Settings
from jobs.states import JobState
from jobs.store import Store
from tests.api.batch_stage import CHAT, chat_line, jsonl, office
from tests.api.player import END, Player
from tests.api.stage import CONTEXT_TOKENS, MODEL, RECIPE, Api, Stage, claim, run_to_end
from tests.jobs.support import make_job
from tests.support.services import RedisServer, wait_until

MARK = "the-mark-of-the-owner"
NOBODY, REVOKED, EXPIRED = "no key", "a revoked key", "an expired key"
STRANGER, METRICS_ONLY = "another owner's key", "a key with another scope"
READER, OWNER, COLLEAGUE, ADMIN = "a read-only key", "the owner's key", "the owner's other key", "an admin's key"
CALLERS = (NOBODY, REVOKED, EXPIRED, METRICS_ONLY, STRANGER, READER, OWNER, COLLEAGUE, ADMIN)
INSIDERS = (READER, OWNER, COLLEAGUE, ADMIN)

OPEN, READ, WRITE, SCRAPE = "open to all", "reads", "writes", "tells numbers"


@dataclass(frozen=True)
class Things:
    """What the owner has, by the names of the paths' parameters."""

    ids: Mapping[str, str]
    file_id: str
    batch_id: str


@dataclass(frozen=True)
class Row:
    """What an endpoint answers. `private`: it names a thing of the owner's, which is not there for a stranger (404)."""

    kind: str
    success: int = 200
    private: bool = False
    request: Callable[[Things], dict[str, Any]] = field(default=lambda _: {})
    stranger: int | None = None
    """Where a stranger's refusal is another one than 404."""
    makes_of_it: bool = False
    """What it makes of a thing of the owner's would be the caller's: not even an admin may."""

    def expected(self, caller: str) -> int:
        if self.kind == OPEN:
            return self.success
        if self.kind == SCRAPE:
            return self.success if caller in {METRICS_ONLY, ADMIN} else 401
        if caller in {NOBODY, REVOKED, EXPIRED}:
            return 401
        if caller == METRICS_ONLY or (caller == READER and self.kind == WRITE):
            return 403
        if caller == STRANGER and (self.private or self.stranger):
            return self.stranger or 404
        return 404 if caller == ADMIN and self.makes_of_it else self.success


def _json(make: Callable[[Things], dict[str, Any]]) -> Callable[[Things], dict[str, Any]]:
    return lambda things: {"json": make(things)}


_PROMPT: dict[str, Any] = {"prompt": "x", "max_tokens": 4}
_CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
_HOOK = {"url": "https://93.184.216.34/x", "events": ["batch.completed"]}
_UPLOAD = {"files": {"file": ("x.jsonl", jsonl([chat_line("x")]), "application/jsonl")}, "data": {"purpose": "batch"}}
_BACKGROUND = {"input": "x", "background": True, "max_output_tokens": 16}

reads, writes = partial(Row, READ), partial(Row, WRITE)

MATRIX: dict[str, Row] = {
    "POST /v1/jobs": writes(202, request=_json(lambda _: _PROMPT)),
    "GET /v1/jobs": reads(),
    "GET /v1/jobs/{job_id}": reads(private=True),
    "DELETE /v1/jobs/{job_id}": writes(private=True),
    "POST /v1/jobs/{job_id}/cancel": writes(private=True),
    "GET /v1/jobs/{job_id}/events": reads(private=True),
    "POST /v1/jobs/{job_id}/replay": writes(202, private=True),
    "POST /v1/chat/completions": writes(request=_json(lambda _: _CHAT)),
    "POST /v1/completions": writes(request=_json(lambda _: _PROMPT)),
    "POST /v1/responses": writes(request=_json(lambda _: _BACKGROUND)),
    "GET /v1/responses/{response_id}": reads(private=True),
    "GET /v1/responses/{response_id}/input_items": reads(private=True),
    "POST /v1/responses/{response_id}/cancel": writes(private=True),
    "POST /v1/files": writes(request=lambda _: dict(_UPLOAD)),
    "GET /v1/files": reads(),
    "GET /v1/files/{file_id}": reads(private=True),
    "DELETE /v1/files/{file_id}": writes(private=True),
    "GET /v1/files/{file_id}/content": reads(private=True),
    "POST /v1/batches": writes(request=_json(lambda things: _batch_of(things.file_id)), private=True, makes_of_it=True),
    "GET /v1/batches": reads(),
    "GET /v1/batches/{batch_id}": reads(private=True),
    "POST /v1/batches/{batch_id}/cancel": writes(private=True),
    "POST /v1/batches/{batch_id}/retry": writes(private=True),
    "GET /v1/batches/{batch_id}/events": reads(private=True),
    "POST /v1/webhooks": writes(201, request=_json(lambda _: _HOOK)),
    "GET /v1/webhooks": reads(),
    "GET /v1/webhooks/{webhook_id}": reads(private=True),
    "POST /v1/webhooks/{webhook_id}": writes(private=True, request=_json(lambda _: {"enabled": True})),
    "DELETE /v1/webhooks/{webhook_id}": writes(private=True),
    "POST /v1/webhooks/{webhook_id}/test": writes(202, private=True),
    "GET /v1/webhooks/{webhook_id}/deliveries": reads(private=True),
    "GET /v1/webhooks/{webhook_id}/deliveries/{delivery_id}": reads(private=True),
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/retry": writes(202, private=True),
    "GET /v1/models": reads(),
    "GET /v1/models/{name}": reads(),
    "GET /v1/workers": reads(),
    "GET /v1/queues": reads(),
    "GET /v1/recipes/{recipe_id}": reads(),
    "GET /health/live": Row(OPEN),
    "GET /health/ready": Row(OPEN),
}

HIDDEN: dict[str, Row] = {
    "GET /": Row(OPEN),
    "GET /docs": Row(OPEN),
    "GET /openapi.json": Row(OPEN),
    "GET /metrics": Row(SCRAPE),
}
"""Endpoints that the OpenAPI document leaves out. They hold nothing of anybody."""
FOLDERS = {"/docs/assets", "/page"}
"""Files of installed packages."""

BY_REFERENCE: dict[str, tuple[str, Row]] = {
    "jobs into another's batch": (
        "POST /v1/jobs",
        writes(
            202, request=_json(lambda t: {"jobs": [_PROMPT], "batch_id": t.batch_id}), private=True, makes_of_it=True
        ),
    ),
    "a list of another's batch": (
        "GET /v1/jobs",
        reads(request=lambda t: {"params": {"batch_id": t.batch_id}}, private=True),
    ),
    "a page behind another's job": (
        "GET /v1/jobs",
        reads(request=lambda t: {"params": {"after": t.ids["job_id"]}}, stranger=400),
    ),
    "a page behind another's file": (
        "GET /v1/files",
        reads(request=lambda t: {"params": {"after": t.file_id}}, stranger=400),
    ),
    "a page behind another's batch": (
        "GET /v1/batches",
        reads(request=lambda t: {"params": {"after": t.batch_id}}, stranger=400),
    ),
    "an answer to another's response": (
        "POST /v1/responses",
        writes(
            request=_json(lambda t: {**_BACKGROUND, "previous_response_id": t.ids["response_id"]}),
            stranger=400,
        ),
    ),
    "another's response followed": (
        "GET /v1/responses/{response_id}",
        reads(request=lambda _: {"params": {"stream": "true"}}, private=True),
    ),
}


def _batch_of(file_id: str) -> dict[str, str]:
    return {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}


class House:
    """An application with keys of every sort, to owners that nobody else in this module is."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.name = new_id("house")
        both = (KeyScope.READ, KeyScope.WRITE)
        self.keys = {
            OWNER: self._key("owner", *both),
            COLLEAGUE: self._key("owner", *both),
            READER: self._key("owner", KeyScope.READ),
            METRICS_ONLY: self._key("owner", KeyScope.METRICS),
            EXPIRED: self._key("owner", *both, expires_in_seconds=1e-6),
            REVOKED: self._key("owner", *both),
            STRANGER: self._key("stranger", *both),
            ADMIN: self._key("operator", KeyScope.ADMIN),
        }
        revoked = next(key for key in api.store.list_keys() if self.keys[REVOKED].startswith(key.hint))
        api.store.revoke_key(revoked.id)

    def _key(self, owner: str, *scopes: KeyScope, expires_in_seconds: float | None = None) -> str:
        new = NewKey("a key", f"{owner}-{self.name}", scopes, expires_in_seconds)
        return self.api.store.create_key(new)[1]

    def call(self, caller: str, endpoint: str, **request: Any) -> Response:
        method, _, path = endpoint.partition(" ")
        headers = {"Authorization": f"Bearer {self.keys[caller]}"} if caller in self.keys else {}
        return self.api.client.request(method, path, headers=headers, **request)

    def made(self, endpoint: str, **request: Any) -> dict[str, Any]:
        reply = self.call(OWNER, endpoint, **request)
        assert reply.is_success, reply.text
        return dict(reply.json())

    def wait_for(self, job_id: str) -> None:
        wait_until(lambda: self.api.store.get(job_id).state == JobState.SUCCEEDED)

    def things(self) -> Things:
        """One of everything, all of it marked; the jobs have ended."""
        job = self.made("POST /v1/jobs", json={"prompt": MARK, "metadata": {"m": MARK}})
        self.wait_for(job["id"])
        response = self.made("POST /v1/responses", json={"input": MARK, "background": True})
        self.wait_for(response["id"].replace("resp_", "job_"))
        batch = self.made("POST /v1/jobs", json={"jobs": [{"prompt": MARK}], "metadata": {"m": MARK}})
        self.wait_for(batch["data"][0]["id"])
        upload = {"files": {"file": (f"{MARK}.jsonl", jsonl([chat_line(MARK)]), "application/jsonl")}}
        file = self.made("POST /v1/files", data={"purpose": "batch"}, **upload)
        hook = self.made("POST /v1/webhooks", json={**_HOOK, "url": f"https://93.184.216.34/{MARK}"})
        delivery = self.made(f"POST /v1/webhooks/{hook['id']}/test")
        ids = {
            "job_id": job["id"],
            "response_id": response["id"],
            "batch_id": batch["batch_id"],
            "file_id": file["id"],
            "webhook_id": hook["id"],
            "delivery_id": delivery["id"],
            "recipe_id": recipe_id(RECIPE),
            "name": self.api.settings.model_name,
        }
        return Things(ids, file["id"], batch["batch_id"])


@pytest.fixture(scope="module")
def api(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, redis_server: RedisServer, vocabulary_bytes: bytes
) -> Iterator[Api]:
    """One application for all of the matrix, with a worker, which answers an owner with the mark."""
    home = tmp_path_factory.mktemp("matrix")
    shutil.copy(sqlite_template, home / "penstock.db")
    settings = Settings(home=home, redis_url=redis_server.url, model=MODEL)
    engine = open_engine(settings.resolved_database_url)
    redis = open_redis(redis_server.url)
    stage = Stage(settings, Store(engine, settings=settings), redis, EventWriter(redis))
    stage.store.announce_model(MODEL, "0" * 64, CONTEXT_TOKENS, vocabulary_bytes)
    script = lambda job: [MARK if job.owner.startswith("owner-") else "x", END]  # noqa: E731
    with TestClient(create_app(settings)) as client, closing(Player(stage.store, stage.writer, script)):
        yield Api(stage, client)
    redis.close()
    engine.dispose()


@pytest.fixture
def house(api: Api) -> House:
    return House(api)


def _endpoints(api: Api) -> set[str]:
    paths = api.client.get("/openapi.json").json()["paths"]
    return {f"{method.upper()} {path}" for path, calls in paths.items() for method in calls}


def test_every_endpoint_is_in_the_matrix(house: House) -> None:
    assert set(MATRIX) == _endpoints(house.api)


def test_no_endpoint_is_served_that_nobody_has_judged(house: House) -> None:
    app: Any = house.api.client.app
    routes = list(_flat(app.routes))
    served = {f"{method} {route.path}" for route in routes if route.methods for method in route.methods - {"HEAD"}}
    documented = {endpoint.replace("{name}", "{name:path}") for endpoint in MATRIX}
    assert documented <= served
    assert served - documented == set(HIDDEN)
    assert {route.path for route in routes if not route.methods} == FOLDERS


@dataclass(frozen=True)
class Served:
    path: str
    methods: frozenset[str]


def _flat(routes: list[Any]) -> Iterator[Served]:
    """All routes, those of routers that were included too; a folder has no methods."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from _flat(inner.routes)
        else:
            yield Served(route.path, frozenset(getattr(route, "methods", None) or ()))


def _check(house: House, endpoint: str, row: Row) -> None:
    """Those who are refused first: what they name is still there then."""
    things = house.things()
    used = False
    for caller in sorted(CALLERS, key=lambda one: row.expected(one) < 400):
        if used and row.kind == WRITE and row.private:
            things = house.things()
        used = row.expected(caller) < 400
        reply = house.call(caller, endpoint.format(**things.ids), **row.request(things))
        assert reply.status_code == row.expected(caller), f"{endpoint} with {caller}: {reply.text}"
        if caller not in INSIDERS:
            assert MARK not in reply.text, f"{endpoint} tells {caller} of the owner's"
        if reply.status_code in {401, 403}:
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("endpoint", MATRIX)
def test_an_endpoint_answers_each_key_as_it_should(house: House, endpoint: str) -> None:
    _check(house, endpoint, MATRIX[endpoint])


@pytest.mark.parametrize("what", BY_REFERENCE)
def test_another_ones_things_cannot_be_referred_to(house: House, what: str) -> None:
    _check(house, *BY_REFERENCE[what])


@pytest.mark.parametrize("endpoint", HIDDEN)
def test_what_needs_no_key_tells_of_nobody(house: House, endpoint: str) -> None:
    _check(house, endpoint, HIDDEN[endpoint])


def test_what_an_admin_makes_is_the_admins(house: House) -> None:
    job = house.call(ADMIN, "POST /v1/jobs", json=_PROMPT).json()
    assert house.call(OWNER, "GET /v1/jobs").json()["data"] == []
    assert job["id"] in house.call(ADMIN, "GET /v1/jobs").text
    assert house.api.store.get(job["id"]).owner == f"operator-{house.name}"


def test_results_of_a_batch_are_its_owners(house: House) -> None:
    things = house.things()
    made = house.made("POST /v1/batches", json=_batch_of(things.file_id))
    clerk = office(house.api)
    clerk.work()
    (line,), _ = house.api.store.list_jobs(batch_id=made["id"])
    house.wait_for(line.id)
    clerk.work()
    output = house.made(f"GET /v1/batches/{made['id']}")["output_file_id"]
    replies = {caller: house.call(caller, f"GET /v1/files/{output}/content").status_code for caller in CALLERS}
    assert replies == {caller: reads(private=True).expected(caller) for caller in CALLERS}


NAMES_NOTHING = [
    endpoint
    for endpoint, row in {**MATRIX, **HIDDEN}.items()
    if endpoint.startswith("GET ") and not row.private and row.kind in {READ, OPEN}
]
"""What answers everybody. A new endpoint is here by itself."""


def _work(house: House) -> None:
    """One of everything of the owner's: work that has ended, that runs, and that waits, on a worker that is busy."""
    ended, running, _ = (house.made("POST /v1/jobs", json=_PROMPT)["id"] for _ in range(3))
    run_to_end(house.api.store, ended, MARK)
    claim(house.api.store, running)
    house.made("POST /v1/responses", json=_BACKGROUND)
    file = house.made("POST /v1/files", **_UPLOAD)
    house.made("POST /v1/batches", json=_batch_of(file["id"]))
    hook = house.made("POST /v1/webhooks", json=_HOOK)
    house.made(f"POST /v1/webhooks/{hook['id']}/test")


def _beat(house: House, *, num_busy: int) -> None:
    machine = {"backend": "CPU", "attention": "llama.cpp", "kv_cells": 64, "exact": {"tile": True}}
    counts = dict.fromkeys(("waiting", "num_prompt_tokens", "kv_cells_used", "something_new"), num_busy)
    house.api.store.heartbeat("test-worker", MODEL, 16, num_busy, 4.5 * num_busy, {**machine, **counts})


def _told(house: House, caller: str) -> dict[str, Any]:
    """What all those endpoints answer, but for the clock of the worker."""
    names = {"recipe_id": recipe_id(RECIPE), "name": house.api.settings.model_name}
    replies = {endpoint: house.call(caller, endpoint.format(**names)) for endpoint in NAMES_NOTHING}
    assert {endpoint for endpoint, reply in replies.items() if not reply.is_success} == set()
    return {endpoint: re.sub(r'"seen_at":"[^"]*"', "", reply.text) for endpoint, reply in replies.items()}


def test_what_a_stranger_is_told_does_not_change_with_what_the_owner_does(start_api: Callable[..., Api]) -> None:
    house = House(start_api())
    run_to_end(house.api.store, house.api.store.submit([make_job()]).ids[0])  # so that there is a recipe
    _beat(house, num_busy=0)
    callers = (STRANGER, OWNER, COLLEAGUE, READER, ADMIN)
    before = {caller: _told(house, caller) for caller in callers}
    _work(house)
    _beat(house, num_busy=3)
    after = {caller: _told(house, caller) for caller in callers}
    assert after[STRANGER] == before[STRANGER]
    everything = {f"GET /v1/{what}" for what in ("jobs", "files", "batches", "webhooks", "workers", "queues")}
    for caller in callers[1:]:
        assert {name for name in NAMES_NOTHING if after[caller][name] != before[caller][name]} == everything
    assert after[OWNER] == after[COLLEAGUE] == after[READER]


def test_only_numbers_and_everything_tell_how_busy_the_machine_is(start_api: Callable[..., Api]) -> None:
    house = House(start_api())
    _beat(house, num_busy=3)
    _work(house)
    for caller in (STRANGER, OWNER, COLLEAGUE, READER, ADMIN):
        (worker,) = house.call(caller, "GET /v1/workers").json()["data"]
        queues = house.call(caller, "GET /v1/queues").json()["data"]
        running = [worker["running"], sum(queue["running"] for queue in queues)]
        assert running == ([0, 0] if caller == STRANGER else [1, 1])
        assert [queue["queued"] for queue in queues] == ([0, 0] if caller == STRANGER else [2, 1])
        assert worker["busy_slots"] == (3 if caller == ADMIN else None)
        assert ("something_new" in worker["details"]) == (caller == ADMIN)
