"""The words of `jobs.states` as tables: an enumeration's members with the sentences that stand under them there."""

from __future__ import annotations

import ast
import inspect
from enum import StrEnum

from jobs.states import TRANSITIONS, AttemptOutcome, FinishReason, JobState, Priority, ReplayResult
from ops.docs.markdown import code, table


def states() -> str:
    """A job's states, and where each may lead."""
    told = meanings(JobState)
    rows = [[code(state), told[state], ", ".join(code(to) for to in sorted(TRANSITIONS[state]))] for state in JobState]
    return table(["state", "meaning", "may become"], rows)


def outcomes() -> str:
    """How an attempt ends."""
    return _listed(AttemptOutcome, "outcome")


def priorities() -> str:
    """The queues."""
    return _listed(Priority, "priority")


def finish_reasons() -> str:
    """Why a text ended."""
    return _listed(FinishReason, "finish_reason")


def replay_results() -> str:
    """How a replay compares."""
    return _listed(ReplayResult, "result")


def _listed(words: type[StrEnum], title: str) -> str:
    return table([title, "meaning"], [[code(word), text] for word, text in meanings(words).items()])


def meanings(words: type[StrEnum]) -> dict[str, str]:
    """The sentence under each member; empty where there is none."""
    body = ast.parse(inspect.getsource(words)).body[0]
    assert isinstance(body, ast.ClassDef)
    found = dict.fromkeys(map(str, words), "")
    for statement, following in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(statement, ast.Assign) and isinstance(target := statement.targets[0], ast.Name):
            text = _text_of(following)
            found[str(words[target.id])] = text
    return found


def _text_of(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return node.value.value
    return ""
