"""Fenced blocks of a page, with what the comments above them say about how they are run.

    <!-- file: NAME -->          the block is written to this file
    <!-- exits: N -->            its command ends with this status (0)
    <!-- output -->              a `text` block: what the block before it prints, compared loosely
    <!-- background -->          runs on until the page ends; the next block waits until it says a line
    <!-- up -->                  `penstock up`, which the tests have started
    <!-- not run: WHY -->        cannot be run here; what it names is checked
    <!-- system: NAME -->        at the top of a page: which system it runs against

`JOB_ID`, `BATCH_ID` and `FILE_ID` in a command stand for the id that was printed last before it.

Knows the form only; who runs them is `tests.docs.running`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKS = frozenset({"file", "exits", "output", "background", "up", "not run"})
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (?P<name>[a-z][a-z ]*?)(?:: (?P<value>.+?))? -->")
_SYSTEM = re.compile(r"<!-- system: (?P<name>\w+) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block. `line`: where it begins in its page, from 1."""

    page: Path
    line: int
    language: str
    text: str
    marks: Mapping[str, str]

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether it is a command or a program that the tests run."""
        return self.language in {"sh", "python"} and not {"not run", "up", "file"} & set(self.marks)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    return list(_blocks(page, page.read_text(encoding="utf-8")))


def _blocks(page: Path, text: str) -> Iterator[Block]:
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 1
        indent = fence["indent"]
        lines = (each.removeprefix(indent) for each in fence["text"].splitlines(keepends=True))
        yield Block(page, line, fence["language"], "".join(lines), _marks(text[: fence.start()]))


def _marks(before: str) -> dict[str, str]:
    """Comments that stand right above, each on a line of its own."""
    found: dict[str, str] = {}
    for line in reversed(before.rstrip("\n").splitlines()):
        mark = _MARK.fullmatch(line.strip())
        if mark is None:
            return found
        found[mark["name"]] = mark["value"] or ""
    return found


def system_of(page: Path) -> str:
    """The system that a page runs against."""
    found = _SYSTEM.search(page.read_text(encoding="utf-8"))
    return found["name"] if found else "plain"


_LOOSE = re.compile(r"(?P<any>…)|(?P<space>\s+)|(?P<kind>\w+?[_-])[0-9a-f]{16,}|(?P<number>\d+(?:[.,:]\d+)*)")


def pattern_of(expected: str) -> re.Pattern[str]:
    """A line of output as a pattern: any id for an id, any number for a number, anything for `…`."""
    parts, end = [], 0
    text = expected.strip()
    for found in _LOOSE.finditer(text):
        parts += [re.escape(text[end : found.start()]), _loose(found)]
        end = found.end()
    return re.compile("".join(parts) + re.escape(text[end:]))


def _loose(found: re.Match[str]) -> str:
    if found["any"]:
        return ".*"
    if found["space"]:
        return r"\s+"
    return re.escape(found["kind"]) + "[0-9a-f]+" if found["kind"] else r"[\d.,:]+"


def missing_line(expected: str, printed: str) -> str | None:
    """The first line of `expected` that `printed` does not have, in this order."""
    lines = iter(printed.splitlines())
    for wanted in filter(str.strip, expected.splitlines()):
        pattern = pattern_of(wanted)
        if not any(pattern.search(line) for line in lines):
            return wanted
    return None
