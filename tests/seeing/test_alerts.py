"""The alert rules, run by Prometheus' own promtool over made-up series: each fires when it should, and only then."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

RULES = Path(__file__).parents[2] / "ops" / "dashboards" / "alerts.yml"
Series = Mapping[str, str]
"""Series, each with a value a minute as promtool writes them: `1+2x3` is 1, 3, 5, 7; `stale` ends one."""


@dataclass(frozen=True)
class Case:
    """What an alert says after `minutes` of `series`; `says` None: nothing."""

    alert: str
    minutes: int
    series: Series
    says: str | None = None


API, WORKER = '{role="api",instance="api:8000"}', '{role="worker",instance="worker:9464"}'
STARTED = 'penstock_attempts_started_total{queue="batch",instance="%s"}'
GAPS = 'penstock_token_gap_seconds_bucket{le="%s"}'

CASES = [
    Case(
        "PenstockInteractiveJobsWait",
        3,
        {'penstock_queue_oldest_seconds{queue="interactive"}': "45+0x9"},
        "An interactive job has waited for 45s.",
    ),
    Case("PenstockInteractiveJobsWait", 9, {'penstock_queue_oldest_seconds{queue="batch"}': "4500+0x9"}),
    Case("PenstockInteractiveJobsWait", 1, {'penstock_queue_oldest_seconds{queue="interactive"}': "45+0x9"}),
    Case("PenstockNoWorker", 3, {"penstock_database_up": "1+0x9"}, "No worker lives. Jobs are accepted and wait."),
    Case("PenstockNoWorker", 9, {"penstock_database_up": "1+0x9", 'penstock_workers{model="demo"}': "1+0x9"}),
    Case("PenstockNoWorker", 9, {"penstock_database_up": "0+0x9"}),
    Case(
        "PenstockNoApi",
        4,
        {f"penstock_role_info{API}": "1 1 stale", f"penstock_role_info{WORKER}": "1+0x9"},
        "No API answers, or none is scraped. Nothing is accepted; what was accepted goes on.",
    ),
    Case("PenstockNoApi", 9, {f"penstock_role_info{API}": "1+0x9"}),
    Case(
        "PenstockNoDispatcher",
        2,
        {'penstock_dispatcher_leads{instance="a"}': "0+0x9", 'penstock_dispatcher_leads{instance="b"}': "0+0x9"},
        "No dispatcher leads, or none is scraped. Batches stand still, lost leases are not freed.",
    ),
    Case(
        "PenstockNoDispatcher",
        9,
        {'penstock_dispatcher_leads{instance="a"}': "0+0x9", 'penstock_dispatcher_leads{instance="b"}': "1+0x9"},
    ),
    Case(
        "PenstockNothingMoves",
        15,
        {'penstock_queue_jobs{queue="batch"}': "5+0x30", STARTED % "api": "0+0x30", STARTED % "worker": "0+0x30"},
        "Jobs wait, and for ten minutes no attempt has begun.",
    ),
    Case(
        "PenstockNothingMoves",
        30,
        {'penstock_queue_jobs{queue="batch"}': "5+0x30", STARTED % "api": "0+0x30", STARTED % "worker": "0+1x30"},
    ),
    Case("PenstockNothingMoves", 30, {'penstock_queue_jobs{queue="batch"}': "0+0x30", STARTED % "worker": "7+0x30"}),
    Case(
        "PenstockLeasesLost",
        5,
        {'penstock_attempts_ended_total{outcome="lease_lost"}': "0 0 5 5 5 5"},
        "Workers went silent in the middle of 5 attempts.",
    ),
    Case("PenstockLeasesLost", 5, {'penstock_attempts_ended_total{outcome="lease_lost"}': "0 0 2 2 2 2"}),
    Case("PenstockLeasesLost", 5, {'penstock_attempts_ended_total{outcome="interrupted"}': "0 0 9 9 9 9"}),
    Case(
        "PenstockJobsFail",
        30,
        {
            'penstock_jobs_ended_total{state="failed"}': "0+2x40",
            'penstock_jobs_ended_total{state="succeeded"}': "0+8x40",
        },
        "20% of the jobs fail.",
    ),
    Case(
        "PenstockJobsFail",
        30,
        {
            'penstock_jobs_ended_total{state="failed"}': "0+1x40",
            'penstock_jobs_ended_total{state="succeeded"}': "0+19x40",
        },
    ),
    Case("PenstockJobsFail", 30, {'penstock_jobs_ended_total{state="failed"}': "0+0x40"}),
    Case(
        "PenstockDatabaseAway",
        2,
        {'penstock_database_up{instance="api"}': "1+0x9", 'penstock_database_up{instance="dispatcher"}': "0+0x9"},
        "A process does not reach the database. Nothing is accepted; what runs is held until it is back.",
    ),
    Case("PenstockDatabaseAway", 9, {"penstock_database_up": "1+0x9"}),
    Case(
        "PenstockRedisWasEmptied",
        5,
        {"penstock_redis_refills_total": "0 1 1 2 2 2"},
        "Redis was found empty more than once in an hour.",
    ),
    Case("PenstockRedisWasEmptied", 5, {"penstock_redis_refills_total": "0 1 1 1 1 1"}),
    Case(
        "PenstockServerErrors",
        9,
        {'penstock_http_requests_total{status="503"}': "0+12x9"},
        "The API answers 200m requests a second with an error of its own.",
    ),
    Case("PenstockServerErrors", 9, {'penstock_http_requests_total{status="404"}': "0+1200x9"}),
    Case(
        "PenstockSlowTokens",
        15,
        {GAPS % "2": "0+98x30", GAPS % "5": "0+100x30", GAPS % "+Inf": "0+100x30"},
        "One token in a hundred comes more than two seconds after the one before.",
    ),
    Case("PenstockSlowTokens", 30, {GAPS % "2": "0+100x30", GAPS % "+Inf": "0+100x30"}),
    Case(
        "PenstockWebhooksFail",
        3,
        {'penstock_webhook_attempts_total{result="given_up"}': "0 0 1 1"},
        "Events were given up that a webhook never took.",
    ),
    Case("PenstockWebhooksFail", 3, {'penstock_webhook_attempts_total{result="failed"}': "0 5 10 15"}),
]


@cache
def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@pytest.fixture(scope="module")
def promtool() -> str:
    """Without one on PATH: a skip on a laptop, a failure in CI."""
    path = shutil.which("promtool")
    if path is None:
        reason = "no promtool on PATH (Debian, Ubuntu: in the package promtool or prometheus)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return path


def as_test(case: Case) -> dict[str, Any]:
    """A case as promtool takes it."""
    rule = rules()[case.alert]
    told = {"summary": case.says, "action": rule["annotations"]["action"]}
    expected = [] if case.says is None else [{"exp_labels": rule["labels"], "exp_annotations": told}]
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "alert_rule_test": [{"eval_time": f"{case.minutes}m", "alertname": case.alert, "exp_alerts": expected}],
    }


def test_the_rules_are_rules(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}-{'says' if case.says else 'silent'}")
def test_an_alert_fires_when_it_should_and_only_then(promtool: str, case: Case, tmp_path: Path) -> None:
    tests = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [as_test(case)]}
    file = tmp_path / "test.yml"
    file.write_text(json.dumps(tests), encoding="utf-8")
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert {case.alert for case in CASES if case.says} == set(rules())
    assert {case.alert for case in CASES if not case.says} == set(rules())
