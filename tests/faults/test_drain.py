"""A drained worker's jobs in a whole system: what it gives back another one finishes, at no cost to the job.

What a drain does inside one worker is tested in `tests/worker/test_faults.py`.
"""

from __future__ import annotations

import signal

import pytest

from jobs.states import JobState
from tests.faults.conftest import MakeSystem
from tests.support.services import wait_until
from tests.support.system import Role, System


@pytest.fixture
def system(make_system: MakeSystem, sqlite_url: str) -> System:
    made = make_system(sqlite_url, drain_seconds=0.2)
    made.start_dispatcher()
    return made


def ready_worker(system: System) -> Role:
    worker = system.start_worker_process()
    worker.wait_until_it_says(" ready.")
    return worker


def test_what_a_drained_worker_gives_back_another_one_finishes(system: System) -> None:
    draining = ready_worker(system)
    other = system.start_worker_process()
    (job_id,) = system.submit(parameters={"max_tokens": 1500})
    system.wait_for_text(job_id)
    draining.send(signal.SIGTERM)
    assert draining.wait(20) == 0
    system.wait_for_ends([job_id], 60)
    first, second = system.store.attempts(job_id)
    assert (first.outcome, second.outcome) == ("interrupted", "succeeded")
    assert first.worker != second.worker
    assert system.store.get(job_id).num_failures == 0
    assert other.alive
    assert system.store.audit() == []


def test_a_batch_survives_one_worker_after_another_being_replaced(system: System) -> None:
    lines = system.store.submit(system.lines(6, max_tokens=200), new_batch=True).ids
    worker = ready_worker(system)
    for _ in range(2):
        wait_until(lambda: any(system.state(job_id) is JobState.RUNNING for job_id in lines))
        worker.send(signal.SIGTERM)
        assert worker.wait(10) == 0
        worker = ready_worker(system)
    system.wait_for_ends(lines, 60)
    assert {system.store.get(job_id).num_failures for job_id in lines} == {0}
    assert "interrupted" in {outcome for job_id in lines for outcome in system.outcomes(job_id)}
    assert system.store.audit() == []
