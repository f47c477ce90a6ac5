"""The benches of what Penstock costs beside the model: they run, and say what they measured. No figure is judged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.worker.site import ROOT


def run_bench(module: str, report: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", module, *words, "--json", str(report)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(report.read_text()))


def test_jobs_a_second_are_measured_beside_bare_celery(tmp_path: Path) -> None:
    words = ("--jobs", "40", "--rounds", "1", "--sqlite-only")
    figures = run_bench("ops.bench.overhead", tmp_path / "report.json", *words)
    assert figures["ratio"].keys() == {"bare Celery", "Penstock, SQLite"}
    for (run,) in figures["runs"].values():
        assert run["jobs_per_second"] > 0
        assert run["cpu_ms_a_job"] >= 0


def test_the_first_text_is_timed_idle_and_under_load(tmp_path: Path) -> None:
    figures = run_bench(
        "ops.bench.first_token", tmp_path / "report.json", "--slots", "2", "--rounds", "1", "--tries", "1",
        "--settle", "0.1",
    )  # fmt: skip
    assert figures.keys() == {"idle", "under_load", "step", "ratio", "live", "live_added"}
    assert figures["idle"] > 0
    assert figures["under_load"] > 0
