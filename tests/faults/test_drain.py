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

PATIENT = 1


@pytest.fixture
def system(make_system: MakeSystem, sqlite_url: str) -> System:
    made = make_system(sqlite_url, drain_seconds=PATIENT)
    made.start_dispatcher()
    return made


def ready_worker(system: System) -> Role:
    worker = system.start_worker_process()
    worker.wait_until_it_says(" ready.")
    return worker


def test_short_ones_end_where_they_are_and_long_ones_on_another_worker(system: System) -> None:
    draining = ready_worker(system)
    short = system.submit(batch=True, parameters={"max_tokens": 20})
    long = system.submit(batch=True, parameters={"max_tokens": 1500})
    for job_id in short + long:
        wait_until(lambda: system.state(job_id) is not JobState.QUEUED)  # noqa: B023
    draining.send(signal.SIGTERM)
    draining.wait_until_it_says("Draining")
    ready_worker(system)
    assert draining.wait(PATIENT + 15) == 0
    system.wait_for_ends(short + long, 60)
    assert system.outcomes(short[0]) == ["succeeded"]
    given_back = system.store.attempts(long[0])
    assert [attempt.outcome for attempt in given_back] == ["interrupted", "succeeded"]
    assert given_back[0].worker != given_back[1].worker
    assert system.store.get(long[0]).num_failures == 0
    assert system.store.audit() == []


def test_a_batch_survives_one_worker_after_another_being_replaced(system: System) -> None:
    lines = system.store.submit(system.lines(8, max_tokens=300), new_batch=True).ids
    worker = ready_worker(system)
    for _ in range(2):
        wait_until(lambda: any(system.state(job_id) is JobState.RUNNING for job_id in lines))
        worker.send(signal.SIGTERM)
        worker.wait_until_it_says("Draining")
        worker.send(signal.SIGTERM)  # again: at once
        assert worker.wait(10) == 0
        worker = ready_worker(system)
    system.wait_for_ends(lines, 60)
    assert {system.store.get(job_id).num_failures for job_id in lines} == {0}
    assert "interrupted" in {outcome for job_id in lines for outcome in system.outcomes(job_id)}
    assert system.store.audit() == []
