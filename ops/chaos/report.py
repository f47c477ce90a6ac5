"""What a run showed, for a person and for a program."""

from __future__ import annotations

from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.states import JobState
from ops.chaos.faults import Kind
from ops.chaos.trial import Options, Strike, Verdict

MAX_SHOWN = 20


def show(verdict: Verdict, options: Options, console: Console) -> None:
    """The table by kind, the sums, and every problem."""
    console.print(_table(verdict))
    console.print(summary(verdict, options), soft_wrap=True)
    for problem in verdict.problems[:MAX_SHOWN]:
        console.print(f"  - {problem}", soft_wrap=True, markup=False)
    if len(verdict.problems) > MAX_SHOWN:
        console.print(f"  … and {len(verdict.problems) - MAX_SHOWN} more")
    if verdict.logs:
        console.print(f"The logs are kept in {verdict.logs}", soft_wrap=True)


def summary(verdict: Verdict, options: Options) -> str:
    """The counts in two lines."""
    ended = sum(verdict.ends.values())
    tries = ", ".join(f"{num} {outcome}" for outcome, num in sorted(verdict.attempts.items()))
    found = f"{len(verdict.problems)} problems" if verdict.problems else "audit clean, nothing lost, nothing twice"
    database = "PostgreSQL" if options.plan.postgres else "SQLite"
    return (
        f"{database}, seed {options.seed}: {verdict.num_accepted} accepted, {ended} jobs of which "
        f"{verdict.ends.get(JobState.SUCCEEDED, 0)} succeeded, {verdict.num_stored} stored, "
        f"{len(verdict.strikes)} faults of {len({strike.kind.name for strike in verdict.strikes})} kinds, "
        f"{verdict.seconds:.0f} s: {found}\n"
        f"attempts: {tries}; submissions sent again: {verdict.num_retries} (accepted before: "
        f"{verdict.num_replayed})"
    )


def as_json(verdict: Verdict, options: Options) -> dict[str, Any]:
    """Everything, faults in their order."""
    return {
        "database": "postgresql" if options.plan.postgres else "sqlite",
        "seed": options.seed,
        "jobs": options.num_jobs,
        "lease_seconds": options.plan.lease_seconds,
        "accepted": verdict.num_accepted,
        "ends": verdict.ends,
        "stored": verdict.num_stored,
        "attempts": verdict.attempts,
        "submissions_retried": verdict.num_retries,
        "submissions_replayed": verdict.num_replayed,
        "seconds": round(verdict.seconds, 1),
        "by_kind": [_by_kind(kind, strikes) for kind, strikes in _grouped(verdict)],
        "faults": [
            {
                "kind": strike.kind.name,
                "at_seconds": round(strike.at_seconds, 2),
                "ended_before": strike.num_ended_before,
                "jobs_hit": strike.recovery.num_hit,
                "recovery_seconds": _rounded(strike.recovery.seconds),
                "limit_seconds": strike.recovery.limit_seconds,
            }
            for strike in verdict.strikes
        ],
        "problems": verdict.problems,
    }


def _table(verdict: Verdict) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("fault", no_wrap=True)
    for name in ("times", "jobs hit", "median", "max", "limit"):
        table.add_column(name, justify="right")
    table.add_column("over when", no_wrap=True)
    for kind, strikes in _grouped(verdict):
        row = _by_kind(kind, strikes)
        names = ("count", "jobs_hit", "median_seconds", "max_seconds", "limit_seconds")
        table.add_row(kind.name, *("–" if row[name] is None else str(row[name]) for name in names), kind.over_when)
    return table


def _grouped(verdict: Verdict) -> list[tuple[Kind, list[Strike]]]:
    groups: dict[str, list[Strike]] = {}
    for strike in verdict.strikes:
        groups.setdefault(strike.kind.name, []).append(strike)
    return sorted(((strikes[0].kind, strikes) for strikes in groups.values()), key=lambda group: group[0].name)


def _by_kind(kind: Kind, strikes: list[Strike]) -> dict[str, Any]:
    times = [strike.recovery.seconds for strike in strikes if strike.recovery.seconds is not None]
    hits = [strike.recovery.num_hit for strike in strikes if strike.recovery.num_hit is not None]
    limits = [strike.recovery.limit_seconds for strike in strikes if strike.recovery.limit_seconds is not None]
    return {
        "kind": kind.name,
        "count": len(strikes),
        "jobs_hit": sum(hits) if hits else None,
        "median_seconds": _rounded(median(times)) if times else None,
        "max_seconds": _rounded(max(times)) if times else None,
        "limit_seconds": limits[0] if limits else None,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
