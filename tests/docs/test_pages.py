"""What every page must have before it is run: blocks that run or say why not, names that exist, links that lead on."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import MARKS, PAGES, ROOT, Block, blocks_of, missing_line, name_of
from tests.docs.commands import faults_of_command, faults_of_line, faults_of_variables

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
NOT_RUN = [block for block in BLOCKS if "not run" in block.marks]
MOST_NOT_RUN = 20
"""Each one more is a snippet that may rot: raise it only for what truly cannot run."""
_INLINE = re.compile(r"`(penstock [^`]+)`")
_LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)`: `(test_\w+)`")


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_run_or_says_why_not(block: Block) -> None:
    assert set(block.marks) <= MARKS, block.marks
    if block.language == "json" and "file" not in block.marks:
        json.loads(block.text)
        return
    assert block.runs or set(block.marks) & {"file", "output", "up"} or block.marks.get("not run"), block.text


def test_few_blocks_are_not_run() -> None:
    assert len(NOT_RUN) <= MOST_NOT_RUN


@pytest.mark.parametrize("block", [block for block in BLOCKS if {"not run", "up"} & set(block.marks)], ids=str)
def test_what_is_not_run_names_what_exists(block: Block) -> None:
    lines = block.text.replace("\\\n", " ").splitlines()
    assert [*faults_of_variables(block.text), *(fault for line in lines for fault in faults_of_line(line))] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_settings_in_the_text_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [*faults_of_variables(text), *_faults_of_inline(text)] == []


def _faults_of_inline(text: str) -> Iterator[str]:
    for command in _INLINE.findall(" ".join(text.split())):
        words = [word.strip('"') for word in command.split()[1:]]
        if words and words[0] != "COMMAND":
            yield from faults_of_command(words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_into_the_repository_leads_somewhere(page: Path) -> None:
    targets = _LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_is_in_the_navigation_and_only_those() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert set(_leaves(nav)) == pages


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
        return
    for item in nav.values() if isinstance(nav, dict) else nav:
        yield from _leaves(item)


def test_every_test_that_a_promise_names_exists() -> None:
    named = _TEST.findall((ROOT / "docs/why/promises.md").read_text(encoding="utf-8"))
    assert len(named) > 15
    missing = [(file, name) for file, name in named if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")]
    assert missing == []


def test_a_command_or_an_option_that_is_not_there_is_found() -> None:
    assert list(faults_of_line("penstock bacth list")) == ["penstock has no command bacth"]
    assert list(faults_of_line("penstock up --slot 3")) == ["penstock up has no option --slot"]
    assert list(faults_of_line("make supper")) == ["make has no target supper"]
    assert list(faults_of_line("docker compose up --scale wroker=2")) == ["docker-compose.yml has no service wroker=2"]
    assert list(faults_of_variables("PENSTOCK_SLOT=3")) == ["no setting is called PENSTOCK_SLOT"]


@pytest.mark.parametrize(
    ("expected", "printed", "missing"),
    [
        ("1000 results", "7 results", None),
        ("job_0199c2a4a1b27e0f9d3c5b6a79881234 failed", "x job_ffffffffffffffffffffffffffffffff   failed", None),
        ("a … c\nd", "a b c\nzz\n d", None),
        ("one\ntwo", "two\none", "two"),
        ("it (failed)", "it failed", "it (failed)"),
    ],
)
def test_output_is_compared_loosely_but_in_order(expected: str, printed: str, missing: str | None) -> None:
    assert missing_line(expected, printed) == missing
