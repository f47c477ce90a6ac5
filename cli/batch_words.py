"""What a batch object says, in a person's words: how far it is, how fast, what went wrong. Knows no screen."""

from __future__ import annotations

from cli.client import Json
from cli.errors import CliError

BATCH_ENDED = frozenset({"completed", "cancelled", "failed", "expired"})
MAX_ERRORS_SHOWN = 10


class BatchRefused(CliError):
    """The whole batch was refused; the message lists its first errors."""


def summary(batch: Json) -> str:
    """One line about a batch."""
    counts = batch.get("counts") or _counts(batch)
    states = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    return f"{batch['id']} {batch['status']}: {num_ended(batch)} of {total_of(batch)} ended ({states or 'nothing yet'})"


def hints(batch: Json) -> list[str]:
    """What a person may want to do next."""
    failed = int(batch["request_counts"]["failed"])
    lines = [f"{error}" for error in _errors_of(batch)]
    if failed and batch.get("error_file_id"):
        lines.append(f"{failed} lines failed: `penstock batch results {batch['id']} --errors FILE` says why,")
        lines.append(f"  `penstock batch retry {batch['id']}` runs those again that can run.")
    return lines


def _counts(batch: Json) -> dict[str, int]:
    counts = batch["request_counts"]
    return {"succeeded": int(counts["completed"]), "failed": int(counts["failed"])}


def total_of(batch: Json) -> int:
    return int(batch["request_counts"]["total"])


def num_ended(batch: Json) -> int:
    """Lines of a batch that have ended, however they did."""
    counts = batch.get("counts") or _counts(batch)
    return sum(number for state, number in counts.items() if state not in {"queued", "running"})


def refuse_failed(batch: Json) -> None:
    """Raise BatchRefused for a batch that was refused as a whole."""
    if batch["status"] == "failed":
        listed = "".join(f"\n  {line}" for line in _errors_of(batch))
        raise BatchRefused(f"{batch['id']} was refused; no line of it ran.{listed}")


def _errors_of(batch: Json) -> list[str]:
    """The first errors of a batch that was refused as a whole."""
    errors = (batch.get("errors") or {}).get("data") or []
    more = len(errors) - MAX_ERRORS_SHOWN
    return [str(error.get("message")) for error in errors[:MAX_ERRORS_SHOWN]] + ([f"… and {more} more"] * (more > 0))


def pace_of(batch: Json) -> str:
    """`12.5 lines/s · 310 tokens/s`; empty where the API has not measured it."""
    lines, tokens = batch.get("lines_per_second"), batch.get("tokens_per_second")
    words = [f"{lines:.1f} lines/s"] if lines else []
    return " · ".join([*words, f"{tokens:,.0f} tokens/s"] if tokens else words)


def eta_of(batch: Json) -> str:
    """`ETA 0:01:10 – 0:01:40`, median and 90th percentile; empty where the API gives none."""
    eta = batch.get("eta_seconds") or {}
    early, late = (clock(eta[name]) if eta.get(name) is not None else "" for name in ("p50", "p90"))
    if not early:
        return ""
    return f"ETA {early} – {late}" if late and late != early else f"ETA {early}"


def clock(seconds: float) -> str:
    """Hours, minutes, seconds; days where there are any."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hour}:{minute:02}:{second:02}"
