"""The list of what Penstock is built from, and what is known to be wrong with it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ops.supply import audit, sbom

LOCKED = dict(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", audit.LOCK.read_text(), re.MULTILINE))
CLEAN = [{"name": "a", "version": "1", "vulns": []}]
WEAK = [*CLEAN, {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}]


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("sbom") / "sbom.json"
    assert sbom.main([str(out)]) == 0
    return dict(json.loads(out.read_text()))


def test_the_bill_names_every_locked_package_and_its_version(bill: dict[str, Any]) -> None:
    assert {part["name"]: part["version"] for part in bill["components"]} == LOCKED
    assert bill["metadata"]["component"]["name"] == "penstock"
    assert {"celery", "redis", "llama-cpp-python", "sqlalchemy"} <= set(LOCKED)


def test_the_same_lock_gives_the_same_bill(bill: dict[str, Any], tmp_path: Path) -> None:
    assert sbom.main([str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == bill
    assert not {"serialNumber", "timestamp"} & {*bill, *bill["metadata"]}


def test_the_audit_reads_the_lock_as_it_is() -> None:
    command = audit.command(audit.LOCK)
    assert {"--no-deps", "--disable-pip", str(audit.LOCK)} <= set(command)


def _answers(monkeypatch: pytest.MonkeyPatch, known_weak: list[Any] | None, lock: list[Any] | None) -> None:
    def ask(path: Path) -> list[Any]:
        report = lock if path == audit.LOCK else known_weak
        if report is None:
            raise audit.NoAnswer("it is out of reach")
        return report

    monkeypatch.setattr(audit, "ask", ask)


def test_an_advisory_fails_the_audit_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _answers(monkeypatch, WEAK, WEAK)
    assert audit.main([]) == 1
    assert "b 2: PYSEC-1, mended in 3" in capsys.readouterr().out


def test_packages_without_advisories_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, WEAK, CLEAN)
    assert audit.main([]) == 0


@pytest.mark.parametrize(
    "known_weak", [None, CLEAN], ids=["a service out of reach", "a mirror that hands no advisories on"]
)
def test_what_was_not_found_out_is_said_and_fails_only_where_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], known_weak: list[Any] | None
) -> None:
    _answers(monkeypatch, known_weak, CLEAN)
    assert (audit.main([]), audit.main(["--strict"])) == (0, 2)
    assert capsys.readouterr().err.count("NOT AUDITED") == 2


@pytest.mark.parametrize("text", ["", "no network", "[]", "{}"])
def test_a_report_that_is_none_is_no_answer(text: str) -> None:
    assert audit.read_report(text) is None
