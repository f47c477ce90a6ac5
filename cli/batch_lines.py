"""Prompts in a file to the lines of an OpenAI batch, one at a time, so that a file of any size needs no memory.

Three kinds of file:

    jsonl   a line of an OpenAI batch, sent as it is: {"custom_id", "method", "url", "body"}
            or a shorter form, which becomes one: a JSON string (a prompt, as one user message),
            or an object with `prompt` or `messages` and any parameters of `POST /v1/jobs`
    csv     a column holds the prompt; the column `custom_id` names the line, others may become its metadata
    text    a prompt a line

A line goes out under the number it has in an editor: what is no line (a header, the rest of a cell with line ends) goes
out blank. Whether a line can run is for the API to say, which names it by that number; a line that is no JSON goes out
unchanged. Refused here is only a file that cannot be cut into lines. Knows no network. No message repeats a line.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from cli.errors import UsageError
from cli.job_body import chat

Json = dict[str, Any]

MAX_LINE_BYTES = 8 * 1024 * 1024
"""As much as the API takes by default. A longer line of JSON goes out in pieces, for the API to refuse by number."""
JOBS_URL = "/v1/jobs"
COMPLETIONS_URL = "/v1/completions"
PROMPT_COLUMN = "prompt"
ID_COLUMN = "custom_id"
BLANK = b"\n"


class FileFormat(StrEnum):
    """What a file of prompts may be."""

    JSONL = "jsonl"
    CSV = "csv"
    TEXT = "text"


SUFFIXES: Mapping[str, FileFormat] = {".csv": FileFormat.CSV, ".tsv": FileFormat.CSV, ".txt": FileFormat.TEXT}


def format_of(file: Path) -> FileFormat:
    """A file's format by its name; JSONL where the name says nothing."""
    return SUFFIXES.get(file.suffix.lower(), FileFormat.JSONL)


@dataclass(frozen=True)
class Columns:
    """Which columns of a CSV file are read. `prompt` None: the one called so, or the only one there is."""

    prompt: str | None = None
    kept: Sequence[str] = ()
    delimiter: str = ","


@dataclass
class LineWriter:
    """Writes lines from prompts and shorter forms, and counts what goes out.

    `given` are fields of the body for every line that is not an OpenAI line already; a line's own win. `raw` sends a
    prompt as it is, control tokens parsed; otherwise it is one user message, after `system` if there is one.
    """

    url: str = JOBS_URL
    given: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None
    raw: bool = False
    num_lines: int = 0
    num_untouched: int = 0
    """OpenAI lines: what was typed for all lines does not reach them."""
    urls: Counter[str] = field(default_factory=Counter)

    def forget(self) -> None:
        """Start counting again: the file is read once more."""
        self.num_lines, self.num_untouched = 0, 0
        self.urls.clear()

    def from_prompt(
        self, number: int, prompt: str, custom_id: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> bytes:
        """The line of one prompt."""
        raw = self.raw or self.url == COMPLETIONS_URL
        body: Json = {"prompt": prompt} if raw else {"messages": chat(prompt, self.system)}
        return self._line(number, custom_id, body | ({"metadata": dict(metadata)} if metadata else {}))

    def from_json(self, number: int, line: bytes) -> bytes:
        """The line that a line of JSON becomes."""
        try:
            value: Any = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            return self._unchanged(line)
        if isinstance(value, str):
            return self.from_prompt(number, value)
        if not isinstance(value, dict):
            return self._unchanged(line)
        if "url" in value or "body" in value:
            return self._openai(number, line, value)
        if "prompt" in value or "messages" in value:
            custom_id = value.pop("custom_id", None)
            return self._line(number, custom_id, value)
        return self._unchanged(line)

    def _openai(self, number: int, line: bytes, value: Json) -> bytes:
        self.num_untouched += 1
        self.urls[str(value.get("url"))] += 1
        named = value.get("custom_id") is not None
        return self._unchanged(line if named else json_bytes(value | {"custom_id": f"line-{number}"}))

    def _line(self, number: int, custom_id: object, body: Json) -> bytes:
        self.urls[self.url] += 1
        named = f"line-{number}" if custom_id in (None, "") else custom_id
        value = {"custom_id": named, "method": "POST", "url": self.url, "body": {**self.given, **body}}
        return self._unchanged(json_bytes(value))

    def _unchanged(self, line: bytes) -> bytes:
        self.num_lines += 1
        return line if line.endswith(b"\n") else line + b"\n"


def json_bytes(value: Json) -> bytes:
    """One line of JSONL. A lone surrogate, which UTF-8 cannot hold, stays an escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


def lines_of(file: IO[bytes], name: str, kind: FileFormat, columns: Columns, writer: LineWriter) -> Iterator[bytes]:
    """Every line that goes out for `file`, from its beginning. Raises UsageError where it cannot be cut into lines."""
    file.seek(0)
    writer.forget()
    try:
        match kind:
            case FileFormat.JSONL:
                yield from _from_jsonl(file, writer)
            case FileFormat.TEXT:
                yield from _from_text(file, name, writer)
            case FileFormat.CSV:
                yield from _from_csv(file, name, columns, writer)
    except OSError as error:
        raise UsageError(f"FILE: cannot read {name}: {error.strerror}.") from error


def _from_jsonl(file: IO[bytes], writer: LineWriter) -> Iterator[bytes]:
    for number, line in _numbered(file):
        if not line.strip():
            yield BLANK
        elif _is_too_long(line):
            yield line
            yield from _rest_of_line(file)
            writer.num_lines += 1
        else:
            yield writer.from_json(number, line)


def _from_text(file: IO[bytes], name: str, writer: LineWriter) -> Iterator[bytes]:
    for number, line in _numbered(file):
        if _is_too_long(line):
            raise UsageError(f"{name}: line {number} is longer than {MAX_LINE_BYTES} bytes; nothing was submitted.")
        try:
            prompt = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UsageError(f"{name}: line {number} is not UTF-8 (byte {error.start}).") from error
        yield writer.from_prompt(number, prompt) if prompt.strip() else BLANK


def _numbered(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines by their number from 1. A byte order mark is no part of the first."""
    lines = iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
    for number, line in enumerate(lines, start=1):
        yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _is_too_long(line: bytes) -> bool:
    return len(line) > MAX_LINE_BYTES and not line.endswith(b"\n")


def _rest_of_line(file: IO[bytes]) -> Iterator[bytes]:
    for piece in iter(lambda: file.readline(MAX_LINE_BYTES), b""):
        yield piece
        if piece.endswith(b"\n"):
            return
    yield BLANK


def _from_csv(file: IO[bytes], name: str, columns: Columns, writer: LineWriter) -> Iterator[bytes]:
    csv.field_size_limit(MAX_LINE_BYTES)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader = csv.reader(text, delimiter=columns.delimiter, strict=True)
    try:
        yield from _from_records(reader, name, columns, writer)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 (after line {reader.line_num}).") from error
    except csv.Error as error:
        raise UsageError(f"{name}: line {reader.line_num} is not CSV ({error}).") from error
    finally:
        with contextlib.suppress(ValueError):  # the file is closed: a try was given up in the middle
            text.detach()


def _from_records(reader: Any, name: str, columns: Columns, writer: LineWriter) -> Iterator[bytes]:
    header = next(reader, None)
    if header is None:
        return
    read = _reading(header, name, columns)
    num_sent, last = 0, reader.line_num
    for record in reader:
        number, last = last + 1, reader.line_num
        if not record:
            continue
        if len(record) != len(header):
            raise UsageError(f"{name}: line {number} has {len(record)} fields, the header {len(header)}.")
        yield BLANK * (number - 1 - num_sent)
        num_sent = number
        prompt, custom_id, metadata = read(record)
        yield writer.from_prompt(number, prompt, custom_id, metadata)


Record = Sequence[str]


def _reading(
    header: Sequence[str], name: str, columns: Columns
) -> Callable[[Record], tuple[str, str | None, dict[str, str]]]:
    """How to read prompt, custom_id and metadata out of a record; raises UsageError for a column that is not there."""
    only = header[0] if len(header) == 1 else PROMPT_COLUMN
    prompt_at = _index(header, columns.prompt or only, name, "--column")
    kept = [(column, _index(header, column, name, "--keep")) for column in columns.kept]
    id_at = header.index(ID_COLUMN) if ID_COLUMN in header else None

    def read(record: Record) -> tuple[str, str | None, dict[str, str]]:
        metadata = {column: record[at] for column, at in kept}
        return record[prompt_at], None if id_at is None else record[id_at], metadata

    return read


def _index(header: Sequence[str], column: str, name: str, option: str) -> int:
    if column not in header:
        raise UsageError(f"{option}: {name} has no column {column!r}; it has {', '.join(header)}.")
    return header.index(column)
