"""A short schedule of faults against a whole system, on each database: nothing is lost, nothing twice, work goes on.

The long one is run by hand: `penstock chaos --jobs 2000 --database sqlite|postgresql`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ops.chaos.faults import KINDS, schedule
from ops.chaos.load import orders

ROOT = Path(__file__).parents[2]
NUM_JOBS = 150
EVERYWHERE = (
    "worker killed", "API killed", "dispatcher killed", "Redis killed", "Redis emptied", "messages dropped",
    "messages doubled",
)  # fmt: skip
SHORT = {"sqlite": (*EVERYWHERE, "worker paused"), "postgresql": (*EVERYWHERE, "PostgreSQL killed")}


def chaos(*words: str) -> subprocess.CompletedProcess[str]:
    # A database that is named in the environment is somebody's own: it must never be touched.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PENSTOCK_DATABASE_URL": "postgresql://nobody@nowhere.invalid"}
    command = [sys.executable, "-m", "ops.chaos", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_struck_system_ends_every_job_once(database: str, tmp_path: Path) -> None:
    kinds, file = SHORT[database], tmp_path / "figures.json"
    done = chaos(
        "--jobs", str(NUM_JOBS), "--faults", str(len(kinds)), "--kinds", ",".join(kinds), "--database", database,
        "--seed", "3", "--slots", "4", "--tokens", "200", "--lease-seconds", "2", "--patience", "4",
        "--json", str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    assert {fault["kind"] for fault in figures["faults"]} == set(kinds)
    num_jobs = figures["accepted"]
    assert num_jobs >= NUM_JOBS
    assert (figures["ends"], figures["stored"]) == ({"succeeded": num_jobs}, num_jobs)
    assert figures["problems"] == []


def test_a_seed_draws_one_schedule_and_one_load() -> None:
    drawn = [schedule(30, KINDS, random.Random(5)) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == set(KINDS)
    loads = [list(islice(orders(random.Random(5), chunk=20, mean_tokens=90), 40)) for _ in range(2)]
    assert loads[0] == loads[1]
    assert {order.num_jobs for order in loads[0]} == {1, 20}
    assert len({order.key for order in loads[0]}) == 40


def test_an_unknown_kind_is_named() -> None:
    done = chaos("--kinds", "worker killed,earthquake")
    assert done.returncode == 2
    assert "'earthquake' is none of worker killed" in done.stderr
