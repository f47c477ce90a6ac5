"""The capacity simulation runs: real store, dispatcher and Redis, and nothing lost when its workers stop."""

from __future__ import annotations

import json
from pathlib import Path

from ops.bench import capacity


def test_simulated_workers_run_jobs_and_leave_a_clean_database(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    words = ["--workers", "3", "--slots", "2", "--processes", "1", "--job-seconds", "0.2"]
    words += ["--seconds", "1", "--warm-seconds", "0.5", "--json", str(figures)]
    assert capacity.main(words) == 0
    (run,) = json.loads(figures.read_text())["runs"]
    assert run["workers"] == 3
    assert run["jobs_per_second"] > 1
    assert run["postgres_connections"] >= 3
    assert (run["leases_lost"], run["outages"], run["audit_problems"]) == (0, 0, 0)
    assert min(run["postgres_ms_a_job"], run["redis_ms_a_job"], run["dispatcher_ms_a_job"]) > 0
