"""Tables as they are in a database, and their rows as lines of JSON and back.

The tables are read from the database itself, not from the code: a backup of any revision can be made and taken back.
Owns what a value looks like in a line: instants are ISO 8601 in UTC, bytes are base64, all else is JSON's own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection

from jobs.tables import JSON, Instant

VERSION_TABLE = "alembic_version"
NOT_KEPT = frozenset({VERSION_TABLE, "offices", "workers"})
"""The revision is in the manifest. Who leads and who lives is true for the moment only."""
CHUNK = 1000

Convert = Callable[[Any], Any]


def read_tables(connection: Connection) -> list[sa.Table]:
    """Every table with rows to keep; one that refers to another follows it."""
    metadata = sa.MetaData()
    event.listen(metadata, "column_reflect", _as_ours)
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name not in NOT_KEPT]


def _as_ours(_inspector: object, _table: sa.Table, column: Any) -> None:
    """Both databases tell their own types of these; ours read and write the same values on both."""
    if isinstance(column["type"], sa.JSON):
        column["type"] = JSON
    elif isinstance(column["type"], sa.DateTime):
        column["type"] = Instant()


def revision(connection: Connection) -> str | None:
    """Which revision the tables have; None without any."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608
    return found


def dump(connection: Connection, table: sa.Table) -> Iterator[bytes]:
    """The rows of a table, a line each, a chunk in memory at a time."""
    to_json = [_to_json(column) for column in table.columns]
    result = connection.execution_options(stream_results=True, yield_per=CHUNK).execute(sa.select(table))
    for rows in result.partitions():
        for row in rows:
            values = [None if value is None else convert(value) for convert, value in zip(to_json, row, strict=True)]
            yield json.dumps(values, separators=(",", ":")).encode() + b"\n"


def load(connection: Connection, table: sa.Table, columns: list[str], lines: Iterator[bytes]) -> int:
    """Insert the rows of these lines; how many there were. A column that the table lacks is an error (KeyError)."""
    from_json = [(name, _from_json(table.columns[name])) for name in columns]
    num_rows = 0
    chunk: list[dict[str, Any]] = []
    for line in lines:
        values = json.loads(line)
        chunk.append(
            {
                name: None if value is None else convert(value)
                for (name, convert), value in zip(from_json, values, strict=True)
            }
        )
        if len(chunk) == CHUNK:
            connection.execute(sa.insert(table), chunk)
            num_rows += len(chunk)
            chunk = []
    if chunk:
        connection.execute(sa.insert(table), chunk)
    return num_rows + len(chunk)


def _to_json(column: sa.Column[Any]) -> Convert:
    if isinstance(column.type, Instant):
        return datetime.isoformat
    if isinstance(column.type, sa.LargeBinary):
        return lambda value: base64.b64encode(value).decode()
    return _as_it_is


def _from_json(column: sa.Column[Any]) -> Convert:
    if isinstance(column.type, Instant):
        return datetime.fromisoformat
    if isinstance(column.type, sa.LargeBinary):
        return base64.b64decode
    return _as_it_is


def _as_it_is(value: Any) -> Any:
    return value
