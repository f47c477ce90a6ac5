"""The way of a file of prompts into a batch: opened, cut into lines, uploaded with a progress bar, started.

A file that cannot be read twice (standard input, a pipe) is copied to disk first, so that a broken connection can be
made good by sending it again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from cli import progress, screen
from cli.batch_lines import JOBS_URL, Columns, FileFormat, LineWriter, format_of, lines_of
from cli.client import Client, Json
from cli.errors import Interrupted, UsageError
from cli.transfer import upload

PROGRESS_LINES = 256
"""The bar moves once for so many lines."""


@dataclass(frozen=True)
class Source:
    """An open file of prompts. `name` is what it is called to a person."""

    file: IO[bytes]
    name: str
    kind: FileFormat
    columns: Columns

    @classmethod
    @contextlib.contextmanager
    def opened(cls, file: Path, kind: FileFormat | None, columns: Columns) -> Iterator[Self]:
        """Open a file; "-" is standard input. Raises UsageError."""
        kind = kind or format_of(file)
        if kind is not FileFormat.CSV and (columns.prompt is not None or columns.kept):
            raise UsageError("--column, --keep: only for CSV; say --format csv if it is.")
        if file.suffix.lower() == ".tsv":
            columns = Columns(columns.prompt, columns.kept, delimiter="\t")
        name = "standard input" if str(file) == "-" else file.name
        with contextlib.ExitStack() as stack:
            try:
                lines = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
                readable = lines if lines.seekable() and str(file) != "-" else stack.enter_context(_copied(lines))
            except OSError as error:
                raise UsageError(f"FILE: cannot read {file}: {error.strerror}.") from error
            yield cls(readable, name, kind, columns)

    @property
    def num_bytes(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def lines(self, writer: LineWriter) -> Iterator[bytes]:
        """What goes out, from the beginning."""
        return lines_of(self.file, self.name, self.kind, self.columns, writer)


@contextlib.contextmanager
def _copied(lines: IO[bytes]) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(lines, copy)
        yield copy


def send(client: Client, source: Source, writer: LineWriter, body: Mapping[str, Any], endpoint: str | None) -> Json:
    """Upload a file and start a batch of it. `body` holds what else the batch is to know. Returns the batch.

    Both steps carry keys of their own, so that a reply that was lost makes no second file and no second batch.
    """
    if all(line.isspace() or line == b"" for line in source.lines(writer)):
        raise UsageError(f"{source.name}: there is no line in it.")
    with progress.sending() as bars:
        task = bars.add_task("Sending", total=source.num_bytes)

        def read() -> Iterator[bytes]:
            for count, line in enumerate(source.lines(writer)):
                if count % PROGRESS_LINES == 0:
                    bars.update(task, completed=source.file.tell())
                yield line
            bars.update(task, completed=source.num_bytes)

        try:
            uploaded = upload(client, _filename(source), read)
        except KeyboardInterrupt:
            raise Interrupted("stopped while the file was sent; nothing was submitted.") from None
    endpoint = endpoint or _endpoint(writer)
    batch = client.create_batch({**body, "input_file_id": uploaded["id"], "endpoint": endpoint})
    if batch["status"] != "failed":  # then its errors are listed
        _warn(writer, endpoint, uploaded.get("lines") or {})
    return batch


def _filename(source: Source) -> str:
    return f"{Path(source.name).stem if source.name != 'standard input' else 'stdin'}.jsonl"


def _endpoint(writer: LineWriter) -> str:
    """What most lines are for."""
    return writer.urls.most_common(1)[0][0] if writer.urls else JOBS_URL


def _warn(writer: LineWriter, endpoint: str, lines: Mapping[str, int]) -> None:
    """Say what will not go as it may have been meant. `lines`: what the API counted."""
    if lines.get("invalid"):
        told = f"{lines['invalid']} of {lines['total']} lines cannot run: they will end in the error file."
        screen.err.print(told, markup=False)
    num_other = writer.urls.total() - writer.urls[endpoint]
    if num_other:
        screen.err.print(
            f"{num_other} lines are not for {endpoint}, the endpoint of this batch: they will end as errors.",
            markup=False,
        )
    if writer.num_untouched and (writer.given or writer.system is not None or writer.raw):
        screen.err.print(
            f"{writer.num_untouched} lines are OpenAI lines and went as they are: options for a generation are not "
            "in them.",
            markup=False,
        )
