"""Taking a batch's checked lines in: a chunk of them becomes rows in one short transaction, as near to a bare bulk
insert as can be.

Everything that needs no lock is made before (`prepare`): the rows as tuples in the order of `COLUMNS`, as the driver
takes them. SQLite gets one `executemany`, PostgreSQL one COPY. The batch remembers how far the checked file was read,
in the same transaction: killed at any point, the next call goes on where the last commit was.
"""

from __future__ import annotations

import json
import marshal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from jobs.checked import CheckedLine
from jobs.errors import InvalidRequest
from jobs.ids import new_id
from jobs.states import JobState, Priority
from jobs.store import ending, outbox
from jobs.store.counts import Deed
from jobs.store.scope import AnyRow, Scope
from jobs.tables import Batch, Job

CHUNK = 1000
"""Lines that one call should bring: on SQLite, other writers wait for about 50 ms then."""
NUM_SEEDS = 2**32 - 1
"""Seeds go from 0 to 4294967294."""

_LINE = (
    "id",
    "model",
    "prompt",
    "messages",
    "parameters",
    "seed",
    "num_prompt_tokens",
    "metadata",
    "custom_id",
    "line_number",
    "dispatch_order",
    "max_attempts",
    "deadline_at",
    "error",
)
_STATE = ("state", "ended_at", "owner", "priority", "batch_id", "attempt", "num_failures", "available_at", "created_at")
COLUMNS = (*_LINE, "end_number", *_STATE)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines ready to be stored. `able` can run; `unable` failed at birth. `start`: where the first began, in bytes."""

    start: int | None
    able: Sequence[Row]
    unable: Sequence[Row]


def prepare(scope: Scope, batch_id: str, lines: Sequence[CheckedLine]) -> Chunk:
    """Make the rows of these lines. Needs no lock: what it reads of the batch never changes."""
    batch = scope.connection.execute(
        sa.select(Batch.endpoint, Batch.model, Batch.expires_at).where(Batch.id == batch_id)
    ).one()
    maker = _RowMaker(scope, batch)
    able: list[Row] = []
    unable: list[Row] = []
    ids = sorted(new_id("job") for _ in lines)  # Sorted, so that the order of ids is the order of lines.
    for job_id, line in zip(ids, lines, strict=True):
        if line.job is not None and line.url == batch.endpoint:
            able.append(maker.able(job_id, line, line.job))
        else:
            unable.append(_unable(scope, job_id, line, batch))
    return Chunk(lines[0].start if lines else None, able, unable)


class _RowMaker:
    """Makes the rows of lines that can run. What is the same for all of them, or often, is made once."""

    def __init__(self, scope: Scope, batch: AnyRow) -> None:
        self._scope = scope
        self._expires_at = batch.expires_at
        self._deadline = _instant(scope, batch.expires_at)
        self._parameters_key = b""
        self._parameters_text = ""

    def able(self, job_id: str, line: CheckedLine, job: Mapping[str, Any]) -> Row:
        messages, seed, metadata = job.get("messages"), job.get("seed"), job.get("metadata")
        parameters = job["parameters"]
        key = marshal.dumps(parameters)  # Quick to make, and tells 1 from 1.0 and from true.
        if key != self._parameters_key:
            self._parameters_key, self._parameters_text = key, _encode(parameters)
        return (
            job_id,
            job["model"],
            job.get("prompt"),
            _encode(messages) if messages is not None else None,
            self._parameters_text,
            int(self._scope.random.random() * NUM_SEEDS) if seed is None else seed,
            job["num_prompt_tokens"],
            _encode(metadata) if metadata else "{}",
            line.custom_id,
            line.number,
            line.order,
            job.get("max_attempts") or self._scope.settings.max_attempts,
            self._deadline if job.get("deadline_seconds") is None else self._own_deadline(job["deadline_seconds"]),
            None,
        )

    def _own_deadline(self, seconds: float) -> Any:
        return _instant(self._scope, _sooner(self._scope.now, seconds, self._expires_at))


def _sooner(now: datetime, seconds: float, expires_at: datetime | None) -> datetime | None:
    """The line's own deadline, or the batch's, whichever comes first."""
    try:
        own = now + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return expires_at
    return own if expires_at is None else min(own, expires_at)


def _unable(scope: Scope, job_id: str, line: CheckedLine, batch: AnyRow) -> Row:
    """A job that failed at birth: it has no prompt, and no attempt of it is ever made."""
    found = line.error or {
        "code": "url_mismatch",
        "message": f"line {line.number}: url is {line.url}, the batch's endpoint is {batch.endpoint}",
        "param": "url",
    }
    error = {**found, "line": line.number, "retryable": False}
    return (
        job_id,
        batch.model or "",
        "",
        None,
        "{}",
        0,
        0,
        "{}",
        line.custom_id,
        line.number,
        line.number,
        scope.settings.max_attempts,
        None,
        _encode(error),
    )


def take_in(scope: Scope, batch_id: str, chunk: Chunk, next_byte: int, *, done: bool) -> bool:
    """Store a chunk. See `Store.take_in`."""
    scope.lock_batches([batch_id])
    batch = _batch(scope, batch_id)
    start = next_byte if chunk.start is None else chunk.start
    if batch.failed_at is not None or batch.taken_at is not None or batch.intake_byte != start:
        return False
    num_lines = len(chunk.able) + len(chunk.unable)
    num_taken = batch.num_taken + num_lines
    if num_taken > batch.num_total or (done and num_taken != batch.num_total):
        message = f"The checked file of {batch_id} has {num_taken} lines where {batch.num_total} were counted."
        raise InvalidRequest(message, param="input_file_id", code="lines_miscounted")
    state = _born(scope, batch)
    added = {JobState.FAILED: len(chunk.unable)}
    if state is not JobState.QUEUED:
        added[state] = len(chunk.able)
    others: dict[str, Any] = {"intake_byte": next_byte, "num_taken": num_taken}
    if done:
        others["taken_at"] = scope.now
    last = ending.tally(scope, batch_id, added, **others)
    numbers = iter(range(last - sum(added.values()) + 1, last + 1))
    rows = [
        *_rows(chunk.unable, numbers, _state(scope, batch_id, batch.owner, JobState.FAILED)),
        *_rows(chunk.able, None if state is JobState.QUEUED else numbers, _state(scope, batch_id, batch.owner, state)),
    ]
    if rows:
        _insert(scope, rows)
        scope.counts[Deed.ACCEPTED, Priority.BATCH] += len(rows)
        scope.counts.update({(Deed.ENDED, str(born)): number for born, number in added.items() if number})
        outbox.job_ended(scope, _born_ended(batch_id, chunk, state))
    return True


def _born_ended(batch_id: str, chunk: Chunk, state: JobState) -> Iterator[outbox.End]:
    for rows, born in ((chunk.unable, JobState.FAILED), (chunk.able, state)):
        yield from ((row[0], batch_id, born) for row in rows)


def _batch(scope: Scope, batch_id: str) -> AnyRow:
    columns = sa.select(
        Batch.owner,
        Batch.failed_at,
        Batch.taken_at,
        Batch.intake_byte,
        Batch.num_taken,
        Batch.num_total,
        Batch.cancel_requested_at,
        Batch.expires_at,
    )
    return scope.connection.execute(columns.where(Batch.id == batch_id)).one()


def _born(scope: Scope, batch: AnyRow) -> JobState:
    """Where the lines that can run begin: a batch that was cancelled or is over takes the rest in as ended."""
    if batch.cancel_requested_at is not None:
        return JobState.CANCELLED
    if batch.expires_at is not None and batch.expires_at <= scope.now:
        return JobState.EXPIRED
    return JobState.QUEUED


def _state(scope: Scope, batch_id: str, owner: str, state: JobState) -> Row:
    """The fields of `_STATE`."""
    now = _instant(scope, scope.now)
    ended_at = None if state is JobState.QUEUED else now
    return (str(state), ended_at, owner, str(Priority.BATCH), batch_id, 0, 0, now, now)


def _rows(rows: Sequence[Row], numbers: Iterator[int] | None, state: Row) -> Iterator[Row]:
    """Make the rows whole; `numbers` are those of their ends, if they are born as ended."""
    return ((*row, None if numbers is None else next(numbers), *state) for row in rows)


def _insert(scope: Scope, rows: Sequence[Row]) -> None:
    names = ", ".join(COLUMNS)
    if scope.connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(COLUMNS))
        scope.connection.exec_driver_sql(f"INSERT INTO jobs ({names}) VALUES ({marks})", list(rows))  # noqa: S608
        return
    _copy(scope, f"COPY jobs ({names}) FROM STDIN", rows)


def _copy(scope: Scope, statement: str, rows: Sequence[Row]) -> None:
    """SQLAlchemy knows no COPY, so the driver's own errors are turned into SQLAlchemy's here, as it would: whoever
    opened the transaction tells an outage from a rule by them, and leaves their text, which holds the row, out."""
    dialect = scope.connection.dialect
    driver: Any = scope.connection.connection.driver_connection
    errors: Any = dialect.loaded_dbapi.Error
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)
    except errors as error:
        gone = bool(driver.closed)
        raise DBAPIError.instance(
            statement, None, error, errors, hide_parameters=True, connection_invalidated=gone, dialect=dialect
        ) from None


def _instant(scope: Scope, instant: datetime | None) -> Any:
    """An instant as the driver takes it."""
    process = Job.created_at.type.dialect_impl(scope.connection.dialect).bind_processor(scope.connection.dialect)
    return instant if process is None else process(instant)
