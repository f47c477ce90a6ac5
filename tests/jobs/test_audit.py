"""The audit finds what is broken on purpose, and names it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobs.records import Failed
from jobs.store import Store
from tests.jobs.batch_support import end_all, failed, line_ids, make_batch, taken_batch, write_files
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


FILE_SABOTAGE = {
    "a line that vanished": ("batch", "UPDATE batches SET num_taken = 1 WHERE id = :id"),
    "lines said to be all that are not": ("batch", "UPDATE batches SET num_total = 9, ended_at = NULL WHERE id = :id"),
    "an end without a number": ("line", "UPDATE jobs SET end_number = NULL WHERE id = :id"),
    "a number past the newest": ("batch", "UPDATE batches SET num_ends = 2 WHERE id = :id"),
    "a number below the first": ("batch", "UPDATE jobs SET end_number = 0 WHERE batch_id = :id AND end_number = 1"),
    "tokens nobody spent": ("batch", "UPDATE batches SET num_completion_tokens = 99 WHERE id = :id"),
    "prompt tokens nobody spent": ("batch", "UPDATE batches SET num_prompt_tokens = 99 WHERE id = :id"),
    "a file read of which nothing was read": ("batch", "UPDATE batches SET intake_byte = 0 WHERE id = :id"),
    "a refusal after lines were taken": (
        "batch",
        "UPDATE batches SET failed_at = created_at, errors = '[]' WHERE id = :id",
    ),
    "a refusal without a reason": ("refused", "UPDATE batches SET errors = NULL WHERE id = :id"),
    "an output file that lags": ("batch", "UPDATE batches SET output_cursor = 1 WHERE id = :id"),
    "an error file ahead of the ends": ("batch", "UPDATE batches SET error_cursor = 7 WHERE id = :id"),
    "an output file short of a line": ("output", "UPDATE files SET num_lines = 0 WHERE id = :id"),
    "an error file short of a line": ("error", "UPDATE files SET num_lines = 0 WHERE id = :id"),
    "a file that never closed": ("output", "UPDATE files SET complete_at = NULL WHERE id = :id"),
    "a file of another size": ("output", "UPDATE files SET num_bytes = 7 WHERE id = :id"),
    "a lost segment": ("output", "DELETE FROM file_segments WHERE file_id = :id AND start_byte = 0"),
    "a gap between segments": (
        "output",
        "UPDATE file_segments SET start_byte = 12 WHERE file_id = :id AND start_byte = 10",
    ),
    "more bad lines than lines": ("input", "UPDATE files SET num_invalid = 9 WHERE id = :id"),
    "a job that failed without a try": ("loose", "UPDATE jobs SET attempt = 0, num_failures = 0 WHERE id = :id"),
}


@pytest.fixture
def file_ids(store: Store) -> dict[str, str]:
    """A batch made from a file, run, retried never, and written out; and one that was refused."""
    batch = taken_batch(store, 4, 1)
    lines = line_ids(store, batch.id)
    for job_id in lines[1:3]:
        store.finish(claim(store, job_id).ref, success())
        write_files(store, batch.id)
    end_all(store, batch.id, failed())
    write_files(store, batch.id)
    assert store.finalize(batch.id)
    found = store.get_batch(batch.id)[0]
    loose = submit_one(store)
    store.finish(claim(store, loose).ref, failed())
    assert store.audit() == []
    return {
        "batch": batch.id,
        "line": lines[1],
        "input": str(found.input_file_id),
        "output": str(found.output_file_id),
        "error": str(found.error_file_id),
        "refused": make_batch(store, 1, 1).id,
        "loose": loose,
    }


@pytest.mark.parametrize("what", FILE_SABOTAGE)
def test_the_audit_names_what_is_broken_about_a_batch_of_a_file(
    store: Store, file_ids: dict[str, str], what: str
) -> None:
    name, statement = FILE_SABOTAGE[what]
    with store.engine.begin() as connection:
        connection.execute(sa.text(statement), {"id": file_ids[name]})
    problems = store.audit()
    assert problems
    related = {file_ids[name], file_ids["batch"]} if name in {"output", "error", "line"} else {file_ids[name]}
    assert all(problem.startswith(tuple(related)) for problem in problems), problems


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
