"""Redis gone, emptied or full; the database gone or without room; the API killed half-way. What is accepted ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
import redis

from jobs.states import JobState
from tests.faults.conftest import MakeSystem
from tests.support.postgres import PostgresServer
from tests.support.services import RedisServer, wait_until


def test_without_redis_jobs_are_accepted_and_run_by_themselves_when_it_is_back(
    make_system: MakeSystem, sqlite_url: str, own_redis_server: RedisServer
) -> None:
    system = make_system(sqlite_url, redis_url=own_redis_server.url)
    roles = system.start_all()
    first = system.post(max_tokens=4000)  # it must outlast the readers' patience, on a fast machine too
    system.wait_for_text(first)
    with system.follow(first) as frames:
        assert next(frames).event == "state"
        own_redis_server.stop()
        last = list(frames)[-1]
    assert (last.event, last.data["error"]["code"]) == ("error", "queue_unavailable"), "and no `end`"
    waiting = [system.post() for _ in range(3)]
    system.store.submit(system.lines(3), new_batch=True)
    assert system.health()["status"] == "degraded"
    wait_until(lambda: system.polled(first) == "succeeded", 90)
    assert {system.polled(job_id) for job_id in waiting} == {"queued"}
    own_redis_server.start()
    system.wait_for_ends([job.id for job in system.store.list_jobs()[0]], 20)
    wait_until(lambda: system.health()["status"] == "ok")
    assert all(role.alive for role in roles)
    assert system.store.audit() == []


def test_a_full_redis_holds_work_up_and_ends_nobody(
    make_system: MakeSystem, sqlite_url: str, own_redis_server: RedisServer
) -> None:
    system = make_system(sqlite_url, redis_url=own_redis_server.url)
    roles = system.start_all()
    running = system.post(max_tokens=800)
    system.wait_for_text(running)
    with redis.Redis.from_url(own_redis_server.url) as operator:
        operator.config_set("maxmemory", "1")
        waiting = [system.post() for _ in range(3)]
        wait_until(lambda: "queue_unavailable" in roles[1].said())
        system.wait_for_ends([running], 30)
        assert {system.polled(job_id) for job_id in waiting} == {"queued"}
        operator.config_set("maxmemory", "0")
    system.wait_for_ends(waiting, 20)
    assert all(role.alive for role in roles)
    assert system.store.audit() == []


def test_without_the_database_the_worker_keeps_what_it_finished_until_it_is_stored(
    make_system: MakeSystem, own_postgres: PostgresServer
) -> None:
    system = make_system(own_postgres.url, lease_seconds=2.0)
    api, dispatcher, worker = system.start_all()
    ids = [system.post(max_tokens=300) for _ in range(2)]
    for job_id in ids:
        system.wait_for_text(job_id)
    own_postgres.stop()
    refused = system.http.post("/v1/jobs", json={"prompt": "ice"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert system.http.get("/health/ready").status_code == 503
    worker.wait_until_it_says("2 ends wait for the database")
    past_the_leases = threading.Event()
    past_the_leases.wait(2 * system.settings.lease_seconds)  # nobody could renew, and nobody is to blame
    own_postgres.start()
    system.wait_for_ends(ids, 20)
    assert [system.outcomes(job_id) for job_id in ids] == [["succeeded"]] * 2
    after = system.post()
    system.wait_for_ends([after])
    assert all(role.alive for role in (api, dispatcher, worker))
    assert system.store.audit() == []


@pytest.fixture
def small_disk(tmp_path: Path, sqlite_template: Path) -> Iterator[Path]:
    """A filesystem of 4 MB with a migrated database in it."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small filesystem can be mounted by root only")
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("this machine does not let the test mount a small filesystem")
    try:
        shutil.copy(sqlite_template, place / "penstock.db")
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_with_the_disk_full_nothing_is_half_stored_and_with_room_work_goes_on(
    make_system: MakeSystem, small_disk: Path
) -> None:
    system = make_system(f"sqlite:///{small_disk / 'penstock.db'}", lease_seconds=30)
    roles = system.start_all()
    running = system.post(max_tokens=1000)
    system.wait_for_text(running)
    fill(small_disk / "ballast")
    batch = {"jobs": [{"prompt": "ice " * 200}] * 20}
    wait_until(lambda: system.http.post("/v1/jobs", json=batch).status_code == 503, 10)
    refused = system.http.post("/v1/jobs", json=batch)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    num_jobs = len(system.store.list_jobs(limit=1000)[0])
    assert num_jobs % 20 == 1, "all of a request, or none"
    roles[2].wait_until_it_says("ends wait for the database")
    (small_disk / "ballast").unlink()
    system.wait_for_ends([running], 20)
    assert system.outcomes(running) == ["succeeded"]
    system.wait_for_ends([job.id for job in system.store.list_jobs(limit=1000)[0]], 40)
    assert all(role.alive for role in roles)
    assert system.store.audit() == []


def fill(file: Path) -> None:
    """Write until there is no room left."""
    with file.open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"\0" * 4096)
        except OSError:
            return


def test_a_job_whose_api_died_before_its_message_is_found(make_system: MakeSystem, sqlite_url: str) -> None:
    system = make_system(sqlite_url)
    system.start_dispatcher()
    system.start_worker_process().wait_until_it_says(" ready.")
    (job_id,) = system.store.submit(system.lines(1), new_batch=True).ids
    system.wait_for_ends([job_id], 5)


def test_what_a_killed_api_has_accepted_ends(make_system: MakeSystem, sqlite_url: str) -> None:
    system = make_system(sqlite_url)
    api, _, _ = system.start_all()
    accepted: list[str] = []

    def submit_until_nobody_answers() -> None:
        try:
            while True:
                accepted.append(system.post())
        except httpx.TransportError:
            return

    callers = [threading.Thread(target=submit_until_nobody_answers) for _ in range(4)]
    for caller in callers:
        caller.start()
    wait_until(lambda: len(accepted) >= 20, 20)
    api.kill()
    for caller in callers:
        caller.join(20)
    api.restart()
    system.wait_for_ends([job.id for job in system.store.list_jobs(limit=1000)[0]], 40)
    wait_until(system.health, 20)
    assert {system.polled(job_id) for job_id in accepted} == {"succeeded"}
    assert system.store.audit() == []


def test_a_restarted_postgresql_serves_again_without_a_restart_of_any_role(
    make_system: MakeSystem, own_postgres: PostgresServer
) -> None:
    system = make_system(own_postgres.url)
    roles = system.start_all()
    own_postgres.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(own_postgres.url.replace("+psycopg", ""))
    own_postgres.start()
    wait_until(lambda: system.http.post("/v1/jobs", json={"prompt": "ice", "max_tokens": 4}).status_code == 202)
    system.wait_for_ends([job.id for job in system.store.list_jobs()[0]])
    assert system.state(system.store.list_jobs()[0][0].id) is JobState.SUCCEEDED
    assert all(role.alive for role in roles)
