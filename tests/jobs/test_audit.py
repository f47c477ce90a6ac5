"""The audit finds what is broken on purpose, and names it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobs.records import Failed
from jobs.store import Store
from tests.jobs.support import claim, make_line, submit_one, success

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ids(store: Store) -> dict[str, str]:
    """One job in each state that the sabotage below needs."""
    batch = store.submit([make_line(), make_line()], new_batch=True)
    made = {"queued": submit_one(store), "line": batch.ids[0], "batch": str(batch.batch_id)}
    for name in ("succeeded", "running", "failed"):
        made[name] = submit_one(store)
        claim(store, made[name])
    from jobs.records import AttemptRef

    store.finish(AttemptRef(made["succeeded"], 1), success())
    store.finish(AttemptRef(made["failed"], 1), Failed("bad", "never", False))
    assert store.audit() == []
    return made


SABOTAGE = {
    "an attempt vanished": ("running", "DELETE FROM attempts WHERE job_id = :id"),
    "a success without its text": ("succeeded", "DELETE FROM generations WHERE job_id = :id"),
    "a text of another attempt": ("succeeded", "UPDATE generations SET attempt = 9 WHERE job_id = :id"),
    "an attempt that still runs": (
        "succeeded",
        "UPDATE attempts SET outcome = NULL, ended_at = NULL WHERE job_id = :id",
    ),
    "numbers with a hole": ("failed", "UPDATE attempts SET number = 3 WHERE job_id = :id"),
    "a failure without its error": ("failed", "UPDATE jobs SET error = NULL WHERE id = :id"),
    "more failures than attempts show": ("running", "UPDATE jobs SET num_failures = 1 WHERE id = :id"),
    "a spent budget that still waits": ("queued", "UPDATE jobs SET max_attempts = 0 WHERE id = :id"),
    "a cancelled job that still waits": (
        "queued",
        "UPDATE jobs SET cancel_requested_at = CURRENT_TIMESTAMP WHERE id = :id",
    ),
    "a counter that is wrong": ("batch", "UPDATE batches SET num_failed = 1 WHERE id = :id"),
    "a total that is wrong": ("batch", "UPDATE batches SET num_total = 7 WHERE id = :id"),
    "a batch that ended too early": ("batch", "UPDATE batches SET ended_at = CURRENT_TIMESTAMP WHERE id = :id"),
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_the_audit_names_what_is_broken(store: Store, ids: dict[str, str], what: str) -> None:
    name, statement = SABOTAGE[what]
    with store.engine.begin() as connection:
        connection.execute(sa.text(statement), {"id": ids[name]})
    problems = store.audit()
    assert problems
    assert all(problem.startswith(ids[name]) for problem in problems)


def run_audit(url: str) -> subprocess.CompletedProcess[str]:
    environment = {"PENSTOCK_DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "jobs.audit"], env=environment, capture_output=True, text=True, check=False
    )


def test_the_command_ends_with_the_verdict(store: Store, sqlite_url: str) -> None:
    assert run_audit(sqlite_url).returncode == 0
    with sa.create_engine(sqlite_url).begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO batches (id, owner, num_total, num_succeeded, num_failed, num_cancelled, num_expired,"
                " created_at, metadata) VALUES ('batch_x', '', 5, 0, 0, 0, 0, '2030-01-01 00:00:00.000000', '{}')"
            )
        )
    broken = run_audit(sqlite_url)
    assert broken.returncode == 1
    assert "batch_x" in broken.stdout
    assert run_audit("postgresql://nobody@127.0.0.1:1/none").returncode == 2
