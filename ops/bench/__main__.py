"""`python -m ops.bench`: the figures of the project, as ratios of one run.

Prints a table and writes the same as JSON. Machines are shared and noisy: trust ratios, not rates.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ops.bench.engines import Rate, engine_rate, one_by_one_rate
from ops.bench.system import SystemRun, run_system
from ops.bench.workload import short_chats
from ops.demo_model.random_weights import SHAPES, write_random_model

SLOTS = (1, 4, 16, 32)
SYSTEM_SLOTS = 32


def main() -> int:
    """Run the benchmarks that were asked for."""
    options = _arguments()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        path = options.model or _random_model(Path(folder), options.shape, console)
        report: dict[str, Any] = {"model": path.name, "shape": options.shape, "cores": os.cpu_count()}
        rates = _engines(path, options, console)
        report["engine"] = {name: {"tokens_per_second": rate.per_second} for name, rate in rates.items()}
        if not options.engine_only:
            report["system"] = _system(path, options, rates[f"{SYSTEM_SLOTS} slots"], console)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="penstock bench", description=__doc__)
    parser.add_argument("--shape", default="small", choices=list(SHAPES), help="random weights")
    parser.add_argument("--model", type=Path, help="a GGUF file instead of random weights")
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--one-by-one-jobs", type=int, default=16, help="jobs of the slow contestant")
    parser.add_argument("--engine-only", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args()


def _random_model(folder: Path, shape: str, console: Console) -> Path:
    console.print(f"Writing random weights of the shape [b]{shape}[/b] …")
    path = folder / f"{shape}.gguf"
    write_random_model(path, SHAPES[shape])
    return path


def _engines(path: Path, options: argparse.Namespace, console: Console) -> dict[str, Rate]:
    threads = len(os.sched_getaffinity(0))
    console.print("High-level Llama, one job after another …")
    rates = {"one by one": one_by_one_rate(path, short_chats(options.one_by_one_jobs))}
    for slots in SLOTS:
        console.print(f"Engine, {slots} slots …")
        jobs = options.jobs if slots > 4 else options.one_by_one_jobs
        rates[f"{slots} slots"] = engine_rate(path, short_chats(jobs), slots, sampling_threads=threads)
    base = rates["one by one"].per_second
    table = Table("engine", "tokens/s", "× one by one", title="64 jobs of 55 + 64 tokens, full-vocabulary sampling")
    for name, rate in rates.items():
        table.add_row(name, f"{rate.per_second:.1f}", f"{rate.per_second / base:.2f}")
    console.print(table)
    return rates


def _system(path: Path, options: argparse.Namespace, engine: Rate, console: Console) -> dict[str, float]:
    console.print("Whole system: HTTP, database, Redis, Celery, engine …")
    run: SystemRun = run_system(path, short_chats(options.jobs), SYSTEM_SLOTS)
    table = Table(
        "whole system", "value", title=f"{options.jobs} jobs through HTTP to the database, {SYSTEM_SLOTS} slots"
    )
    table.add_row("tokens/s", f"{run.rate.per_second:.1f}")
    table.add_row("× the engine alone", f"{run.rate.per_second / engine.per_second:.2f}")
    table.add_row("worker's peak memory", f"{run.peak_bytes / 2**20:.0f} MiB")
    table.add_row("model file + KV cells", f"{(run.model_bytes + run.kv_bytes) / 2**20:.0f} MiB")
    table.add_row("above those", f"{run.overhead_bytes / 2**20:.0f} MiB")
    console.print(table)
    return {
        "tokens_per_second": run.rate.per_second,
        "of_engine": run.rate.per_second / engine.per_second,
        "overhead_bytes": run.overhead_bytes,
    }


if __name__ == "__main__":
    sys.exit(main())
