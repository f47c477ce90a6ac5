"""`/metrics` of a process that serves nothing else: who may read it, and that nothing stops for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from jobs.binding import is_loopback
from jobs.dispatcher import Round
from jobs.metrics.dispatching import RoundMeter
from jobs.metrics.registry import CountsCollector, new_registry
from jobs.metrics.serving import UnsafeMetrics, bears, serve_metrics
from jobs.records import Publishable
from jobs.states import ENDED
from jobs.store.counts import DELIVERY_RESULTS, Counts
from tests.jobs.support import make_settings
from tests.ops.running import free_port

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve a registry on a free port; its address."""
    stops: list[Callable[[], None]] = []

    def start(**settings: Any) -> str:
        port = free_port()
        stops.append(serve_metrics(make_settings(metrics_port=port, **settings), new_registry("worker")))
        return f"http://127.0.0.1:{port}"

    yield start
    for stop in stops:
        stop()


def get(url: str, key: str = "") -> httpx.Response:
    return httpx.get(url, headers={"Authorization": f"Bearer {key}"} if key else {}, trust_env=False)


def test_a_process_says_what_it_is(serve: Serve) -> None:
    said = get(serve() + "/metrics")
    assert 'penstock_role_info{role="worker"} 1.0' in said.text
    assert said.headers["Content-Type"].startswith("text/plain")


def test_every_number_that_may_come_is_told_from_its_start() -> None:
    families = {family.name: family for family in CountsCollector(Counts()).collect()}
    for name, values in (("penstock_webhook_attempts", set(DELIVERY_RESULTS)), ("penstock_jobs_ended", set(ENDED))):
        told = {sample.labels.popitem()[1]: sample.value for sample in families[name].samples}
        assert told == dict.fromkeys(values, 0), name


def test_with_a_key_nobody_else_reads_it(serve: Serve) -> None:
    url = serve(metrics_key="secret")
    assert get(url + "/metrics").status_code == 401
    assert get(url + "/metrics", "another").status_code == 401
    assert get(url + "/metrics", "secret").status_code == 200


def test_there_is_nothing_else_to_read(serve: Serve) -> None:
    url = serve()
    assert [get(url + path).status_code for path in ("/", "/metrics/", "/debug")] == [404, 404, 404]


def test_beyond_loopback_it_does_not_open_without_a_key() -> None:
    with pytest.raises(UnsafeMetrics, match="PENSTOCK_METRICS_KEY"):
        serve_metrics(make_settings(metrics_port=0, metrics_host="0.0.0.0"), CollectorRegistry())


def test_without_a_port_it_is_off() -> None:
    serve_metrics(make_settings(metrics_host="0.0.0.0"), CollectorRegistry())()


def test_a_port_that_is_taken_stops_nobody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        serve_metrics(make_settings(metrics_port=taken.getsockname()[1]), CollectorRegistry())()


@pytest.mark.parametrize(
    ("header", "right"),
    [
        ("Bearer key", True),
        ("bearer key", True),
        ("Basic key", False),
        ("key", False),
        ("", False),
        ("Bearer ké", False),
    ],
)
def test_a_key_comes_as_a_bearer_token(header: str, right: bool) -> None:
    assert bears(header, "key") is right


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_whatever_others_reach_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_the_rounds_of_a_leader_are_measured() -> None:
    registry = CollectorRegistry()
    meter = RoundMeter(registry)
    meter.note(Round(True, refilled=True, published=Publishable(["a"], ["b", "c"], window=8), seconds=0.02))
    meter.note(Round(leads=False))
    value = registry.get_sample_value
    assert value("penstock_published_total", {"queue": "batch"}) == 2
    assert value("penstock_redis_refills_total") == 1
    assert value("penstock_dispatch_round_seconds_count") == 1
    assert value("penstock_dispatcher_leads") == 0
