"""Pieces of Markdown: tables and headings. Knows nothing of what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what would end a cell is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"


def cell(text: str) -> str:
    """Text on one line, with bars that are no borders."""
    return " ".join(text.split()).replace("|", "\\|")


def code(value: object) -> str:
    """A value in monospace; nothing for an empty one."""
    text = str(value)
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}" if text else ""


def anchor(heading: str) -> str:
    """The fragment under which the site knows a heading."""
    kept = "".join(sign for sign in heading.lower() if sign.isalnum() or sign in " -_")
    return "-".join(kept.split())
