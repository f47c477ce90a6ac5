"""`python -m ops.supply.audit`: do the locked packages have known weaknesses? (`make audit-deps`)

pip-audit asks the advisory service of PyPI for each package of `requirements.lock`. Exit status 1 only when one has an
advisory. A service that cannot be reached has found nothing out, nor has a mirror that hands no advisories on (it is
asked first for a package that is known to have some): that is said, with status 0, so that a machine without the
internet can run the same steps as one with it; `--strict` makes it status 2.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements.lock"
TIMEOUT_SECONDS = 15
CLEAN, WEAK, NOT_ASKED = 0, 1, 2
KNOWN_WEAK = "jinja2==2.10"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make audit-deps", description="Known weaknesses of the locked packages.")
    parser.add_argument("--lock", type=Path, default=LOCK)
    parser.add_argument("--strict", action="store_true", help="fail when the advisory service cannot be asked")
    chosen = parser.parse_args(arguments)
    try:
        check_service()
        report = ask(chosen.lock)
    except NoAnswer as error:
        print(f"NOT AUDITED: {error}", file=sys.stderr)
        return NOT_ASKED if chosen.strict else CLEAN
    found = weaknesses(report)
    for line in found:
        print(line)
    print(f"{len(found)} known weaknesses in {len(report)} packages", file=sys.stderr)
    return WEAK if found else CLEAN


class NoAnswer(Exception):
    """The advisory service has told nothing."""


def check_service() -> None:
    """Raise NoAnswer for a service that knows of no weakness where there is one."""
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "known-weak.txt"
        lock.write_text(f"{KNOWN_WEAK}\n", encoding="utf-8")
        if not weaknesses(ask(lock)):
            raise NoAnswer(
                f"the advisory service knows of nothing wrong with {KNOWN_WEAK}, so it hands on no advisories"
            )


def ask(lock: Path) -> list[dict[str, Any]]:
    """The locked packages and what is known of them. Raises NoAnswer."""
    done = subprocess.run(command(lock), capture_output=True, text=True, check=False)
    report = read_report(done.stdout)
    if report is None:
        raise NoAnswer(f"the advisory service gave no answer ({_last_line(done.stderr)})")
    return report


def command(lock: Path) -> list[str]:
    """pip-audit over the lock as it is: nothing is resolved or installed."""
    options = ["--no-deps", "--disable-pip", "--format=json", "--progress-spinner=off", f"--timeout={TIMEOUT_SECONDS}"]
    return [sys.executable, "-m", "pip_audit", *options, "--requirement", str(lock)]


def read_report(text: str) -> list[dict[str, Any]] | None:
    """The packages that were asked about; None when there is no report."""
    try:
        packages = json.loads(text)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return None
    return list(packages)


def weaknesses(packages: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each advisory."""
    return [
        f"{package['name']} {package.get('version', '?')}: {found['id']}, mended in {_mended(found)}"
        for package in packages
        for found in package.get("vulns", ())
    ]


def _mended(found: dict[str, Any]) -> str:
    return ", ".join(found.get("fix_versions") or ()) or "no version yet"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:200]


if __name__ == "__main__":
    sys.exit(main())
