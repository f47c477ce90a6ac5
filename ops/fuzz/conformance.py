"""The API against its own OpenAPI document: cases that schemathesis makes from it, and what each answer has to be.

Every answer must be one that the document names: its status, its content type, its schema; none may be a server error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.engine import from_schema
from schemathesis.engine.events import EngineEvent, FatalError, NonFatalError, ScenarioFinished

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
FIRST_SERVER_ERROR = 500
REQUEST_SECONDS = 30.0
STREAM_EVENTS = 20


@dataclass
class Findings:
    """What many cases came to. `failures`: one reproduction each, by operation and what was wrong."""

    num_cases: int = 0
    num_server_errors: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, event: EngineEvent) -> None:
        """Count what one scenario did."""
        if isinstance(event, NonFatalError):
            self.failures.setdefault(f"{event.label}: {type(event.value).__name__}", str(event.value)[:2000])
        elif isinstance(event, FatalError):
            raise event.exception
        elif isinstance(event, ScenarioFinished):
            self._add_scenario(event)

    def _add_scenario(self, event: ScenarioFinished) -> None:
        for interaction in event.recorder.interactions.values():
            self.num_cases += 1
            if interaction.response is not None:
                status = interaction.response.status_code
                self.statuses[status] += 1
                self.num_server_errors += status >= FIRST_SERVER_ERROR
        for checks in event.recorder.checks.values():
            for check in checks:
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    name = f"{event.label}: {failure.title}: {failure.message[:200]}"
                    self.failures.setdefault(name, check.failure_info.code_sample[:2000])


def settings(*, seed: int, cases_an_operation: int, phases: Iterable[str] = ("coverage", "fuzzing")) -> Any:
    """schemathesis's settings: no file of its own is read, none is written."""
    chosen = set(phases)
    words: Mapping[str, Any] = {
        "seed": seed,
        "continue-on-failure": True,
        "request-timeout": REQUEST_SECONDS,
        "max-stream-events": STREAM_EVENTS,
        "suppress-health-check": ["all"],
        "cache": {"enabled": False},
        "generation": {"max-examples": cases_an_operation, "no-shrink": True, "database": "none"},
        "checks": {"enabled": False, **{name: {"enabled": True} for name in CHECKS}},
        "phases": {name: {"enabled": name in chosen} for name in ("examples", "coverage", "fuzzing", "stateful")},
    }
    return schemathesis.Config.from_dict(dict(words))


def examine(schema: Any, findings: Findings) -> Findings:
    """Run all cases of a schema that was loaded with `settings`, and add them to `findings`."""
    for event in from_schema(schema).execute():
        findings.add(event)
    return findings


def examine_url(url: str, *, seed: int, num_cases: int) -> Findings:
    """Examine a running API, one seed after another, until so many cases have run or something was found."""
    findings = Findings()
    cases_an_operation = max(5, min(50, num_cases // 50))
    while findings.num_cases < num_cases and not findings.failures:
        config = settings(seed=seed, cases_an_operation=cases_an_operation)
        before = findings.num_cases
        examine(schemathesis.openapi.from_url(f"{url}/openapi.json", config=config), findings)
        if findings.num_cases == before:
            raise RuntimeError("schemathesis made no case")
        seed += 1
    return findings
