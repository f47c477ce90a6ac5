"""Five hosts: API and dispatcher, Redis, PostgreSQL, two workers. One worker's is cut off the network, and put back."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.states import JobState
from tests.support.hosts import NETWORK, Host, Network, why_not
from tests.support.postgres import PostgresServer
from tests.support.services import RedisServer, wait_until
from tests.support.system import Role, System

KEY = "a-key-for-the-test-network"
LEASE_SECONDS = 2.0


@pytest.fixture
def network() -> Iterator[Network]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    made = Network()
    yield made
    made.remove()
    assert made.left_behind() == []


@dataclass
class Cluster:
    system: System
    front: Host
    hosts: list[Host]
    workers: list[Role]

    def of(self, worker: str) -> int:
        """Which of the two runs under this name in the database. Both have this machine's name, but their own pid."""
        return next(index for index, role in enumerate(self.workers) if worker.endswith(f"-{role.process.pid}"))

    def post(self, **job: object) -> str:
        """Submit from the API's own host."""
        body = json.dumps({"prompt": "Write a haiku", "seed": 7, **job})
        url = f"http://{self.front.address}:{self.system.settings.port}/v1/jobs"
        said = subprocess.run(
            [*self.front.prefix, "python3", "-c", _POST, url, KEY, body],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert said.returncode == 0, said.stderr
        return str(json.loads(said.stdout)["id"])


_POST = """
import sys, urllib.request
url, key, body = sys.argv[1:]
headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
print(urllib.request.urlopen(urllib.request.Request(url, body.encode(), headers), timeout=10).read().decode())
"""


@pytest.fixture
def cluster(network: Network, tmp_path: Path, endless_model: Path) -> Iterator[Cluster]:
    front, queue, store, *workers = (network.add_host(name) for name in ("front", "queue", "store", "one", "two"))
    postgres = redis = system = None
    try:
        postgres = PostgresServer(prefix=store.prefix, address=store.address, peers=NETWORK)
        redis = RedisServer(prefix=queue.prefix, address=queue.address)
        settings = {"lease_seconds": LEASE_SECONDS, "host": front.address, "api_keys": KEY, "slots": 4}
        system = System(tmp_path, postgres.url, redis.url, endless_model, **settings)
        far = {"PENSTOCK_DATABASE_URL": postgres.network_url, "PENSTOCK_REDIS_URL": redis.network_url}
        api = system.start_api(prefix=front.prefix, **far)
        system.start_dispatcher(prefix=front.prefix, **far)
        roles = [system.start_worker_process(prefix=host.prefix, **far) for host in workers]
        for role in roles:
            role.wait_until_it_says(" ready.")
        api.wait_until_it_says("listening")
        yield Cluster(system, front, list(workers), roles)
    finally:
        if system is not None:
            system.close()
        for server in (redis, postgres):
            if server is not None:
                server.remove()


def test_a_worker_that_is_cut_off_loses_its_jobs_to_the_other_and_goes_on_when_it_is_back(cluster: Cluster) -> None:
    system = cluster.system
    jobs = [cluster.post(max_tokens=1500) for _ in range(3)]
    lines = list(system.submit(8, batch=True, parameters={"max_tokens": 300}))
    system.wait_for_text(jobs[0])
    lost = cluster.of(system.store.attempts(jobs[0])[0].worker)
    cluster.hosts[lost].cut()
    system.wait_for_ends(jobs + lines, 60)
    moved = [job_id for job_id in jobs + lines if "lease_lost" in system.outcomes(job_id)]
    assert jobs[0] in moved
    assert {cluster.of(system.store.attempts(job_id)[-1].worker) for job_id in moved} == {1 - lost}

    cluster.hosts[lost].mend()
    cluster.workers[1 - lost].kill()  # so that what comes now is the other one's
    after = cluster.post(max_tokens=8)
    system.wait_for_ends([after], 40)
    assert cluster.of(system.store.attempts(after)[-1].worker) == lost
    assert cluster.workers[lost].alive
    wait_until(lambda: system.store.list_workers(10)[0].busy_slots == 0)
    assert {system.state(job_id) for job_id in jobs + lines} == {JobState.SUCCEEDED}
    assert [system.outcomes(job_id)[-1] for job_id in moved] == ["succeeded"] * len(moved)
    assert system.store.audit() == []
