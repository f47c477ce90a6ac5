"""What a worker measures: against an engine that really ran."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from jobs.records import AttemptRef, ClaimedJob
from jobs.states import Priority
from worker.engine.gaps import BOUNDS_SECONDS, Gaps
from worker.engine.generation import Completion, EngineStats
from worker.metering import EngineCollector, JobMeter, worker_facts
from worker.telling import Teller


def test_the_time_between_tokens_counts_each_sequence() -> None:
    gaps = Gaps()
    for now, num_tokens in ((10.0, 4), (10.04, 4), (10.1, 3), (11.0, 0), (20.0, 2), (20.004, 2), (40.0, 1)):
        gaps.step(now, num_tokens)
    counted = {bound: number for bound, number in zip([*BOUNDS_SECONDS, "more"], gaps.counts, strict=True) if number}
    assert counted == {0.05: 4, 0.075: 3, 0.005: 2, "more": 1}
    assert gaps.total_seconds == pytest.approx(4 * 0.04 + 3 * 0.06 + 2 * 0.004 + 19.996)


class StillEngine:
    """An engine at an instant."""

    def __init__(self) -> None:
        self.gaps = Gaps()
        self.gaps.step(0.0, 2)
        self.gaps.step(0.04, 2)

    def stats(self) -> EngineStats:
        numbers = {"paused": 0, "num_pauses": 1, "num_prompt_tokens": 100, "num_reused_tokens": 60, "prefix_bytes": 9}
        cells = {"kv_cells": 800, "kv_cells_used": 123, "prefix_hit_rate": 0.6}
        return EngineStats(8, 5, 3, 41.5, 1000, 20, {**numbers, **cells})


def test_a_scrape_reads_the_engine() -> None:
    registry = CollectorRegistry()
    facts = worker_facts("demo", "CPU", {"tile": True, "lone": False}, {"tile": 16, "lone": 2})
    registry.register(EngineCollector(StillEngine(), lambda: 7, facts=facts))
    value = registry.get_sample_value
    assert (value("penstock_slots"), value("penstock_slots_busy")) == (8, 5)
    assert (value("penstock_kv_cells"), value("penstock_kv_cells_used")) == (800, 123)
    assert (value("penstock_completion_tokens_total"), value("penstock_tokens_per_second")) == (1000, 41.5)
    assert value("penstock_prefix_hit_ratio") == 0.6
    assert value("penstock_batch_lines_held") == 7
    assert value("penstock_token_gap_seconds_bucket", {"le": "0.03"}) == 0
    assert value("penstock_token_gap_seconds_bucket", {"le": "0.05"}) == 2
    assert value("penstock_token_gap_seconds_count") == 2
    assert value("penstock_worker_info", {"model": "demo", "backend": "CPU", "exact": "tile"}) == 1


def job() -> ClaimedJob:
    now = datetime.now(UTC)
    fields: dict[str, Any] = {"prompt": "p", "messages": None, "parameters": {}, "seed": 1, "deadline_at": None}
    ref = AttemptRef("job_1", 1)
    return ClaimedJob(
        ref=ref,
        model="demo",
        priority=Priority.BATCH,
        lease_seconds=30,
        seconds_to_deadline=None,
        created_at=now,
        seconds_queued=2.0,
        **fields,
    )


def completion(timings: Mapping[str, float], token_ids: tuple[int, ...] = (1, 2)) -> Completion:
    return Completion("ice", token_ids, "stop", 4, "tile", timings)


def test_the_time_queued_is_that_of_the_row_and_of_the_engine() -> None:
    registry = CollectorRegistry()
    meter = JobMeter(registry)
    meter.completed(job(), completion({"queued": 0.5, "first_token": 1.0, "total": 3.0}))
    meter.completed(job(), completion({"queued": 0.5, "first_token": 0.0, "total": 0.5}, ()))
    meter.lost()

    def sum_of(name: str) -> float | None:
        return registry.get_sample_value(f"penstock_{name}_sum", {"queue": "batch"})

    assert sum_of("queued_seconds") == 5.0
    assert sum_of("first_token_seconds") == 3.0
    assert sum_of("generation_seconds") == 5.0
    assert registry.get_sample_value("penstock_leases_lost_total") == 1


class Events:
    """Celery's event dispatcher, as far as it is used."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.sent.append((kind, fields))


def test_flower_is_told_of_running_tasks_that_have_tokens() -> None:
    events = Events()
    teller = Teller(lambda: events, lambda: {"job_1": 12, "job_2": 0, "job_3": 9})
    with teller.running("job_1", "task-1"), teller.running("job_2", "task-2"), teller.running("job_4", None):
        teller.tell()
    teller.tell()
    assert events.sent == [("task-started", {"uuid": "task-1", "result": "12 tokens so far"})]


def test_without_a_dispatcher_nobody_is_told() -> None:
    off = Events(enabled=False)
    for dispatcher in (None, off):
        teller = Teller(lambda: dispatcher, lambda: {"job_1": 1})  # noqa: B023
        with teller.running("job_1", "task-1"):
            teller.tell()
    assert off.sent == []
