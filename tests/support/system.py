"""A whole system of real processes: API, dispatcher, workers, over a database and a Redis that the test may break.

Each role is a `Role`: a process that a test may end, kill, stop for a while, and start again. Where a role runs is
its `prefix` (nothing: here; `ip netns exec NAME`: on a host of its own).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from jobs.records import NewJob
from jobs.states import ENDED, JobState, Priority
from tests.api.stage import Frame, frames
from tests.ops.running import free_port
from tests.support.services import wait_until
from tests.worker.site import ROOT, Site

START_SECONDS = 60.0


class Role:
    """One process, its output in a file."""

    def __init__(self, words: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.words, self.log, self.environment = list(words), log, dict(environment)
        self.process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.words, env=self.environment, stdout=log, stderr=log, cwd=self.log.parent)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def restart(self) -> None:
        """Start it again, as whoever supervises it would."""
        assert not self.alive
        self.process = self._started()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, whatever state it is in."""
        if self.alive:
            self.process.kill()
        self.process.wait(10)

    def wait(self, seconds: float = 30.0) -> int:
        return self.process.wait(seconds)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_it_says(self, words: str, seconds: float = START_SECONDS) -> None:
        wait_until(lambda: words in self.said() or not self.alive, seconds)
        assert words in self.said(), self.said()[-4000:]


class System(Site):
    """`start_api`, `start_dispatcher`, `start_worker_process`; `http` speaks to the API."""

    def __init__(self, folder: Path, database_url: str, redis_url: str, model: Path | str, **settings: Any) -> None:
        super().__init__(folder, database_url, redis_url, model, **{"port": free_port(), **settings})
        self.roles: list[Role] = []
        self.http = httpx.Client(
            base_url=f"http://{self.settings.host}:{self.settings.port}", timeout=30, trust_env=False
        )

    def start(self, module: str, *, prefix: Sequence[str] = (), **environment: str) -> Role:
        """`python -m MODULE` as a role."""
        log = self.folder / f"role-{len(self.roles)}-{module}.log"
        inherited = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        role = Role([*prefix, sys.executable, "-m", module], log, {**inherited, **self.environment, **environment})
        self.roles.append(role)
        return role

    def start_api(self, **where: Any) -> Role:
        return self.start("api", **where)

    def start_dispatcher(self, **where: Any) -> Role:
        return self.start("jobs.dispatcher", **where)

    def start_worker_process(self, module: str = "worker", **where: Any) -> Role:
        return self.start(module, **where)

    def start_all(self) -> tuple[Role, Role, Role]:
        """API, dispatcher, worker; back when the API is ready and the worker takes jobs."""
        roles = self.start_api(), self.start_dispatcher(), self.start_worker_process()
        self.wait_until_serving()
        roles[2].wait_until_it_says(" ready.")
        return roles

    def wait_until_serving(self) -> None:
        """The API answers, and a worker has announced the model."""
        wait_until(lambda: self.health().get("model"), START_SECONDS)

    def health(self) -> dict[str, Any]:
        """What `/health/ready` says; empty when nobody answers."""
        try:
            return dict(self.http.get("/health/ready").json())
        except httpx.TransportError:
            return {}

    def post(self, prompt: str = "Write a haiku", **job: Any) -> str:
        """Submit one job over HTTP; its id."""
        reply = self.http.post("/v1/jobs", json={"prompt": prompt, "max_tokens": 8, "seed": 7, **job})
        assert reply.status_code == 202, reply.text
        return str(reply.json()["id"])

    def lines(self, num_jobs: int, **parameters: Any) -> list[NewJob]:
        """Jobs for `store.submit`, which tells nobody: the state that an API leaves that dies after the commit."""
        model, knobs = self.settings.model_name, {"max_tokens": 8, **parameters}
        line = NewJob(model=model, parameters=knobs, prompt="ice", seed=7, num_prompt_tokens=2, priority=Priority.BATCH)
        return [line] * num_jobs

    def polled(self, job_id: str) -> str:
        """The job's state, as a client that polls sees it."""
        return str(self.http.get(f"/v1/jobs/{job_id}").json()["state"])

    @contextmanager
    def follow(self, job_id: str) -> Iterator[Iterator[Frame]]:
        """The frames of the job's stream, as they come."""
        with self.http.stream("GET", f"/v1/jobs/{job_id}/events") as reply:
            yield frames(reply.iter_raw())

    def wait_for_ends(self, job_ids: Sequence[str], seconds: float = 30.0) -> None:
        """Until every one has succeeded; the first other end fails."""

        def all_succeeded() -> bool:
            states = [self.state(job_id) for job_id in job_ids]
            assert set(states) <= {JobState.SUCCEEDED} | (set(JobState) - ENDED), states
            return set(states) == {JobState.SUCCEEDED}

        wait_until(all_succeeded, seconds)

    def close(self) -> None:
        for role in self.roles:
            role.kill()
        self.http.close()
        super().close()
