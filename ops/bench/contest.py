"""One workload at one number of slots: the engine beside whoever can be had, in turn and several times."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.bench.engines import Bench, EngineRun, Kind
from ops.bench.server import Server, found, server
from ops.bench.workload import Workload
from ops.bench.workload import workload as variant


@dataclass(frozen=True, slots=True)
class Result:
    """Of all rounds. `of_raw`: the engine's share of what the calls it made allow. `of_server`: engine's rate by
    llama-server's, None without it. Each is the median of the rounds' own ratios, for a machine's speed drifts."""

    workload: str
    slots: int
    kind: Kind
    engine: Sequence[EngineRun]
    of_raw: float
    raw_per_second: float
    server_per_second: float | None
    of_server: float | None

    @property
    def per_second(self) -> float:
        return statistics.median(run.rate.per_second for run in self.engine)

    @property
    def run(self) -> EngineRun:
        """The round in the middle."""
        return sorted(self.engine, key=lambda run: run.rate.per_second)[len(self.engine) // 2]

    def as_dict(self) -> Mapping[str, Any]:
        return {
            "workload": self.workload,
            "slots": self.slots,
            "sampling": self.kind,
            **self.run.as_dict(),
            "tokens_per_second": self.per_second,
            "raw_tokens_per_second": self.raw_per_second,
            "of_raw": self.of_raw,
            "server_tokens_per_second": self.server_per_second,
            "of_server": self.of_server,
            "rounds": [run.rate.per_second for run in self.engine],
        }


def contest(path: Path, workload: Workload, slots: int, kind: Kind, *, rounds: int = 3, gpu_layers: int = 0) -> Result:
    """Run `workload` on the engine, on the calls it made, and on llama-server if it is on PATH, in turn."""
    bench = Bench(path, slots, workload.context_tokens, gpu_layers=gpu_layers)
    try:
        if found() is None:
            return _rounds(bench, None, workload, kind, rounds=rounds)
        with server(path, slots, workload.context_tokens, gpu_layers=gpu_layers) as beside:
            return _rounds(bench, beside, workload, kind, rounds=rounds)
    finally:
        bench.close()


def _rounds(bench: Bench, beside: Server | None, workload: Workload, kind: Kind, *, rounds: int) -> Result:
    runs: list[EngineRun] = []
    raw: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        work = variant(workload.name, len(workload.work), number).work
        if beside is not None:
            theirs.append(beside.run(work, kind).per_second)
        run, raw_seconds = bench.run_and_replay(work, kind)
        runs.append(run)
        raw.append(run.rate.num_tokens / raw_seconds)
    mine = [run.rate.per_second for run in runs]
    return Result(
        workload=workload.name,
        slots=bench.options.slots,
        kind=kind,
        engine=runs,
        of_raw=_median_ratio(mine, raw),
        raw_per_second=statistics.median(raw),
        server_per_second=statistics.median(theirs) if theirs else None,
        of_server=_median_ratio(mine, theirs) if theirs else None,
    )


def _median_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))
