"""`python -m ops.bench.night`: a large batch as its users run it, from the upload to the last byte.

Starts the whole system with the demo model, uploads through the `openai` client, polls, cancels what is left when the
time is over, downloads both files, and compares them with the counts and with every row. Ends with status 1 when one
line is missing, doubled or different.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from openai import OpenAI
from openai.types import Batch as BatchReply
from rich.console import Console

from jobs.states import JobState
from jobs.tables import Generation, Job
from ops.bench.batches import write_lines
from ops.bench.stage import Stage, staged

ENDED = {"completed", "failed", "expired", "cancelled"}
POLL_SECONDS = 5.0


def main() -> int:
    """Run it; print what was counted."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench.night", description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="what has not run by then is cancelled")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--postgres", action="store_true")
    options = parser.parse_args()
    console = Console()
    with staged(postgres=options.postgres, slots=options.slots) as stage, tempfile.TemporaryDirectory() as folder:
        stage.start("api", "dispatcher", "worker")
        client = OpenAI(base_url=f"{stage.url}/v1", api_key="none", timeout=600)
        path = write_lines(Path(folder) / "night.jsonl", options.lines)
        started = time.monotonic()
        batch = _submit(client, path)
        console.print(f"{batch.id}: {options.lines} lines accepted in {time.monotonic() - started:.1f} s")
        batch = _wait(client, batch, started + options.minutes * 60, console)
        faults = _compare(client, stage, batch, options.lines, console)
    for fault in faults:
        console.print(f"[red]{fault}", markup=True)
    console.print("every line is where it belongs, once" if not faults else f"{len(faults)} faults")
    return 1 if faults else 0


def _submit(client: OpenAI, path: Path) -> BatchReply:
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    return client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")


def _wait(client: OpenAI, batch: BatchReply, give_up_at: float, console: Console) -> BatchReply:
    cancelled = False
    started, last = time.monotonic(), 0.0
    while batch.status not in ENDED:
        time.sleep(POLL_SECONDS)
        batch = client.batches.retrieve(batch.id)
        if time.monotonic() - last > 60:
            last = time.monotonic()
            console.print(f"{last - started:6.0f} s  {batch.status}  {batch.request_counts}  {_eta(batch)}")
        if time.monotonic() > give_up_at and not cancelled:
            cancelled = True
            batch = client.batches.cancel(batch.id)
            console.print("the time is over: the rest is cancelled")
    console.print(f"{batch.status} after {time.monotonic() - started:.0f} s, {batch.request_counts}")
    return batch


def _eta(batch: BatchReply) -> str:
    extra = batch.model_extra or {}
    return f"eta {extra.get('eta_seconds')}, {extra.get('tokens_per_second')} tokens/s"


def _compare(client: OpenAI, stage: Stage, batch: BatchReply, num_lines: int, console: Console) -> list[str]:
    """Every row's text against the line that was downloaded, and every count against the rows."""
    lines = _downloaded(client, batch.output_file_id) | _downloaded(client, batch.error_file_id)
    counts: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    query = sa.select(Job.custom_id, Job.state, Job.seed, Generation.completion).outerjoin(Generation)
    with stage.store.engine.connect() as connection:
        for row in connection.execute(query.where(Job.batch_id == batch.id)):
            counts[row.state] += 1
            faults += _line_faults(row, lines.pop(row.custom_id, None))
    faults += [f"{custom_id}: in a file, but not a row" for custom_id in lines]
    if counts.total() != num_lines:
        faults.append(f"{counts.total()} rows for {num_lines} lines")
    told = batch.request_counts
    if told is None or (told.total, told.completed) != (num_lines, counts[JobState.SUCCEEDED]):
        faults.append(f"the batch says {told}, its rows {dict(counts)}")
    faults += stage.store.audit()
    console.print(f"rows by state: {dict(counts)}")
    return faults


def _downloaded(client: OpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    if file_id is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for text in client.files.content(file_id).text.splitlines():
        line = json.loads(text)
        if line["custom_id"] in found:
            raise RuntimeError(f"{line['custom_id']} is in {file_id} twice")
        found[line["custom_id"]] = line
    return found


def _line_faults(row: Any, line: dict[str, Any] | None) -> list[str]:
    if line is None:
        return [f"{row.custom_id}: {row.state}, and in no file"]
    if (line["error"] is None) != (row.state == JobState.SUCCEEDED):
        return [f"{row.custom_id}: {row.state}, and its line says otherwise"]
    if line["error"] is None and line["response"]["body"]["choices"][0]["message"]["content"] != row.completion:
        return [f"{row.custom_id}: another text in the file than in its row"]
    if line["penstock"]["seed"] != row.seed:
        return [f"{row.custom_id}: another seed in the file than in its row"]
    return []


if __name__ == "__main__":
    sys.exit(main())
