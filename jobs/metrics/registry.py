"""The registry of a process, and the collectors that read what the store counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from jobs.errors import StoreUnavailable
from jobs.records import Standing
from jobs.states import ENDED, AttemptOutcome, Priority
from jobs.store import Store
from jobs.store.counts import DELIVERY_RESULTS, Counts, Deed

FRESH_SECONDS = 5.0
"""So long a look at the queues serves every scrape."""

_COUNTED: Mapping[Deed, tuple[str, str, str, Iterable[str]]] = {
    Deed.ACCEPTED: ("penstock_jobs_accepted", "Jobs stored", "queue", Priority),
    Deed.STARTED: ("penstock_attempts_started", "Attempts begun", "queue", Priority),
    Deed.ATTEMPT_ENDED: (
        "penstock_attempts_ended",
        "Attempts ended; lease_lost: the worker went silent",
        "outcome",
        AttemptOutcome,
    ),
    Deed.RETRIED: (
        "penstock_jobs_retried",
        "Jobs back in the queue, by how the attempt before ended",
        "outcome",
        (AttemptOutcome.FAILED, AttemptOutcome.INTERRUPTED, AttemptOutcome.LEASE_LOST),
    ),
    Deed.ENDED: ("penstock_jobs_ended", "Jobs ended", "state", sorted(ENDED)),
    Deed.DELIVERY_TRIED: ("penstock_webhook_attempts", "Attempts to deliver an event", "result", DELIVERY_RESULTS),
}
"""Name, meaning, label, and its values. All of them are told from the start, as 0: of a series that begins with its
first event, Prometheus' `increase` misses that event, and `rate` of one that never began is nothing rather than 0."""


class RoleCollector(Collector):
    """`penstock_role_info`: what the process is."""

    def __init__(self, role: str) -> None:
        self._role = role

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("penstock_role", "What this process is", {"role": self._role})


class CountsCollector(Collector):
    """What this process has done to jobs."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        for deed, (name, meaning, label, values) in _COUNTED.items():
            family = CounterMetricFamily(name, f"{meaning}, by this process", labels=[label])
            for value, number in {**dict.fromkeys(map(str, values), 0), **self._counts.of(deed)}.items():
                family.add_metric([value], number)
            yield family


class StandingCollector(Collector):
    """How the queues stand. With the database away it says so, and nothing else."""

    def __init__(self, look: Callable[[], Standing], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._look = look
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._seen: Standing | None = None
        self._seen_at = float("-inf")

    def collect(self) -> Iterator[Metric]:
        standing = self._standing()
        yield _gauge("penstock_database_up", "Whether the database answers", standing is not None)
        if standing is not None:
            yield from _queues(standing)
            yield _gauge("penstock_batches_open", "Batches that have not ended", standing.num_open_batches)
            num_to_take_in = sum(queue.num_to_take_in for queue in standing.queues.values())
            waiting = "Lines of files that are not in the queue yet"
            yield _gauge("penstock_lines_to_take_in", waiting, num_to_take_in)
            deliveries = "Events that wait to be delivered, or to be tried again"
            yield _gauge("penstock_webhook_deliveries_waiting", deliveries, standing.num_deliveries_waiting)
            yield _gauge("penstock_dispatch_window", "Batch lines that may be in flight", standing.window)
            yield _labelled("penstock_workers", "Living workers", "model", standing.num_workers)

    def _standing(self) -> Standing | None:
        """One look at a time: who comes meanwhile gets the same one. An outage is not asked about each time."""
        with self._lock:
            if self._monotonic() - self._seen_at >= FRESH_SECONDS:
                try:
                    self._seen = self._look()
                except StoreUnavailable:
                    self._seen = None
                self._seen_at = self._monotonic()
            return self._seen


def _queues(standing: Standing) -> Iterator[Metric]:
    queues = standing.queues
    for name, meaning, numbers in (
        (
            "penstock_queue_jobs",
            "Queued jobs",
            {q: max(0, of.num_queued - of.num_to_take_in) for q, of in queues.items()},
        ),
        ("penstock_queue_messages", "Queued jobs with a message out", {q: o.num_published for q, o in queues.items()}),
        ("penstock_jobs_running", "Jobs that a worker holds", {queue: of.num_running for queue, of in queues.items()}),
        (
            "penstock_queue_oldest_seconds",
            "Age of the oldest queued job",
            {queue: of.oldest_seconds(standing.at) for queue, of in queues.items()},
        ),
    ):
        yield _labelled(name, meaning, "queue", numbers)


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=float(value))


def _labelled(name: str, meaning: str, label: str, numbers: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for value, number in numbers.items():
        family.add_metric([str(value)], number)
    return family


def new_registry(role: str) -> CollectorRegistry:
    """A registry that knows the process. The library's global one is not used: others write into it."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(RoleCollector(role))
    return registry


def watch_store(registry: CollectorRegistry, store: Store, *, standing: bool) -> None:
    """Expose what the store counts; `standing`: how the queues stand as well."""
    registry.register(CountsCollector(store.counts))
    if standing:
        registry.register(StandingCollector(store.standing))
