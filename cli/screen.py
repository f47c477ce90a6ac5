"""What commands put on the screen: results on standard output, everything about them on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

Json = dict[str, Any]

STATE_STYLES = {"succeeded": "green", "running": "cyan", "failed": "red", "expired": "yellow", "cancelled": "yellow"}
GOOD_END = "succeeded"
MAX_TABLE_WIDTH = 1000

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


def print_json(value: object) -> None:
    """JSON for a program: one document, not wrapped or coloured."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_table(table: Table) -> None:
    """A table as wide as what is in it: a narrow terminal wraps it, and an id is never cut."""
    needed = Measurement.get(out, out.options.update(width=MAX_TABLE_WIDTH), table).maximum
    Console(highlight=False, width=needed, file=out.file).print(table)


def print_text(text: str) -> None:
    """Generated text as it comes. A terminal gets no control characters: a model could move its cursor."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def printable(text: str) -> str:
    """Replace control characters, line ends and tabs excepted."""
    return "".join(
        character if character in "\n\t" or not _is_control(character) else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def _is_control(character: str) -> bool:
    return ord(character) < 32 or 127 <= ord(character) < 160


def num_completion_tokens(job: Json) -> int | None:
    usage = job.get("usage") or {}
    return usage.get("completion_tokens")


def tokens_per_second(job: Json) -> float | None:
    """Completion tokens by the seconds of prefill and decode; None unless both are known."""
    tokens, timings = num_completion_tokens(job), job.get("timings") or {}
    seconds = timings.get("prefill", 0.0) + timings.get("decode", 0.0)
    return tokens / seconds if tokens and seconds > 0 else None


def jobs_table(jobs: Sequence[Json]) -> Table:
    """Rows as they are stored; a column says what was wrong, where something was."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    codes = [_code(job) for job in jobs]
    for name in ("id", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("seed", "tokens", "tokens/s"):
        table.add_column(name, justify="right", no_wrap=True)
    if any(codes):
        table.add_column("error")
    for job, code in zip(jobs, codes, strict=True):
        rate = tokens_per_second(job)
        table.add_row(
            job["id"],
            styled_state(job["state"]),
            _shown(job.get("seed")),
            _shown(num_completion_tokens(job)),
            f"{rate:.1f}" if rate else "–",
            *([escape(code)] if any(codes) else []),
        )
    return table


def _code(job: Json) -> str:
    error = job.get("error")
    return str(error.get("code")) if isinstance(error, dict) else ""


def batches_table(batches: Sequence[Json]) -> Table:
    """Batches, one a row."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("id", "status"):
        table.add_column(name, no_wrap=True)
    for name in ("lines", "succeeded", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("created", no_wrap=True)
    table.add_column("name")
    for batch in batches:
        counts = batch["request_counts"]
        numbers = [str(counts[name]) for name in ("total", "completed", "failed")]
        name = (batch.get("metadata") or {}).get("name", "")
        table.add_row(batch["id"], batch["status"], *numbers, local_time(batch.get("created_at")), escape(name))
    return table


def files_table(files: Sequence[Json]) -> Table:
    """Files, one a row."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("id", "purpose"):
        table.add_column(name, no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    for name in ("created", "expires"):
        table.add_column(name, no_wrap=True)
    table.add_column("name")
    for file in files:
        times = [local_time(file.get(name)) for name in ("created_at", "expires_at")]
        table.add_row(file["id"], file["purpose"], _size(file), *times, escape(file.get("filename") or ""))
    return table


def _size(file: Json) -> str:
    """A file of results grows while its batch runs."""
    return f"{file['bytes']:,}" + ("" if file.get("complete", True) else "+")


def webhooks_table(webhooks: Sequence[Json]) -> Table:
    """Webhooks, one a row."""
    table = Table("id", "url", "events", box=None, header_style="bold", pad_edge=False)
    for webhook in webhooks:
        off = " (disabled)" if webhook.get("disabled_at") else ""
        table.add_row(webhook["id"], escape(webhook["url"] + off), escape(", ".join(webhook["events"])))
    return table


def deliveries_table(deliveries: Sequence[Json]) -> Table:
    """What a webhook was told, one event a row."""
    table = Table("id", "event", "about", "tries", "state", box=None, header_style="bold", pad_edge=False)
    for delivery in deliveries:
        told = (delivery[name] for name in ("id", "type", "object_id"))
        table.add_row(*map(str, told), str(len(delivery["attempts"])), _delivery_state(delivery))
    return table


def _delivery_state(delivery: Json) -> str:
    """`pending` and `failed` come with what stood in the way at the last try."""
    last = (delivery["attempts"] or [{}])[-1]
    reason = last.get("error")
    shown = f" ({reason} {last.get('status') or ''}".rstrip() + ")" if reason else ""
    return escape(f"{delivery['status']}{shown}")


def local_time(seconds: float | None) -> str:
    """Unix seconds as a person's clock shows them."""
    return "–" if seconds is None else datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def job_table(job: Json) -> Table:
    """One job: where it stands and what made it."""
    table = Table.grid(padding=(0, 2))
    rows: dict[str, object] = {
        "id": job["id"],
        "state": job["state"],
        "queue position": job.get("queue_position"),
        "seed": job.get("seed"),
        "finish reason": job.get("finish_reason"),
        "tokens": num_completion_tokens(job),
        "tokens/s": f"{rate:.1f}" if (rate := tokens_per_second(job)) else None,
        "attempts": _attempts(job.get("attempts")),
        "recipe": _name(job.get("recipe")),
        "batch": job.get("batch_id"),
        "created": job.get("created_at"),
        "started": job.get("started_at"),
        "ended": job.get("ended_at"),
        "error": error_text(job),
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(f"[dim]{name}[/dim]", styled_state(str(value)) if name == "state" else escape(str(value)))
    return table


def error_text(job: Json) -> str | None:
    """Why a job failed or expired, in one line."""
    error = job.get("error")
    if job.get("state") == "expired" and error is None:
        return "its deadline was over before it had ended"
    return f"{error.get('message')} ({error.get('code')})" if isinstance(error, dict) else None


def end_line(job: Json) -> str:
    """One line about a finished generation, for beneath its text."""
    facts = [f"seed {job['seed']}"] if job.get("seed") is not None else []
    if (tokens := num_completion_tokens(job)) is not None:
        facts.append(f"{tokens} tokens")
    if rate := tokens_per_second(job):
        facts.append(f"{rate:.1f} tokens/s")
    return " · ".join([job["id"], *facts])


def styled_state(state: str) -> str:
    style = STATE_STYLES.get(state)
    return f"[{style}]{escape(state)}[/{style}]" if style else escape(state)


def _shown(value: object) -> str:
    return "–" if value is None else str(value)


def _attempts(value: object) -> object:
    return len(value) if isinstance(value, list) else value


def _name(value: object) -> object:
    return value.get("id") if isinstance(value, dict) else value
