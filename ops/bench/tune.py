"""`penstock bench --tune`: what this machine should be told about this model, found by trying.

Tries numbers of slots, of threads, and attention kernels, on a short and a long workload; proposes environment
variables. The KV streams stay split: a unified cache is not exact (ops/decisions/0010).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ops.bench.engines import Bench
from ops.bench.workload import Workload, workload
from worker.engine.model import num_threads
from worker.gguf_header import read_header
from worker.memory import available_bytes, need_of

ENOUGH = 0.95
"""More slots than needed cost memory and make each job slower: the least that reach this share of the best."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting and the tokens a second it gave."""

    slots: int
    threads: int
    flash_attention: bool = True
    per_second: float = 0.0


def tune(path: Path, slots: Sequence[int], num_jobs: int, say: Callable[[str], None]) -> dict[str, str]:
    """Settings for this machine and model, as environment variables."""
    short = workload("short", num_jobs)
    fitting = [number for number in slots if fits(path, number, short.context_tokens)] or [min(slots)]
    cores = num_threads()
    trials = [_try(path, short, Trial(number, cores), say) for number in fitting]
    best = chosen(trials)
    for threads in sorted({max(cores // 2, 1), max(cores - 1, 1)} - {cores}):
        trial = _try(path, short, Trial(best.slots, threads), say)
        best = trial if trial.per_second > best.per_second else best
    long = workload("long", max(num_jobs // 8, 2))
    wide = Trial(min(best.slots, 16), best.threads)
    with_flash = _try(path, long, wide, say)
    without = _try(path, long, replace(wide, flash_attention=False), say)
    return {
        "PENSTOCK_SLOTS": str(best.slots),
        "PENSTOCK_THREADS": str(best.threads),
        "PENSTOCK_FLASH_ATTENTION": str(with_flash.per_second >= without.per_second).lower(),
        "PENSTOCK_KV_TYPE": "f16" if fits(path, best.slots, 4096) else "q8_0",
    }


def chosen(trials: Sequence[Trial]) -> Trial:
    """The trial with the fewest slots that is nearly as fast as the fastest."""
    highest = max(trial.per_second for trial in trials)
    return min((t for t in trials if t.per_second >= ENOUGH * highest), key=lambda trial: trial.slots)


def fits(path: Path, slots: int, context_tokens: int) -> bool:
    """Whether so many slots with such a context fit into the memory that is free, at f16."""
    need = need_of(read_header(path), path.stat().st_size, slots, "f16")
    return need.total(context_tokens) <= available_bytes()


def _try(path: Path, jobs: Workload, asked: Trial, say: Callable[[str], None]) -> Trial:
    bench = Bench(path, asked.slots, jobs.context_tokens, threads=asked.threads, flash_attention=asked.flash_attention)
    try:
        trial = replace(asked, per_second=bench.run(jobs.work).rate.per_second)
    finally:
        bench.close()
    attention = "flash attention" if trial.flash_attention else "plain attention"
    say(f"{jobs.title}: {trial.slots} slots, {trial.threads} threads, {attention}: {trial.per_second:.1f} tokens/s")
    return trial
