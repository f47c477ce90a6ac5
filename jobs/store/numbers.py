"""An SQL expression that looks a row's number up in a JSON object: many rows get a number each in one statement.

One parameter, whatever the number of rows, so that the statement is prepared once. Knows no table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class number_of(FunctionElement[int]):  # noqa: N801
    """`number_of(numbers, key)`: the number that the JSON text `numbers` gives to `key`; null when it gives none."""

    type = sa.Integer()
    inherit_cache = True


@compiles(number_of, "sqlite")
def _in_sqlite(element: number_of, compiler: SQLCompiler, **options: Any) -> str:
    numbers, key = (compiler.process(clause, **options) for clause in element.clauses)
    return f"json_extract({numbers}, '$.' || {key})"


@compiles(number_of, "postgresql")
def _in_postgresql(element: number_of, compiler: SQLCompiler, **options: Any) -> str:
    numbers, key = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CAST(CAST({numbers} AS JSONB) ->> {key} AS INTEGER)"


def as_json(numbers: Mapping[str, int]) -> str:
    """The parameter for `numbers`. Keys are ids: letters, digits and underscores."""
    return json.dumps(numbers, separators=(",", ":"))
