"""Commands about batches: submit a file, watch it, fetch its results.

A file of any size goes through in bounded memory: it is read twice, once to check every line and once to send it in
chunks. Each chunk carries an idempotency key, so a chunk that is sent again makes no second job.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, Any
from uuid import uuid4

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cli import screen
from cli.batch_lines import LineError, numbered_jobs
from cli.client import Client, Json
from cli.connection import ApiKeyOption, ApiOption, JsonOption, connect
from cli.errors import CliError, UsageError
from cli.processes import SignalWatch

BATCH_ENDED = frozenset({"completed", "cancelled", "failed", "expired"})
MAX_CHUNK_JOBS = 500
MAX_CHUNK_BYTES = 4 * 1024 * 1024
MAX_FAULTS_SHOWN = 10
LOOK_SECONDS = 0.5

BatchId = Annotated[str, typer.Argument(metavar="ID", help="The id of a batch.")]
OutOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the results there, as JSONL.")
]

batch_app = typer.Typer(no_args_is_help=True, help="Submit a file of prompts, watch it, fetch its results.")


class BatchIncomplete(CliError):
    """A batch that was waited for ended with jobs that did not succeed."""


class Interrupted(CliError):
    """Somebody stopped waiting. The batch goes on."""

    exit_status = 130


class Rate(ProgressColumn):
    """Jobs a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


@batch_app.command("submit")
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help='JSONL; "-" reads standard input.')],
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, with a progress bar.")] = False,
    output: OutOption = None,
    as_json: JsonOption = False,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Submit every line of FILE as one batch and print its id.

    A line is a JSON string (a prompt), an object with `prompt` or `messages` and any parameters, or a line of an
    OpenAI batch. All lines are checked before any is sent.
    """
    if output is not None and not wait:
        raise UsageError("--output: only together with --wait; later, use `penstock batch results`.")
    with _opened(file) as lines, connect(api, api_key) as client:
        total = check_file(lines, str(file))
        lines.seek(0)
        batch_id = _upload(client, lines, total)
        if not wait and not as_json:
            print(batch_id)
            return
        batch = _wait(client, batch_id) if wait else client.batch(batch_id)
        _report(client, batch, output, as_json=as_json, waited=wait)


@batch_app.command("status")
def status(
    batch_id: BatchId, *, as_json: JsonOption = False, api: ApiOption = None, api_key: ApiKeyOption = None
) -> None:
    """Show how far a batch has come."""
    with connect(api, api_key) as client:
        batch = client.batch(batch_id)
    if as_json:
        screen.print_json(batch)
    else:
        print(summary(batch))


@batch_app.command("watch")
def watch(
    batch_id: BatchId, *, as_json: JsonOption = False, api: ApiOption = None, api_key: ApiKeyOption = None
) -> None:
    """Show a batch's progress until it ends."""
    with connect(api, api_key) as client:
        _report(client, _wait(client, batch_id), None, as_json=as_json, waited=True)


@batch_app.command("cancel")
def cancel(
    batch_id: BatchId, *, as_json: JsonOption = False, api: ApiOption = None, api_key: ApiKeyOption = None
) -> None:
    """Stop every job of a batch that has not ended. What text they have is kept."""
    with connect(api, api_key) as client:
        batch = client.cancel_batch(batch_id)
    if as_json:
        screen.print_json(batch)
    else:
        print(summary(batch))


@batch_app.command("results")
def results(
    batch_id: BatchId, *, output: OutOption = None, api: ApiOption = None, api_key: ApiKeyOption = None
) -> None:
    """Write one JSON line for each job, in the order of the file; one that has not ended has no text yet."""
    with connect(api, api_key) as client:
        client.batch(batch_id)
        num_lines = write_results(client, batch_id, output)
    if output is not None:
        screen.err.print(f"{num_lines} results in {output}", markup=False)


def check_file(lines: Iterable[bytes], name: str) -> int:
    """Number of jobs in a file; raises UsageError that names the lines at fault."""
    total, faults, num_faults = 0, list[LineError](), 0
    for _, job in numbered_jobs(lines):
        total += 1
        if isinstance(job, LineError):
            num_faults += 1
            faults += [job] if len(faults) < MAX_FAULTS_SHOWN else []
    if faults:
        more = [f"… and {num_faults - len(faults)} more"] if num_faults > len(faults) else []
        listed = "\n  ".join([*map(str, faults), *more])
        raise UsageError(f"{name}: {num_faults} of {total} lines cannot run; nothing was sent.\n  {listed}")
    if not total:
        raise UsageError(f"{name}: there is no line in it.")
    return total


def chunks(jobs: Iterable[Json]) -> Iterator[list[Json]]:
    """Group jobs so that no request is too large for the API."""
    chunk, size = list[Json](), 0
    for job in jobs:
        job_bytes = len(json.dumps(job))
        if chunk and (len(chunk) == MAX_CHUNK_JOBS or size + job_bytes > MAX_CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(job)
        size += job_bytes
    if chunk:
        yield chunk


def write_results(client: Client, batch_id: str, output: Path | None) -> int:
    """Write a batch's results in the order of its lines. A file appears whole or not at all."""
    with tempfile.TemporaryFile() as newest_first:
        starts = [0]
        for job in client.every_job(batch_id=batch_id):
            newest_first.write(json_line(result_line(job)))
            starts.append(newest_first.tell())
        with _result_file(output) as file:
            for start, end in reversed(list(itertools.pairwise(starts))):
                newest_first.seek(start)
                file.write(newest_first.read(end - start))
        return len(starts) - 1


def result_line(job: Json) -> Json:
    """What a result line holds of a job."""
    metadata = dict(job.get("metadata") or {})
    named = {"custom_id": metadata.pop("custom_id")} if "custom_id" in metadata else {}
    kept = ("state", "completion", "finish_reason", "seed", "usage", "recipe", "logprobs", "error")
    held = {name: job[name] for name in kept if job.get(name) is not None}
    return {"id": job["id"]} | named | held | ({"metadata": metadata} if metadata else {})


def json_line(value: Json) -> bytes:
    """One line of JSONL. Characters that many readers take for a line's end are escaped, as JSON allows."""
    text = json.dumps(value, ensure_ascii=False)
    for character in "\u0085\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode() + b"\n"


def summary(batch: Json) -> str:
    """One line about a batch."""
    counts = batch.get("counts") or {}
    states = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    return f"{batch['id']} {batch['status']}: {num_ended(batch)} of {total_of(batch)} ended ({states or 'nothing yet'})"


def total_of(batch: Json) -> int:
    return int(batch["request_counts"]["total"])


def num_ended(batch: Json) -> int:
    """Jobs of a batch that have ended, however they did."""
    counts = batch.get("counts")
    if counts:
        return sum(number for state, number in counts.items() if state not in {"queued", "running"})
    return int(batch["request_counts"]["completed"]) + int(batch["request_counts"]["failed"])


def _upload(client: Client, lines: IO[bytes], total: int) -> str:
    batch_id: str | None = None
    key = uuid4().hex
    jobs = (job for _, job in numbered_jobs(lines) if not isinstance(job, LineError))
    with _progress() as progress:
        task = progress.add_task("Sending", total=total)
        for number, chunk in enumerate(chunks(jobs)):
            reply = client.submit_many(chunk, batch_id=batch_id, idempotency_key=f"{key}-{number}")
            batch_id = batch_id or reply["batch_id"]
            progress.advance(task, len(chunk))
    if batch_id is None:
        raise UsageError("the file became empty while it was read.")
    return batch_id


def _wait(client: Client, batch_id: str) -> Json:
    """Look at a batch until it ends; ctrl-C stops looking and leaves the batch alone."""
    with _progress() as progress, SignalWatch() as signals:
        batch = client.batch(batch_id)
        task = progress.add_task("Generating", total=total_of(batch), completed=0)
        progress.update(task, completed=num_ended(batch))
        while batch["status"] not in BATCH_ENDED:
            signals.wait(LOOK_SECONDS)
            if signals.num_stops:
                raise Interrupted(f"no longer waiting; the batch goes on: `penstock batch watch {batch_id}`")
            batch = client.batch(batch_id)
            progress.update(task, completed=num_ended(batch), total=total_of(batch))
        return batch


def _report(client: Client, batch: Json, output: Path | None, *, as_json: bool, waited: bool) -> None:
    if output is not None:
        write_results(client, batch["id"], output)
    if as_json:
        screen.print_json(batch)
    else:
        print(summary(batch))
    succeeded = int(batch["request_counts"]["completed"])
    if waited and succeeded < total_of(batch):
        raise BatchIncomplete(
            f"{total_of(batch) - succeeded} of {total_of(batch)} jobs did not succeed: "
            f"`penstock batch results {batch['id']}` says why."
        )


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=screen.err)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """A file that can be read twice; standard input is copied to disk for it."""
    try:
        with tempfile.TemporaryFile() if str(file) == "-" else file.open("rb") as lines:
            if str(file) == "-":
                shutil.copyfileobj(sys.stdin.buffer, lines)
                lines.seek(0)
            elif not lines.seekable():
                raise UsageError(f'FILE: {file} cannot be read twice; use "-".')
            yield lines
    except OSError as error:
        raise UsageError(f"FILE: cannot read {file}: {error.strerror}.") from error


@contextlib.contextmanager
def _result_file(output: Path | None) -> Iterator[IO[Any]]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = output.with_name(f".{output.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    except OSError as error:
        raise UsageError(f"--output: cannot write {output}: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)
