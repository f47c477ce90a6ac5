"""Metrics and alert rules as tables: what the roles' own registries expose, and what stands in `ops/dashboards`.

Each registry is made as its role makes it, with an engine and queues that stand still, and told of one event of each
sort: a metric with labels shows them only then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, Metric

from api.metering import Meter
from jobs.metrics.dispatching import RoundMeter
from jobs.metrics.registry import CountsCollector, StandingCollector, new_registry
from jobs.records import QueueDepth, Standing
from jobs.states import Priority
from jobs.store.counts import Counts
from ops.docs.markdown import code, table
from worker.engine.gaps import Gaps
from worker.engine.generation import EngineStats
from worker.metering import EngineCollector, JobMeter, worker_facts

RULES = Path(__file__).resolve().parents[2] / "ops" / "dashboards" / "alerts.yml"
OURS = "penstock_"
_FROM_THE_LIBRARY = {"le", "quantile"}
_VALUE = re.compile(r"\{\{.*?\}\}")


def metrics() -> str:
    """Every metric of ours: its labels, and which roles expose it."""
    roles: dict[str, list[str]] = {}
    found: dict[str, Metric] = {}
    for role, registry in registries().items():
        for family in registry.collect():
            if family.name.startswith(OURS):
                roles.setdefault(family.name, []).append(role)
                found[family.name] = family
    rows = [
        [
            code(shown(family)),
            family.type,
            ", ".join(map(code, labels(family))),
            ", ".join(roles[name]),
            f"{family.documentation}.",
        ]
        for name, family in sorted(found.items())
    ]
    return table(["metric", "type", "labels", "of", "meaning"], rows)


def registries() -> Mapping[str, CollectorRegistry]:
    """What each role exposes, but for what the library says of its process."""
    return {"api": _api(), "dispatcher": _dispatcher(), "worker": _worker()}


def _api() -> CollectorRegistry:
    meter = Meter()
    meter.answered("GET", "/v1/jobs", 200, 0.01)
    _watch(meter.registry)
    return meter.registry


def _dispatcher() -> CollectorRegistry:
    registry = new_registry("dispatcher")
    done: Any = SimpleNamespace(leads=True, refilled=False, seconds=0.01)
    done.published = SimpleNamespace(interactive=(), batch=())
    RoundMeter(registry).note(done)
    _watch(registry)
    return registry


def _worker() -> CollectorRegistry:
    registry = new_registry("worker")
    registry.register(CountsCollector(Counts()))
    still: Any = SimpleNamespace(gaps=Gaps(), stats=_stats)
    facts = worker_facts("demo", "cpu", {"tile": True}, {"tile": 16})
    registry.register(EngineCollector(still, lambda: 0, facts=facts))
    job: Any = SimpleNamespace(priority=Priority.BATCH, seconds_queued=0.1)
    completion: Any = SimpleNamespace(timings={"queued": 0.1, "first_token": 0.2, "total": 0.3}, token_ids=(1,))
    completion.finish_reason, completion.num_prompt_tokens, completion.row_class = "stop", 1, "tile"
    JobMeter(registry).completed(job, completion)
    return registry


def _stats() -> EngineStats:
    counted = ("paused", "kv_cells", "kv_cells_used", "prefix_bytes", "prefix_hit_rate")
    summed = ("num_prompt_tokens", "num_reused_tokens", "num_pauses")
    return EngineStats(16, 0, 0, 0.0, 0, 0, dict.fromkeys([*counted, *summed], 0))


def _watch(registry: CollectorRegistry) -> None:
    queues = {queue: QueueDepth(queue, 0, 0, 0, None) for queue in Priority}
    registry.register(CountsCollector(Counts()))
    registry.register(StandingCollector(lambda: Standing(datetime.now(UTC), queues, 0, 0, {"demo": 1}, 256)))


def shown(family: Metric) -> str:
    """As Prometheus has it: the library keeps the ending of a counter and of an info apart."""
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def labels(family: Metric) -> Iterator[str]:
    """The labels of a metric that has been told of something."""
    names = {name: None for sample in family.samples for name in sample.labels}
    return (name for name in names if name not in _FROM_THE_LIBRARY)


def alerts() -> str:
    """Every alert rule: when it fires, and what to do."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rows = [_alert(rule) for group in groups for rule in group["rules"]]
    return table(["alert", "severity", "says", "what to do"], rows)


def _alert(rule: Mapping[str, Any]) -> list[str]:
    told = rule["annotations"]
    return [code(rule["alert"]), rule["labels"]["severity"], _VALUE.sub("…", told["summary"]), told["action"]]
