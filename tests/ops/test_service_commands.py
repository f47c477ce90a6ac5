"""Each service's command line from `docker-compose.yml`, run for real: it gets healthy, works, and ends on SIGTERM.

One system serves the whole module; the tests stand in the order of its life.
"""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import redis

from tests.ops import compose
from tests.ops.running import ROLES, Machine, Running, check_health, run_to_end, until

KEY = compose.SECRETS["api_keys"]


def test_redis_takes_the_options_it_is_given(redis_url: str) -> None:
    expected = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": str(512 * 1024 * 1024),
        "maxmemory-policy": "noeviction",
    }
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        found = {name: client.config_get(name)[name] for name in expected}
    assert found == expected


@pytest.mark.parametrize("role", ROLES)
def test_a_role_that_is_not_there_is_not_healthy_and_the_reason_is_one_line(migrated: Machine, role: str) -> None:
    found = check_health(compose.load()["services"][role], migrated)
    assert found.returncode == 1
    assert found.stderr.startswith(f"{role} is not healthy: ")
    assert found.stderr.count("\n") == 1


def test_a_database_that_is_down_is_named_without_its_password(folder: Path, redis_url: str) -> None:
    nowhere = Machine(folder, "postgresql+psycopg://penstock:a-password@127.0.0.1:1/penstock", redis_url, 1, 1)
    found = check_health(compose.load()["services"]["dispatcher"], nowhere)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "dispatcher is not healthy: the database did not answer (OperationalError)\n"


def test_migrating_again_changes_nothing(migrated: Machine) -> None:
    service = compose.load()["services"]["migrate"]
    again = run_to_end(service["command"], service, migrated)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("role", ROLES)
def test_a_role_gets_healthy(system: dict[str, Running], role: str) -> None:
    system[role].wait_until_healthy()


def test_a_job_goes_through_all_of_them(system: dict[str, Running], migrated: Machine) -> None:
    system["worker"].wait_until_healthy()
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{migrated.api_port}", headers=headers, trust_env=False) as client:
        made = client.post("/v1/jobs", json={"prompt": "Write a haiku", "max_tokens": 8, "seed": 7})
        assert made.status_code == 202, made.text
        url = f"/v1/jobs/{made.json()['id']}"
        until(lambda: client.get(url).json()["state"] not in {"queued", "running"}, "the job ends", seconds=30)
        job = client.get(url).json()
    assert (job["state"], job["seed"]) == ("succeeded", 7)


def test_neither_the_api_nor_flower_opens_without_its_secret(system: dict[str, Running], migrated: Machine) -> None:
    system["api"].wait_until_healthy()
    system["flower"].wait_until_healthy()
    user, _, password = compose.SECRETS["flower_basic_auth"].partition(":")
    flower = f"http://127.0.0.1:{migrated.flower_port}/workers"
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"http://127.0.0.1:{migrated.api_port}/v1/jobs").status_code == 401
        assert client.get(flower).status_code == 401
        assert client.get(flower, auth=(user, password)).status_code == 200


def test_no_role_writes_a_secret_to_its_output(system: dict[str, Running]) -> None:
    secrets = {secret.rpartition(":")[2] for secret in compose.SECRETS.values()}
    assert [(name, secret) for name, role in system.items() for secret in secrets if secret in role.output()] == []


# Last: what ends here stays ended.
@pytest.mark.parametrize("role", ["flower", "api", "worker", "dispatcher"])
def test_a_role_ends_with_status_0_on_sigterm_within_its_grace_period(system: dict[str, Running], role: str) -> None:
    system[role].wait_until_healthy()
    assert system[role].end() == 0, system[role].output()[-4000:]
