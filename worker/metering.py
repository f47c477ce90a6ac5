"""What a worker measures: a look at its engine when somebody scrapes, and the times of each generation at its end.

Nothing is called for a token. The engine counts in numbers of its own (`EngineStats`, `Gaps`), which are read here.
Knows times and numbers of a completion, never its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from jobs import tracing
from jobs.logs import bind
from jobs.records import ClaimedJob
from worker.engine.gaps import BOUNDS_SECONDS, Gaps
from worker.engine.generation import Completion, EngineStats

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 24 * 3600)

Read = Callable[[EngineStats], float]

_GAUGES: dict[str, tuple[str, Read]] = {
    "penstock_slots": ("Slots", lambda stats: stats.slots),
    "penstock_slots_busy": ("Slots with a sequence", lambda stats: stats.busy_slots),
    "penstock_sequences_waiting": ("Requests that wait for a slot", lambda stats: stats.waiting),
    "penstock_sequences_paused": ("Sequences paused for interactive ones", lambda stats: stats.details["paused"]),
    "penstock_tokens_per_second": ("Completion tokens a second, lately", lambda stats: stats.tokens_per_second),
    "penstock_kv_cells": ("KV cells that the slots have", lambda stats: stats.details["kv_cells"]),
    "penstock_kv_cells_used": ("KV cells that hold a token", lambda stats: stats.details["kv_cells_used"]),
    "penstock_prefix_bytes": ("Memory of shared beginnings", lambda stats: stats.details["prefix_bytes"]),
    "penstock_prefix_hit_ratio": (
        "Part of the prompt tokens whose cells were there already, since the start",
        lambda stats: stats.details["prefix_hit_rate"],
    ),
}
_COUNTERS: dict[str, tuple[str, Read]] = {
    "penstock_completion_tokens": ("Tokens made", lambda stats: stats.num_completion_tokens),
    "penstock_generations": ("Generations ended", lambda stats: stats.num_generations),
    "penstock_prompt_tokens": ("Prompt tokens", lambda stats: stats.details["num_prompt_tokens"]),
    "penstock_prompt_tokens_reused": (
        "Prompt tokens that were not prefilled",
        lambda stats: stats.details["num_reused_tokens"],
    ),
    "penstock_pauses": ("Sequences paused for an interactive one", lambda stats: stats.details["num_pauses"]),
}


class Measurable(Protocol):
    """The part of the engine that is looked at."""

    gaps: Gaps

    def stats(self) -> EngineStats: ...


class EngineCollector(Collector):
    """The engine, when somebody scrapes."""

    def __init__(self, engine: Measurable, num_lines_held: Callable[[], int], *, facts: Mapping[str, str]) -> None:
        self._engine = engine
        self._num_lines_held = num_lines_held
        self._facts = dict(facts)

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()
        for name, (meaning, read) in _GAUGES.items():
            yield GaugeMetricFamily(name, meaning, value=float(read(stats)))
        for name, (meaning, read) in _COUNTERS.items():
            yield CounterMetricFamily(name, meaning, value=float(read(stats)))
        yield GaugeMetricFamily(
            "penstock_batch_lines_held", "Batch lines that it holds", value=float(self._num_lines_held())
        )
        yield self._gaps()
        info = GaugeMetricFamily("penstock_worker_info", "What this worker runs; always 1", labels=list(self._facts))
        info.add_metric(list(self._facts.values()), 1.0)
        yield info

    def _gaps(self) -> Metric:
        gaps = self._engine.gaps
        sums = list(accumulate(gaps.counts))
        bounds = [*map(str, BOUNDS_SECONDS), "+Inf"]
        family = HistogramMetricFamily("penstock_token_gap_seconds", "Time between two tokens of a sequence")
        family.add_metric([], list(zip(bounds, map(float, sums), strict=True)), gaps.total_seconds)
        return family


class JobMeter:
    """The times of each attempt: for metrics, for its trace, and for the lines of the log that speak of it."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        def histogram(name: str, meaning: str) -> Histogram:
            return Histogram(name, meaning, ["queue"], buckets=SECONDS, registry=registry)

        self._queued = histogram("penstock_queued_seconds", "From being ready to run to a slot")
        self._first_token = histogram("penstock_first_token_seconds", "From being ready to run to the first token")
        self._total = histogram("penstock_generation_seconds", "From being ready to run to the last token")
        self._reused = Counter("penstock_generations_reused", "Jobs answered from the store", registry=registry)
        self._lost = Counter(
            "penstock_leases_lost", "Attempts whose result was dropped: the job was no longer theirs", registry=registry
        )

    def reused(self) -> None:
        """The store had its generation already."""
        self._reused.inc()
        tracing.note(reused=True)

    def began(self, job: ClaimedJob) -> None:
        """An attempt runs on this thread from here on."""
        bind(attempt=job.ref.number)
        tracing.note(attempt=job.ref.number, priority=str(job.priority), model=job.model)

    def completed(self, job: ClaimedJob, completion: Completion) -> None:
        """Its generation has ended, however it did."""
        timings = completion.timings
        queue = str(job.priority)
        self._queued.labels(queue).observe(job.seconds_queued + timings["queued"])
        if completion.token_ids:
            self._first_token.labels(queue).observe(job.seconds_queued + timings["first_token"])
            self._total.labels(queue).observe(job.seconds_queued + timings["total"])
        _trace(completion, timings)

    def lost(self) -> None:
        """What it made is dropped."""
        self._lost.inc()
        tracing.failed("lease_lost")


def _trace(completion: Completion, timings: Mapping[str, float]) -> None:
    total, queued = timings["total"], timings["queued"]
    tracing.past_span("wait for a slot", total, total - queued)
    if completion.token_ids:
        tracing.past_span("prefill", total - queued, total - timings["first_token"])
        tracing.past_span("decode", total - timings["first_token"], 0.0)
    tracing.note(
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.num_prompt_tokens,
        completion_tokens=len(completion.token_ids),
        row_class=completion.row_class,
    )


def worker_facts(
    model: str, backend: str, proofs: Mapping[Any, bool], row_classes: Mapping[str, int]
) -> dict[str, str]:
    """What `penstock_worker_info` says. Few values each: they are labels."""
    exact = [name for name, number in row_classes.items() if number and proofs.get(name)]
    return {"model": model, "backend": backend, "exact": " ".join(exact) or "none"}
