"""A batch's results out of its two files, output and errors: one line for each of its lines, in the order of the input
or of the ends, as JSONL, CSV or Parquet. In bounded memory for any size: ordering is done on disk.

A result line is the API's own, OpenAI's shape with what Penstock adds under `penstock`. A batch that was not made from
a file has no files; its jobs are read page by page and written as the same lines.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from cli.client import Client, Json
from cli.errors import UsageError
from cli.transfer import download, whole_lines

ROWS_AT_ONCE = 4096
UNNUMBERED = 2**48
"""Lines that do not say where they stood in the input come after those that do, as they ended."""
COLUMNS: Mapping[str, str] = {
    "custom_id": "string",
    "line": "int64",
    "state": "string",
    "completion": "string",
    "finish_reason": "string",
    "seed": "int64",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "attempt": "int64",
    "worker": "string",
    "recipe": "string",
    "error_code": "string",
    "error_message": "string",
}
"""Columns of a table of results, and their Arrow types."""


class ResultFormat(StrEnum):
    """How results are written."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


class Order(StrEnum):
    """`completion`: as the lines ended, those that succeeded first."""

    INPUT = "input"
    COMPLETION = "completion"


def format_of(output: Path | None) -> ResultFormat:
    """A format by the name of the file to write; JSONL where it says nothing."""
    by_suffix = {".csv": ResultFormat.CSV, ".parquet": ResultFormat.PARQUET, ".pq": ResultFormat.PARQUET}
    return by_suffix.get(output.suffix.lower(), ResultFormat.JSONL) if output else ResultFormat.JSONL


@dataclass(frozen=True, slots=True)
class ResultLine:
    """One line of JSONL, its end included, and whether its job succeeded."""

    data: bytes
    succeeded: bool


def result_lines(client: Client, batch: Json, wanted: bool | None = None) -> Iterator[ResultLine]:
    """What the batch has so far: lines that succeeded, then the others, each as they ended. `wanted` True or False
    leaves the others, or those that succeeded, out."""
    if batch.get("input_file_id") is None:
        yield from (line for line in _from_jobs(client, batch) if wanted in (None, line.succeeded))
        return
    for name, succeeded in (("output_file_id", True), ("error_file_id", False)):
        if wanted in (None, succeeded) and batch.get(name):
            for line in whole_lines(download(client, batch[name])):
                yield ResultLine(line, succeeded)


def _from_jobs(client: Client, batch: Json) -> Iterator[ResultLine]:
    """Lines of a batch that has no files. The list is newest first: its numbers are counted back."""
    for back, job in enumerate(client.every_job(batch_id=batch["id"])):
        if job["state"] not in {"queued", "running"}:
            line = job.get("line") or batch["request_counts"]["total"] - back
            yield ResultLine(json_line(_line_of_job(job, line)), job["state"] == "succeeded")


def _line_of_job(job: Json, line: int) -> Json:
    succeeded = job["state"] == "succeeded"
    error = job.get("error") or {"code": f"batch_{job['state']}", "message": f"The job ended {job['state']}."}
    return {
        "id": job["id"],
        "custom_id": (job.get("metadata") or {}).get("custom_id"),
        "response": {"status_code": 200, "request_id": job["id"], "body": job} if succeeded else None,
        "error": None if succeeded else error,
        "penstock": {"job_id": job["id"], "line": line, "state": job["state"], "seed": job.get("seed")}
        | {"recipe": job.get("recipe"), "completion": job.get("completion"), "usage": job.get("usage")},
    }


def json_line(value: Json) -> bytes:
    """One line of JSONL. Characters that many readers take for a line's end are escaped, as JSON allows."""
    text = json.dumps(value, ensure_ascii=False)
    for character in "\u0085\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace") + b"\n"


def in_input_order(lines: Iterable[ResultLine]) -> Iterator[ResultLine]:
    """The same lines by their place in the input. A line that is met twice, because it was run again, counts once:
    as succeeded if it ever did."""
    with tempfile.TemporaryFile() as spool, contextlib.closing(sqlite3.connect("")) as index:  # "": a table on disk
        index.execute("CREATE TABLE lines (number INTEGER PRIMARY KEY, start INTEGER, size INTEGER, succeeded INTEGER)")
        index.executemany("INSERT OR IGNORE INTO lines VALUES (?, ?, ?, ?)", _spooled(lines, spool))
        rows = index.execute("SELECT start, size, succeeded FROM lines ORDER BY number")
        for start, size, succeeded in rows:
            spool.seek(start)
            yield ResultLine(spool.read(size), bool(succeeded))


def _spooled(lines: Iterable[ResultLine], spool: IO[bytes]) -> Iterator[tuple[int, int, int, bool]]:
    start = 0
    for count, line in enumerate(lines):
        number = (_object(line.data).get("penstock") or {}).get("line")
        spool.write(line.data)
        yield number if number is not None else UNNUMBERED + count, start, len(line.data), line.succeeded
        start += len(line.data)


def _object(data: bytes) -> Json:
    value = json.loads(data)
    return value if isinstance(value, dict) else {}


def row(line: ResultLine) -> tuple[Any, ...]:
    """A line as values of COLUMNS, whichever endpoint it was for."""
    value = _object(line.data)
    ours: Json = value.get("penstock") or {}
    response: Json = value.get("response") or {}
    body: Json = response.get("body") or {}
    choice: Json = (body.get("choices") or [{}])[0]
    usage: Json = body.get("usage") or ours.get("usage") or {}
    error: Json = value.get("error") or body.get("error") or {}
    text = (choice.get("message") or {}).get("content")
    completion = next(
        (given for given in (text, choice.get("text"), body.get("completion")) if given is not None), None
    )
    values = (
        value.get("custom_id"),
        ours.get("line"),
        ours.get("state") or ("succeeded" if line.succeeded else "failed"),
        completion if completion is not None else ours.get("completion"),
        choice.get("finish_reason") or body.get("finish_reason"),
        _first(ours.get("seed"), body.get("seed")),
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        _first(ours.get("attempt"), _attempt(body.get("attempts"))),
        ours.get("worker"),
        _first(ours.get("recipe"), body.get("recipe")),
        error.get("code"),
        error.get("message"),
    )
    return tuple(_storable(value) if isinstance(value, str) else value for value in values)


def _storable(text: str) -> str:
    """JSON can escape half of a surrogate pair, which no table can hold."""
    return text.encode("utf-8", "replace").decode()


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _attempt(attempts: Any) -> int | None:
    """A job object lists its attempts; the last one made the text."""
    return len(attempts) if isinstance(attempts, list) else None


def write(lines: Iterable[ResultLine], kind: ResultFormat, file: IO[bytes]) -> None:
    """Write all lines in one format."""
    match kind:
        case ResultFormat.JSONL:
            file.writelines(line.data for line in lines)
        case ResultFormat.CSV:
            _write_csv(lines, file)
        case ResultFormat.PARQUET:
            _write_parquet(lines, file)


def _write_csv(lines: Iterable[ResultLine], file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    try:
        writer.writerow(COLUMNS)
        writer.writerows(row(line) for line in lines)
    finally:
        text.detach()


def _write_parquet(lines: Iterable[ResultLine], file: IO[bytes]) -> None:
    arrow, parquet = load_parquet()
    schema = arrow.schema([(name, getattr(arrow, kind)()) for name, kind in COLUMNS.items()])
    rows = (row(line) for line in lines)
    with parquet.ParquetWriter(file, schema) as writer:
        while chunk := list(itertools.islice(rows, ROWS_AT_ONCE)):
            columns = zip(zip(*chunk, strict=True), schema, strict=True)
            arrays = [arrow.array(column, type=field.type) for column, field in columns]
            writer.write_batch(arrow.record_batch(arrays, schema=schema))


def load_parquet() -> tuple[Any, Any]:
    """pyarrow and its Parquet part, which are an extra; raises UsageError with the way to get them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError("--format parquet: pyarrow is not installed; `pip install 'penstock[parquet]'`.") from error
    return pyarrow, pyarrow.parquet
