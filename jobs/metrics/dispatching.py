"""What a dispatcher measures of its rounds."""

from __future__ import annotations

from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from jobs.records import Publishable

ROUND_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Rounds(Protocol):
    """The part of `jobs.dispatcher.Round` that is measured."""

    @property
    def leads(self) -> bool: ...
    @property
    def refilled(self) -> bool: ...
    @property
    def published(self) -> Publishable: ...
    @property
    def seconds(self) -> float: ...


class RoundMeter:
    """Told of each round."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._leads = Gauge("penstock_dispatcher_leads", "Whether this one leads", registry=registry)
        self._published = Counter("penstock_published", "Messages sent", ["queue"], registry=registry)
        self._refills = Counter("penstock_redis_refills", "Times that Redis was found empty", registry=registry)
        self._seconds = Histogram(
            "penstock_dispatch_round_seconds", "Length of a leading round", buckets=ROUND_SECONDS, registry=registry
        )

    def note(self, done: Rounds) -> None:
        self._leads.set(done.leads)
        if done.leads:
            self._seconds.observe(done.seconds)
            self._published.labels("interactive").inc(len(done.published.interactive))
            self._published.labels("batch").inc(len(done.published.batch))
            self._refills.inc(done.refilled)
