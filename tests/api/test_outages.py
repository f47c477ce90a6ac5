"""With the database, Redis or the model away: what still works, and how the rest is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api import models
from api.announcing import Announcer
from api.models import Catalog, local_file
from jobs.errors import QueueUnavailable
from jobs.store import Store
from tests.api.stage import CONTEXT_TOKENS, MODEL, NO_REDIS, Api, Stage
from tests.support.models import DEMO_MODEL, VOCABULARY
from tests.support.services import wait_until


@pytest.fixture
def without_redis(start_api: Callable[..., Api]) -> Api:
    return start_api(redis_url=NO_REDIS)


@pytest.fixture
def without_database(api: Api, tmp_path: Path) -> Api:
    """The database goes away under a running application."""
    api.client.get("/v1/jobs")
    api.services.store.engine.dispose()
    for file in tmp_path.glob("penstock.db*"):
        file.unlink()
    (tmp_path / "penstock.db").mkdir()
    return api


def test_without_redis_jobs_are_accepted_and_wait_in_the_database(without_redis: Api) -> None:
    job = without_redis.submit()
    assert without_redis.store.get(job["id"]).published_at is None
    assert without_redis.client.post("/v1/jobs", json={"jobs": [{"prompt": "x"}]}).status_code == 202
    assert without_redis.client.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"


def test_without_redis_the_api_is_ready_and_says_degraded(without_redis: Api) -> None:
    reply = without_redis.client.get("/health/ready")
    assert (reply.status_code, reply.json()["status"]) == (200, "degraded")
    assert (reply.json()["redis"], reply.json()["database"]) == ("unavailable", "ok")


def test_without_the_database_every_call_is_refused_for_the_moment(without_database: Api) -> None:
    id = "0" * 32  # noqa: A001
    calls = [
        ("GET", "/v1/jobs"),
        ("GET", f"/v1/jobs/job_{id}"),
        ("POST", f"/v1/jobs/job_{id}/cancel"),
        ("GET", f"/v1/jobs/job_{id}/events"),
        ("GET", f"/v1/batches/batch_{id}"),
        ("POST", f"/v1/batches/batch_{id}/cancel"),
        ("GET", "/v1/models"),
    ]
    for call in calls:
        reply = without_database.client.request(*call)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_unavailable"), call
        assert int(reply.headers["Retry-After"]) > 0
    reply = without_database.client.post("/v1/jobs", json={"prompt": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_unavailable")


def test_without_the_database_the_api_is_alive_and_not_ready(without_database: Api) -> None:
    assert without_database.client.get("/health/live").json() == {"status": "ok"}
    reply = without_database.client.get("/health/ready")
    assert (reply.status_code, reply.json()["status"]) == (503, "unavailable")


def test_with_everything_up_the_api_is_ready(api: Api) -> None:
    api.store.heartbeat("w", MODEL, 4, 0, 0.0)
    reply = api.client.get("/health/ready")
    expected = {"status": "ok", "database": "ok", "redis": "ok", "model": MODEL, "workers": 1}
    assert (reply.status_code, reply.json()) == (200, expected)


def test_an_unannounced_model_is_not_known_yet(start_api: Callable[..., Api]) -> None:
    api = start_api(announced=False)
    reply = api.client.post("/v1/jobs", json={"prompt": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_unknown")
    assert reply.headers["Retry-After"] == "2"
    assert api.num_jobs() == 0
    assert api.client.get("/health/ready").json()["model"] is None


def test_a_model_that_a_worker_announces_later_is_found(
    start_api: Callable[..., Api], announce: Callable[[Store], None]
) -> None:
    api = start_api(announced=False)
    assert api.client.post("/v1/jobs", json={"prompt": "x"}).status_code == 503
    announce(api.store)
    assert api.client.post("/v1/jobs", json={"prompt": "x"}).status_code == 202


def test_a_model_in_a_local_file_is_known_before_a_worker_announces_it(start_api: Callable[..., Api]) -> None:
    api = start_api(announced=False, model=str(VOCABULARY), context_tokens=64)
    assert api.client.post("/v1/jobs", json={"prompt": "x", "max_tokens": 62}).status_code == 202
    assert api.client.post("/v1/jobs", json={"prompt": "x", "max_tokens": 63}).status_code == 400


def test_a_first_announcement_is_noticed_soon(set_stage: Callable[..., Stage], vocabulary_bytes: bytes) -> None:
    stage = set_stage(announced=False, model=str(VOCABULARY), context_tokens=64)
    now = [0.0]
    catalog = Catalog(stage.store, stage.settings, clock=lambda: now[0])
    assert catalog.served().context_tokens == 64
    stage.store.announce_model(stage.settings.model_name, "0" * 64, 100, vocabulary_bytes)
    now[0] += models.FRESH_SECONDS / 4
    assert catalog.served().context_tokens == 100


def test_the_announced_context_counts_and_not_the_settings(start_api: Callable[..., Api]) -> None:
    api = start_api(context_tokens=16)
    assert api.client.post("/v1/jobs", json={"prompt": "x", "max_tokens": CONTEXT_TOKENS - 2}).status_code == 202


def test_a_new_announcement_is_noticed(api: Api, vocabulary_bytes: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "FRESH_SECONDS", 0.0)
    assert api.client.post("/v1/jobs", json={"prompt": "x", "max_tokens": 200}).status_code == 202
    api.store.announce_model(MODEL, "0" * 64, 100, vocabulary_bytes)
    assert api.client.post("/v1/jobs", json={"prompt": "x", "max_tokens": 200}).status_code == 400


def test_the_demo_model_lies_beside_the_package() -> None:
    assert models.DEMO_FILE == DEMO_MODEL
    assert local_file("phi-3-mini") is None


class _DeadQueue:
    def __init__(self) -> None:
        self.num_calls = 0

    def publish(self, job_ids: list[str], priority: object) -> None:
        self.num_calls += 1
        raise QueueUnavailable("down")


def test_after_a_failed_publish_nobody_waits_for_redis_for_a_moment(api: Api) -> None:
    now = [0.0]
    queue = _DeadQueue()
    announcer = Announcer(api.store, queue, api.writer, clock=lambda: now[0])  # type: ignore[arg-type]
    announcer.queued(["job_1"], 0).result(20)
    announcer.queued(["job_2"], 0).result(20)
    assert queue.num_calls == 1
    now[0] = 1.5
    announcer.queued(["job_3"], 0).result(20)
    announcer.close()
    assert queue.num_calls == 2


def test_a_redis_that_hangs_keeps_no_thread_from_the_next_request(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(api.services.announcer._writer, "wake_dispatcher", lambda: free.wait(60))
    body = {"jobs": [{"prompt": "x"}]}
    with ThreadPoolExecutor(61) as callers:
        replies = [
            callers.submit(api.client.post, "/v1/jobs", json=body) for _ in range(60)
        ]  # more than it has threads
        wait_until(lambda: api.num_jobs() == len(replies))
        try:
            assert callers.submit(api.client.get, "/v1/jobs").result(20).status_code == 200
        finally:
            free.set()
        assert {reply.result(30).status_code for reply in replies} == {202}


def test_cancels_that_redis_does_not_take_keep_no_thread_either(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()
    ids = [job["id"] for job in api.client.post("/v1/jobs", json={"jobs": [{"prompt": "x"}] * 60}).json()["data"]]
    for name in ("end", "cancel", "forget"):
        monkeypatch.setattr(api.services.announcer._writer, name, lambda *_: free.wait(60))
    with ThreadPoolExecutor(61) as callers:
        try:
            replies = [callers.submit(api.client.post, f"/v1/jobs/{job_id}/cancel") for job_id in ids]
            assert {reply.result(20).json()["state"] for reply in replies} == {"cancelled"}
            replies = [callers.submit(api.client.delete, f"/v1/jobs/{job_id}") for job_id in ids]
            assert {reply.result(20).status_code for reply in replies} == {200}
        finally:
            free.set()


def test_what_cannot_be_told_fails_nobody_and_the_next_is_told(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    def forget(job_id: str) -> bool:
        told.append(job_id)
        raise ValueError("a-very-secret-prompt")

    monkeypatch.setattr(api.writer, "forget", forget)
    announcer = Announcer(api.store, _DeadQueue(), api.writer)  # type: ignore[arg-type]
    announcer.deleted("job_1").result(20)
    announcer.deleted("job_2").result(20)
    announcer.close()
    announcer.deleted("job_3").result(20)
    assert told == ["job_1", "job_2"]
    logged = capsys.readouterr()
    assert "ValueError" in logged.out + logged.err
    assert "secret" not in logged.out + logged.err


def test_a_server_that_closes_tells_what_it_has_accepted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, told = threading.Event(), threading.Event(), threading.Semaphore(0)

    def wake() -> bool:
        begun.set()
        told.release()
        return go_on.wait(20)

    monkeypatch.setattr(api.writer, "wake_dispatcher", wake)
    announcer = Announcer(api.store, _DeadQueue(), api.writer)  # type: ignore[arg-type]
    waiting = [announcer.queued([], 1) for _ in range(20)]
    assert begun.wait(20)
    with ThreadPoolExecutor(1) as stopping:
        closed = stopping.submit(announcer.close)
        go_on.set()
        closed.result(20)
    assert all(future.done() for future in waiting)
    assert sum(told.acquire(blocking=False) for _ in range(21)) == 20


def test_after_a_failed_ring_nobody_rings_for_a_moment(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    rings: list[float] = []
    now = [0.0]
    monkeypatch.setattr(api.writer, "wake_dispatcher", lambda: bool(rings.append(now[0])))
    announcer = Announcer(api.store, _DeadQueue(), api.writer, clock=lambda: now[0])  # type: ignore[arg-type]
    for now[0] in (0.0, 0.5, 1.5):
        announcer.queued([], 1).result(20)
    announcer.close()
    assert rings == [0.0, 1.5]


def test_an_unforeseen_error_is_a_500_that_tells_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def boom() -> None:
        raise RuntimeError("a-very-secret-prompt")

    monkeypatch.setattr(api.services.store, "list_models", boom)
    reply = api.client.get("/v1/models")
    logged = capsys.readouterr()
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in reply.text + logged.out + logged.err
    assert "RuntimeError" in logged.out + logged.err
