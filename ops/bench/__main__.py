"""`penstock bench`: the figures of the project, as ratios of one run.

Without options: short chats at 1 to 32 slots beside the high-level Llama, then the whole system. With --workload:
the engine beside the calls it makes and beside llama-server, if that is on PATH, in turn and several times. With
--tune: settings for this machine and model. Prints tables; writes JSON and a picture. Trust ratios, not rates.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ops.bench.contest import Result, contest
from ops.bench.engines import KNOBS, Bench, Rate, one_by_one_rate
from ops.bench.picture import picture
from ops.bench.server import found
from ops.bench.soak import soak
from ops.bench.system import SystemRun, run_system
from ops.bench.tune import tune
from ops.bench.workload import CONTEXT_TOKENS, NAMES, short_chats, workload
from ops.demo_model.random_weights import SHAPES, write_random_model

SLOTS = (1, 4, 16, 32)
SYSTEM_SLOTS = 32


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmarks that were asked for."""
    options = _arguments(words)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as folder:
        path = options.model or _random_model(Path(folder), options.shape, console)
        report: dict[str, Any] = {
            "model": path.name,
            "shape": None if options.model else options.shape,
            "machine": platform.machine(),
            "cores": os.cpu_count(),
        }
        report.update(_chosen(path, options, console))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _chosen(path: Path, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    if options.tune:
        return {"tune": _tune(path, options, console)}
    if options.soak:
        return {"soak": _soak(path, options, console)}
    if options.workload:
        return {"contest": _contests(path, options, console)}
    rates = _engines(path, options, console)
    report: dict[str, Any] = {"engine": {name: {"tokens_per_second": rate.per_second} for name, rate in rates.items()}}
    if not options.engine_only:
        report["system"] = _system(path, options, rates[f"{SYSTEM_SLOTS} slots"], console)
    return report


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="penstock bench", description=__doc__)
    parser.add_argument("--shape", default="small", choices=list(SHAPES), help="random weights")
    parser.add_argument("--model", type=Path, help="a GGUF file instead of random weights")
    parser.add_argument("--workload", action="append", choices=[*NAMES, "all"], help="may be given several times")
    parser.add_argument("--slots", type=_numbers, default=SLOTS, help="numbers of slots, as in 1,16,32")
    parser.add_argument("--sampling", default="full", choices=list(KNOBS), help="how tokens are chosen (default: full)")
    parser.add_argument("--rounds", type=int, default=3, help="of each contest, and of the whole system")
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--one-by-one-jobs", type=int, default=16, help="jobs of the slow contestant")
    parser.add_argument("--gpu-layers", type=int, default=0, help="layers on the GPU; -1: all")
    parser.add_argument("--engine-only", action="store_true", help="leave the whole system out")
    parser.add_argument("--tune", action="store_true", help="propose settings for this machine and model")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="short jobs for so long: is memory flat?")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--picture", type=Path, help="write the curves of --workload to this SVG file")
    return parser.parse_args(words)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _random_model(folder: Path, shape: str, console: Console) -> Path:
    console.print(f"Writing random weights of the shape [b]{shape}[/b] …")
    path = folder / f"{shape}.gguf"
    write_random_model(path, SHAPES[shape])
    return path


def _contests(path: Path, options: argparse.Namespace, console: Console) -> list[Any]:
    if found() is None:
        console.print("llama-server is not on PATH: it is left out.")
    names = NAMES if "all" in options.workload else options.workload
    results = []
    for name in names:
        for slots in options.slots:
            console.print(f"{name}, {slots} slots …")
            jobs = workload(name, options.jobs)
            layers = options.gpu_layers
            results.append(contest(path, jobs, slots, options.sampling, rounds=options.rounds, gpu_layers=layers))
    console.print(_table(results, options.sampling))
    if options.picture:
        options.picture.write_text(_picture(results))
    return [result.as_dict() for result in results]


def _table(results: Sequence[Result], sampling: str) -> Table:
    head = (
        "workload",
        "slots",
        "tokens/s",
        "× llama-server",
        "of the raw calls",
        "first token",
        "gap p50 / p99 / most",
    )
    table = Table(*head, title=f"Engine, sampling: {sampling}")
    for result in results:
        run = result.run
        table.add_row(
            result.workload,
            str(result.slots),
            f"{result.per_second:.1f}",
            "–" if result.of_server is None else f"{result.of_server:.2f}",
            f"{result.of_raw:.3f}",
            f"{run.first_token_p50:.2f} s",
            " / ".join(f"{1000 * gap:.0f}" for gap in (run.gap_p50, run.gap_p99, run.gap_max)) + " ms",
        )
    return table


def _picture(results: Sequence[Result]) -> str:
    curves: dict[str, list[tuple[int, float]]] = {}
    for result in results:
        curves.setdefault(f"{result.workload}: engine", []).append((result.slots, result.per_second))
        if result.server_per_second is not None:
            curves.setdefault(f"{result.workload}: server", []).append((result.slots, result.server_per_second))
    return picture("Completion tokens a second", curves)


def _tune(path: Path, options: argparse.Namespace, console: Console) -> dict[str, str]:
    proposal = tune(path, options.slots, options.jobs, console.print)
    console.print("For this machine and model:")
    for name, value in proposal.items():
        console.print(f"  {name}={value}")
    return proposal


def _soak(path: Path, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    result = soak(path, max(options.slots), options.soak)
    grown = result["last_bytes"] - result["first_bytes"]
    console.print(f"{result['jobs']} jobs; memory grew by {grown / 2**20:.1f} MiB; {result['cells_left']} cells left.")
    return result


def _engines(path: Path, options: argparse.Namespace, console: Console) -> dict[str, Rate]:
    console.print("High-level Llama, one job after another …")
    rates = {"one by one": one_by_one_rate(path, short_chats(options.one_by_one_jobs), CONTEXT_TOKENS)}
    for slots in options.slots if SYSTEM_SLOTS in options.slots or options.engine_only else SLOTS:
        console.print(f"Engine, {slots} slots …")
        rates[f"{slots} slots"] = _alone(path, slots, options.jobs if slots > 4 else options.one_by_one_jobs)
    base = rates["one by one"].per_second
    table = Table("engine", "tokens/s", "× one by one", title=f"{options.jobs} jobs of 55 + 64 tokens, full sampling")
    for name, rate in rates.items():
        table.add_row(name, f"{rate.per_second:.1f}", f"{rate.per_second / base:.2f}")
    console.print(table)
    return rates


def _alone(path: Path, slots: int, num_jobs: int) -> Rate:
    """The engine with nothing around it; warmed up as the whole system is."""
    bench = Bench(path, slots, CONTEXT_TOKENS)
    try:
        bench.run(short_chats(max(1, num_jobs // 8)))
        return bench.run(short_chats(num_jobs)).rate
    finally:
        bench.close()


def _system(path: Path, options: argparse.Namespace, engine: Rate, console: Console) -> dict[str, Any]:
    """Whole system and engine alone in turn: each round of the one by the mean of the other's before and after it."""
    ratios: list[float] = []
    for number in range(options.rounds):
        console.print(f"Whole system: HTTP, database, Redis, Celery, engine: {number + 1} of {options.rounds} …")
        run: SystemRun = run_system(path, short_chats(options.jobs), SYSTEM_SLOTS)
        after = _alone(path, SYSTEM_SLOTS, options.jobs)
        ratios.append(run.rate.per_second / statistics.mean([engine.per_second, after.per_second]))
        engine = after
    of_engine = statistics.median(ratios)
    table = Table(
        "whole system", "value", title=f"{options.jobs} jobs through HTTP to the database, {SYSTEM_SLOTS} slots"
    )
    table.add_row("tokens/s", f"{run.rate.per_second:.1f}")
    spread = f" ({min(ratios):.3f} to {max(ratios):.3f})" if len(ratios) > 1 else ""
    table.add_row("× the engine alone", f"{of_engine:.3f}{spread}")
    for name, seconds in sorted(run.processor_seconds.items(), key=lambda item: -item[1]):
        table.add_row(f"processor seconds of {name}", f"{seconds:.2f} of {run.rate.seconds:.2f}")
    table.add_row("worker's peak memory", f"{run.peak_bytes / 2**20:.0f} MiB")
    table.add_row("model file + KV cells", f"{(run.model_bytes + run.kv_bytes) / 2**20:.0f} MiB")
    table.add_row("above those", f"{run.overhead_bytes / 2**20:.0f} MiB")
    console.print(table)
    return {
        "tokens_per_second": run.rate.per_second,
        "of_engine": of_engine,
        "of_engine_by_round": ratios,
        "overhead_bytes": run.overhead_bytes,
        "seconds": run.rate.seconds,
        "processor_seconds": dict(run.processor_seconds),
    }


if __name__ == "__main__":
    sys.exit(main())
