"""What exactness costs: `python -m ops.bench.exact`.

Two engines on one model: the exact one, as Penstock runs it, and an ordinary one, which decodes as many rows as there
are sequences and pads nothing (its texts depend on their company: the probe says so, and that is checked). They run
the same jobs in turn, each round the other one first, and the ratio is the median of the rounds' own. The bars: a full
batch at 0.95 of the ordinary throughput, a lone job at 0.9 of the ordinary speed. Ends with status 1 below a bar.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ops.bench.engines import Bench
from ops.bench.workload import NAMES, Work, Workload, workload
from ops.demo_model.random_weights import SHAPES, write_random_model
from worker.engine.probe import prove

FULL_BAR, LONE_BAR = 0.95, 0.9


@dataclass(frozen=True, slots=True)
class Speed:
    """Completion tokens a second: of wall time, and of processor time."""

    wall: float
    processor: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rounds of one workload on both engines, and the exact one's speed by the ordinary one's."""

    name: str
    bar: float
    exact: Sequence[Speed]
    ordinary: Sequence[Speed]

    @property
    def ratio(self) -> float:
        return statistics.median(one.wall / other.wall for one, other in zip(self.exact, self.ordinary, strict=True))

    @property
    def processor_ratio(self) -> float:
        pairs = zip(self.exact, self.ordinary, strict=True)
        return statistics.median(one.processor / other.processor for one, other in pairs)

    @property
    def passes(self) -> bool:
        return self.ratio >= self.bar

    def as_dict(self) -> dict[str, object]:
        ratios = {"ratio": self.ratio, "processor_ratio": self.processor_ratio, "passes": self.passes}
        return {**asdict(self), **ratios}


def main(words: Sequence[str] | None = None) -> int:
    """Compare, print, and write JSON if asked."""
    options = _arguments(words)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="ps-exact-") as folder:
        path = options.model or _random_model(Path(folder), options.shape, console)
        found = compare(
            path, options.workload or ["short"], options.slots, options.jobs, options.rounds, say=console.print
        )
    console.print(_table(found))
    if options.json:
        report = {"model": path.name, "slots": options.slots, "comparisons": [each.as_dict() for each in found]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(each.passes for each in found) else 1


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.bench.exact", description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file; default: random weights of --shape")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="small")
    parser.add_argument("--workload", action="append", choices=NAMES, help="of the full batch; again for more")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--jobs", type=int, default=64, help="of a full batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args(words)


def _random_model(folder: Path, shape: str, console: Console) -> Path:
    console.print(f"Writing random weights of the shape [b]{shape}[/b] …")
    path = folder / f"{shape}.gguf"
    write_random_model(path, SHAPES[shape])
    return path


def compare(
    path: Path, names: Sequence[str], slots: int, num_jobs: int, rounds: int, *, say: Callable[[str], object]
) -> list[Comparison]:
    """Full batches of the workloads, and lone jobs of the first. Raises RuntimeError if the exact engine is not."""
    loads = [workload(name, num_jobs) for name in names]
    context = max(load.context_tokens for load in loads)
    exact = Bench(path, slots, context, reserve_slots=1)
    ordinary = Bench(path, slots, context, reserve_slots=1, tile_rows=1, lone_below=0)
    try:
        _check(exact, ordinary, say)
        _warm_up(exact, ordinary, loads[0])
        found = [_full(exact, ordinary, load, rounds, say) for load in loads]
        return [*found, _lone(exact, ordinary, loads[0], rounds, say)]
    finally:
        exact.close()
        ordinary.close()


def _check(exact: Bench, ordinary: Bench, say: Callable[[str], object]) -> None:
    """The exact one must be, or its speed says nothing; of the other one it should be seen that it is not."""
    if not all(prove(exact.model).values()):
        raise RuntimeError("the row classes are not exact on this machine: there is nothing to compare")
    if prove(ordinary.model)["tile"]:
        say("The probe finds calls of any number of rows exact here: the ordinary engine may be as exact.")


def _warm_up(exact: Bench, ordinary: Bench, load: Workload) -> None:
    for bench in (exact, ordinary):
        bench.run(load.work[:2])


def _full(exact: Bench, ordinary: Bench, load: Workload, rounds: int, say: Callable[[str], object]) -> Comparison:
    say(f"A full batch: {load.title}; {rounds} rounds …")

    def run(bench: Bench, number: int) -> Speed:
        return _speed(bench, [workload(load.name, len(load.work), number).work], interactive=False)

    return _in_turn(f"full batch, {load.title}", FULL_BAR, exact, ordinary, rounds=rounds, run=run)


def _lone(exact: Bench, ordinary: Bench, load: Workload, rounds: int, say: Callable[[str], object]) -> Comparison:
    say(f"Lone jobs, one after another; {rounds} rounds …")

    def run(bench: Bench, number: int) -> Speed:
        few = workload(load.name, 6, number).work
        return _speed(bench, [[job] for job in few], interactive=True)

    return _in_turn("lone jobs", LONE_BAR, exact, ordinary, rounds=rounds, run=run)


def _in_turn(
    name: str, bar: float, exact: Bench, ordinary: Bench, *, rounds: int, run: Callable[[Bench, int], Speed]
) -> Comparison:
    speeds: dict[Bench, list[Speed]] = {exact: [], ordinary: []}
    for number in range(rounds):
        for bench in (exact, ordinary) if number % 2 else (ordinary, exact):
            speeds[bench].append(run(bench, number))
    return Comparison(name, bar, speeds[exact], speeds[ordinary])


def _speed(bench: Bench, parts: Sequence[Sequence[Work]], *, interactive: bool) -> Speed:
    """Of some workloads, one after another. Nothing is shared: what a prompt cache saves has nothing to do with it."""
    started = time.process_time()
    runs = [bench.run(part, interactive=interactive, spare_cell_bytes=0) for part in parts]
    processor = time.process_time() - started
    num_tokens = sum(run.rate.num_tokens for run in runs)
    return Speed(num_tokens / sum(run.rate.seconds for run in runs), num_tokens / processor)


def _table(found: Sequence[Comparison]) -> Table:
    table = Table(
        "what", "exact", "ordinary", "ratio", "of processor time", "bar", title="Completion tokens a second, medians"
    )
    for each in found:
        table.add_row(
            each.name,
            f"{statistics.median(speed.wall for speed in each.exact):.1f}",
            f"{statistics.median(speed.wall for speed in each.ordinary):.1f}",
            f"{each.ratio:.3f}",
            f"{each.processor_ratio:.3f}",
            f"{each.bar} {'met' if each.passes else 'MISSED'}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
