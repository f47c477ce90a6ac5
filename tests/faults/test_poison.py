"""A prompt that kills its worker: it is set aside when its attempts are spent, and takes nobody with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from jobs.states import JobState
from tests.faults.conftest import MakeSystem
from tests.support.services import wait_until
from tests.support.system import Role
from tests.worker.site import ROOT

POISON = "a poisonous prompt"
NUM_INNOCENT = 5


@contextmanager
def supervised(worker: Role) -> Iterator[Callable[[], int]]:
    """Start the worker again whenever it dies, as `penstock up` or a container engine does; answer how often."""
    done = Event()
    deaths: list[int] = []

    def watch() -> None:
        while not done.wait(0.05):
            if not worker.alive:
                deaths.append(worker.process.returncode)
                worker.restart()

    thread = Thread(target=watch)
    thread.start()
    try:
        yield lambda: len(deaths)
    finally:
        done.set()
        thread.join()
        assert set(deaths) <= {-signal.SIGABRT}, deaths


def test_a_poison_prompt_is_set_aside_its_neighbours_succeed_and_an_operator_brings_it_back(
    make_system: MakeSystem, sqlite_url: str
) -> None:
    system = make_system(sqlite_url, lease_seconds=1.0, slots=16, republish_after_seconds=1.0)
    system.start_dispatcher()
    worker = system.start_worker_process("tests.support.poisoned_worker", POISON=POISON)
    worker.wait_until_it_says(" ready.")
    with supervised(worker) as num_deaths:
        innocent = system.submit(NUM_INNOCENT, batch=True, parameters={"max_tokens": 150})
        (poison,) = system.submit(prompt=POISON, batch=True)
        wait_until(lambda: system.state(poison) is JobState.FAILED, 60)
        system.wait_for_ends(innocent, 60)
        assert num_deaths() == 3
    # They were beside it when it first died, or again; its last attempt is one that it makes alone.
    assert max(system.store.get(job_id).num_failures for job_id in innocent) in (1, 2)
    job = system.store.get(poison)
    assert job.error is not None
    assert job.error["code"] == "attempts_spent"
    assert system.outcomes(poison) == ["lease_lost"] * 3
    assert system.store.audit() == []
    assert POISON not in worker.said()

    worker.kill()
    system.start_worker_process().wait_until_it_says(" ready.")
    command = [sys.executable, "-m", "jobs.admin", "requeue", poison]
    environment = {**os.environ, **system.environment, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True)
    assert poison in said.stdout
    system.wait_for_ends([poison], 60)
    assert system.outcomes(poison) == ["lease_lost"] * 3 + ["succeeded"]
    assert system.store.audit() == []
