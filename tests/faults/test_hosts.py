"""Five hosts: API and dispatcher, Redis, PostgreSQL, two workers. One worker's is cut off the network, and put back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs.states import JobState
from tests.support.hosts import NETWORK, Host, Network, why_not
from tests.support.postgres import PostgresServer
from tests.support.services import RedisServer, wait_until
from tests.support.system import Role, System

KEY = "a-key-for-the-test-network"
LEASE_SECONDS = 2.0


@pytest.fixture(scope="module")
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
    queue: Host
    store: Host
    hosts: list[Host]
    workers: list[Role]

    def of(self, worker: str) -> int:
        """Which of the two runs under this name in the database. Both have this machine's name, but their own pid."""
        return next(index for index, role in enumerate(self.workers) if worker.endswith(f"-{role.process.pid}"))

    def post(self, **job: object) -> str:
        """Submit one job; its id."""
        status, reply = self.ask(**job)
        assert status == 202, reply
        return str(reply["id"])

    def ask(self, **job: object) -> tuple[int, dict[str, Any]]:
        """Submit from the API's own host; the status and the reply."""
        body = json.dumps({"prompt": "Write a haiku", "seed": 7, **job})
        url = f"http://{self.front.address}:{self.system.settings.port}/v1/jobs"
        command = [*self.front.prefix, sys.executable, "-c", _POST, url, KEY, body]
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        status, reply = json.loads(said.stdout)
        return status, reply


_POST = """
import json, sys, httpx
url, key, body = sys.argv[1:]
headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
reply = httpx.post(url, content=body, headers=headers, timeout=50, trust_env=False)
print(json.dumps([reply.status_code, reply.json()]))
"""


@pytest.fixture(scope="module")
def cluster(network: Network, tmp_path_factory: pytest.TempPathFactory, endless_model: Path) -> Iterator[Cluster]:
    front, queue, store, *workers = (network.add_host(name) for name in ("front", "queue", "store", "one", "two"))
    postgres = redis = system = None
    try:
        postgres = PostgresServer(prefix=store.prefix, address=store.address, peers=NETWORK)
        redis = RedisServer(prefix=queue.prefix, address=queue.address)
        settings = {"lease_seconds": LEASE_SECONDS, "host": front.address, "api_keys": KEY, "slots": 4}
        system = System(tmp_path_factory.mktemp("hosts"), postgres.url, redis.url, endless_model, **settings)
        far = {"PENSTOCK_DATABASE_URL": postgres.network_url, "PENSTOCK_REDIS_URL": redis.network_url}
        api = system.start_api(prefix=front.prefix, **far)
        system.start_dispatcher(prefix=front.prefix, **far)
        roles = [system.start_worker_process(prefix=host.prefix, **far) for host in workers]
        for role in roles:
            role.wait_until_it_says(" ready.")
        api.wait_until_it_says("listening")
        yield Cluster(system, front, queue, store, list(workers), roles)
    finally:
        if system is not None:
            system.close()
        for server in (redis, postgres):
            if server is not None:
                server.remove()


def test_the_host_of_redis_or_of_the_database_is_cut_off_and_every_wait_has_an_end(cluster: Cluster) -> None:
    cluster.queue.cut()
    waiting = [cluster.post(max_tokens=8) for _ in range(2)]
    cluster.queue.mend()
    cluster.system.wait_for_ends(waiting, 60)

    cluster.store.cut()
    status, reply = cluster.ask(max_tokens=8)
    assert (status, reply["error"]["code"]) == (503, "store_unavailable")
    cluster.store.mend()
    wait_until(lambda: cluster.ask(max_tokens=8)[0] == 202, 30)
    cluster.system.wait_for_ends([job.id for job in cluster.system.store.list_jobs()[0]], 60)
    assert all(role.alive for role in cluster.system.roles)
    assert cluster.system.store.audit() == []


# Last: one worker ends here.
def test_a_worker_that_is_cut_off_loses_its_jobs_to_the_other_and_goes_on_when_it_is_back(cluster: Cluster) -> None:
    system = cluster.system
    lines = list(system.submit(4, batch=True, parameters={"max_tokens": 100}))
    jobs = [cluster.post(max_tokens=1500) for _ in range(2)]
    wait_until(lambda: system.store.attempts(jobs[1]))
    lost = cluster.of(system.store.attempts(jobs[1])[0].worker)
    cluster.workers[lost].send(signal.SIGSTOP)  # so that it cannot end its jobs before the cable is out
    cluster.hosts[lost].cut()
    cluster.workers[lost].send(signal.SIGCONT)
    system.wait_for_ends(jobs + lines, 60)
    moved = [job_id for job_id in jobs + lines if "lease_lost" in system.outcomes(job_id)]
    assert jobs[1] in moved
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
