"""What a migration may do: add. Judges one SQL statement; knows no migration by name."""

from __future__ import annotations

import re

_FREE = ("SELECT", "PRAGMA", "SET", "BEGIN", "UPDATE", "INSERT", "CREATE TABLE", "CREATE INDEX", "SHOW", "DROP SCHEMA")
_ADD_COLUMN = re.compile(r"ALTER TABLE (\w+) ADD COLUMN (\w+) (.*)", re.IGNORECASE)
_UNIQUE = re.compile(r"CREATE UNIQUE INDEX \w+ ON (\w+)", re.IGNORECASE)


def objection(sql: str, new_tables: set[str]) -> str | None:
    """Why older code may fail on the tables after this statement; None where it cannot. `new_tables` are those that the
    same migration made: no older code knows them."""
    text = " ".join(sql.split())
    if text.upper().startswith(_FREE):
        return None
    if found := _ADD_COLUMN.match(text):
        return _column(found[2], found[3])
    if found := _UNIQUE.match(text):
        table = found[1]
        return None if table in new_tables else f"a unique index on {table}, whose rows older code writes as well"
    return f"is no addition: {text[:80]}"


def _column(name: str, rest: str) -> str | None:
    words = rest.upper()
    if "NOT NULL" in words and "DEFAULT" not in words:
        return f"the column {name} must be given, and older code does not give it"
    check = re.search(r"CHECK \((.*)\)$", rest)
    if check and set(re.findall(r"\b[a-z]+_[a-z_]+\b", re.sub(r"'[^']*'", "", check[1]))) - {name}:
        return f"the check of {name} names other columns, which older code changes without it"
    return None
