"""A batch's results to a file or to standard output, and the sentence that says what was written and what was not.
Commands call it; what a result line holds is in `batch_results`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from cli import batch_results
from cli.batch_results import Order, ResultFormat, ResultLine
from cli.batch_words import BATCH_ENDED, total_of
from cli.client import Client, Json
from cli.errors import UsageError


class Tally:
    """How many lines were written, and where."""

    def __init__(self, output: Path | None, errors: Path | None) -> None:
        self.output, self.errors = output, errors
        self.num_good, self.num_bad = 0, 0

    def counted(self, lines: Iterator[ResultLine]) -> Iterator[ResultLine]:
        for line in lines:
            if line.succeeded:
                self.num_good += 1
            else:
                self.num_bad += 1
            yield line

    @property
    def is_clean(self) -> bool:
        return not self.num_bad

    def sentence(self, batch: Json) -> str:
        """What was written, what failed and where that is, what is still to come."""
        where = f" in {self.output}" if self.output else ""
        together = self.errors is None
        parts = [f"{self.num_good + (self.num_bad if together else 0)} results{where}"]
        if self.num_bad:
            place = "there, each with its `error`" if together else f"in {self.errors}"
            parts.append(f"{self.num_bad} of {total_of(batch)} lines did not succeed: they are {place}")
        if batch["status"] not in BATCH_ENDED:
            parts.append(f"the batch is {batch['status']}, so this is not all: {total_of(batch)} lines in the end")
        return "; ".join(parts)


def write_results(
    client: Client,
    batch: Json,
    output: Path | None,
    *,
    kind: ResultFormat | None = None,
    order: Order = Order.INPUT,
    errors: Path | None = None,
) -> Tally:
    """Write a batch's results. A file appears whole or not at all."""
    tally = Tally(output, errors)
    wanted = [(output, None)] if errors is None else [(output, True), (errors, False)]
    for target, succeeded in wanted:
        lines = tally.counted(batch_results.result_lines(client, batch, succeeded))
        ordered = batch_results.in_input_order(lines) if order is Order.INPUT else lines
        with result_file(target) as file:
            batch_results.write(ordered, kind or batch_results.format_of(target), file)
    return tally


def check_target(kind: ResultFormat, output: Path | None) -> None:
    """Raise UsageError, before anything is sent or fetched, where a table cannot be written."""
    if kind is not ResultFormat.PARQUET:
        return
    if output is None and sys.stdout.isatty():
        raise UsageError("--format parquet: say where with --output, or send it through a pipe.")
    batch_results.load_parquet()


@contextlib.contextmanager
def result_file(output: Path | None) -> Iterator[IO[bytes]]:
    """What to write to: standard output, or a file that appears whole or not at all."""
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
