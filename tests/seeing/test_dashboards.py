"""What the dashboard and the alert rules ask for exists, with the labels they ask for, in what the roles expose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from ops.docs import metrics
from tests.seeing.system import Watched
from tests.support.services import wait_until

FOLDER = Path(__file__).parents[2] / "ops" / "dashboards"
FROM_SCRAPING = {"instance", "job"}
"""Labels that Prometheus adds."""
WORDS = {
    *("sum", "max", "min", "rate", "increase", "by", "on", "or", "and", "vector", "histogram_quantile"),
    *("group_left", "ignoring", "without", "avg", "count"),
}


@cache
def dashboard() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "grafana.json").read_text()))


@cache
def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


def metrics_of(expression: str) -> set[str]:
    """The names of metrics: what is a word of no other kind."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", expression)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left)\s*\([^)]*\)", " ", bare)
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - WORDS


def labels_of(expression: str) -> set[str]:
    grouped = re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", expression)
    chosen = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    return {label.strip() for group in grouped for label in group.split(",") if label.strip()} | set(chosen)


@pytest.fixture(scope="module")
def exposed(watched: Watched) -> dict[str, set[str]]:
    """Names of samples, with the labels of each, of all roles; once each has something to tell."""
    job_id = watched.post("Ice", max_tokens=4)
    watched.wait_for_ends([job_id])

    def look() -> dict[str, set[str]]:
        samples: dict[str, set[str]] = {}
        for role in ("api", "dispatcher", "worker"):
            for family in text_string_to_metric_families(watched.scrape(role)):
                for name in (f"{family.name}_total",) if family.type == "counter" else ():
                    samples.setdefault(name, set())
                for sample in family.samples:
                    samples.setdefault(sample.name, set()).update(sample.labels)
        return samples

    ended = 'penstock_attempts_ended_total{outcome="succeeded"} 0.0'
    wait_until(lambda: ended not in watched.scrape("worker"))
    return look()


def test_every_expression_asks_for_what_is_there(exposed: dict[str, set[str]]) -> None:
    asked = {(place, name) for place, expression in expressions() for name in metrics_of(expression)}
    assert len(asked) > 30
    assert {(place, name) for place, name in asked if name not in exposed} == set()


def test_every_label_that_is_asked_for_is_one_of_its_metric(exposed: dict[str, set[str]]) -> None:
    for place, expression in expressions():
        names = metrics_of(expression)
        labels = set().union(*(exposed[name] for name in names))
        assert labels_of(expression) - FROM_SCRAPING <= labels, place


def test_every_metric_of_ours_has_a_meaning_and_no_role_says_one_twice(watched: Watched) -> None:
    for role in ("api", "dispatcher", "worker"):
        families = list(text_string_to_metric_families(watched.scrape(role)))
        assert all(family.documentation for family in families)
        assert len({family.name for family in families}) == len(families)


@pytest.mark.parametrize("role", ["api", "dispatcher", "worker"])
@pytest.mark.usefixtures("exposed")
def test_the_page_about_metrics_has_those_of_a_real_role(watched: Watched, role: str) -> None:
    real = of_ours(text_string_to_metric_families(watched.scrape(role)))
    assert of_ours(metrics.registries()[role].collect()) == real


def of_ours(families: Iterable[Metric]) -> dict[str, set[str]]:
    """Names of metrics, with their labels."""
    found = {metrics.shown(family): set(metrics.labels(family)) for family in families}
    return {name: labels for name, labels in found.items() if name.startswith(metrics.OURS) and "_created" not in name}


def test_every_alert_says_what_to_do() -> None:
    for rule in rules():
        assert {"summary", "action"} == set(rule["annotations"]), rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}


def test_panels_have_a_place_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
