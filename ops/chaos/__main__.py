"""`python -m ops.chaos`: start a system of its own, break it on purpose, and check that nothing is lost or doubled.

Touches nothing but what it starts itself in a temporary folder. Exit status 1, with a list, where a promise broke.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.errors import CliError
from ops.chaos.faults import KINDS, Kind
from ops.chaos.report import as_json, show
from ops.chaos.system import Interrupted, Plan, forget_settings
from ops.chaos.trial import Options, Trial, Verdict, Watcher


def main() -> int:
    """Run one schedule; 0 when every promise held, 1 when not, 2 when what was typed is wrong, 130 after ctrl-C."""
    typed = _parser().parse_args()
    options = _options(typed)
    os.umask(0o077)
    forget_settings()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        verdict = _watched(options, console)
    except Interrupted:
        console.print("stopped")
        return 130
    except CliError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return error.exit_status
    show(verdict, options, console)
    if typed.json:
        typed.json.write_text(json.dumps(as_json(verdict, options), indent=2) + "\n", encoding="utf-8")
    return 1 if verdict.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="penstock chaos", description=__doc__)
    parser.add_argument(
        "--jobs", type=_positive, default=2000, help="submit at least so many; more while faults are left [2000]"
    )
    parser.add_argument("--faults", type=_positive, default=26, help="how many to make [26]")
    parser.add_argument("--seed", type=int, default=1, help="draws the schedule, the victims and the jobs [1]")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--slots", type=_positive, default=16, help="generations at a time, for each worker [16]")
    parser.add_argument("--lease-seconds", type=float, default=5.0, help="[5]")
    parser.add_argument("--tokens", type=_positive, default=140, help="of a completion, on average [140]")
    parser.add_argument("--kinds", help="only these kinds, with commas: " + ", ".join(kind.name for kind in KINDS))
    parser.add_argument("--patience", type=float, default=1.0, help="stretches the limits, for a slow machine [1]")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser


def _options(typed: argparse.Namespace) -> Options:
    postgres = typed.database == "postgresql"
    plan = Plan(postgres=postgres, slots=typed.slots, lease_seconds=typed.lease_seconds)
    kinds = _kinds(typed.kinds, postgres=postgres)
    return Options(typed.jobs, typed.faults, typed.seed, kinds, plan, typed.patience, typed.tokens)


def _kinds(names: str | None, *, postgres: bool) -> list[Kind]:
    possible = {kind.name: kind for kind in KINDS if postgres or not kind.needs_postgres}
    wanted = [name.strip() for name in names.split(",")] if names else list(possible)
    for name in wanted:
        if name not in possible:
            _parser().error(f"--kinds: {name!r} is none of {', '.join(possible)}")
    return [possible[name] for name in wanted]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


class Bar(Watcher):
    """A bar of ended jobs, and a line for every fault above it."""

    def __init__(self, progress: Progress, num_jobs: int) -> None:
        self._progress = progress
        self._task = progress.add_task("jobs ended", total=num_jobs)

    def say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, soft_wrap=True)

    def progress(self, num_ended: int) -> None:
        self._progress.update(self._task, completed=num_ended)


def _watched(options: Options, console: Console) -> Verdict:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        return Trial(options, Bar(progress, options.num_jobs)).run()


if __name__ == "__main__":
    sys.exit(main())
