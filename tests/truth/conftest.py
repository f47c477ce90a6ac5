"""One whole system on the demo model, for tests that ask whether what is told is what was computed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from jobs.states import JobState
from jobs.tables import Generation
from tests.support.services import RedisServer, wait_until
from tests.support.system import System

END_SECONDS = 60.0


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[System]:
    """API, dispatcher and a worker with tiles and lone lanes. Tests look at their own jobs only."""
    folder = tmp_path_factory.mktemp("system")
    shutil.copy(sqlite_template, folder / "penstock.db")
    redis = RedisServer()
    made = System(folder, f"sqlite:///{folder / 'penstock.db'}", redis.url, "demo", slots=16)
    made.start_all()
    yield made
    made.close()
    redis.remove()


@pytest.fixture
def client(system: System) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{system.http.base_url}/v1", api_key="none", max_retries=0, timeout=END_SECONDS) as client:
        yield client


@pytest.fixture
def stored(system: System) -> Callable[[Any], list[Generation]]:
    """The generations behind an answer or the last chunk of a stream, in the order of its choices."""

    def read(answer: Any) -> list[Generation]:
        found = [system.store.get_generation(job_id) for job_id in answer.penstock["job_ids"]]
        assert all(found)
        return [each for each in found if each]

    return read


@pytest.fixture
def run(system: System) -> Callable[..., Generation]:
    """Run a native job to its end; what was stored of it."""

    def to_end(**job: Any) -> Generation:
        job_id = system.http.post("/v1/jobs", json=job).raise_for_status().json()["id"]
        wait_until(lambda: system.state(job_id) is JobState.SUCCEEDED, END_SECONDS)
        generation = system.store.get_generation(job_id)
        assert generation is not None
        return generation

    return to_end
