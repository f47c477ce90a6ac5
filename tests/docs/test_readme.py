"""A newcomer's three tasks need only what the README's first screen says."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import pytest

from tests.docs.blocks import ROOT, blocks_of

SCREEN_LINES = 45
TASKS: dict[str, Sequence[str]] = {
    "run the demo": ["make demo"],
    "run a batch of 1,000 lines and fetch its results": ["penstock up", "penstock batch submit --wait -o"],
    "find why a job failed": ["penstock jobs list --state failed", "penstock status JOB_ID"],
}


def first_screen() -> list[list[str]]:
    """The words of each command that stands in the first lines."""
    blocks = [block for block in blocks_of(ROOT / "README.md") if block.line <= SCREEN_LINES]
    lines = "".join(block.text for block in blocks if block.language == "sh").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("task", TASKS)
def test_a_newcomers_task_needs_the_first_screen_only(task: str) -> None:
    named = first_screen()
    for needed in TASKS[task]:
        words = needed.split()
        assert any(set(words) <= set(line) for line in named), needed


def test_the_first_screen_shows_three_kinds_of_use_and_no_more() -> None:
    assert sum(line[:1] == ["penstock"] for line in first_screen()) <= 5


def test_the_commands_of_the_tasks_stand_before_the_first_heading() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    screen = text[: text.index("\n## ")]
    assert all(command in screen for command in ("make demo", "penstock batch submit", "penstock status"))
