"""Bodies that differ only in what they ask: read once, and then recognised.

The lines of a batch tend to have the same knobs, and reading those costs more than all else but counting tokens. What
is remembered is the draft that a body made, without its text and its seed; a line with the same rest and a plain text
is that draft again. Whatever is not plain is read in full, so the outcome is the same either way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from api.fitting import KNOBS, Draft
from jobs.parameters import MAX_SEED

MAX_PATTERNS = 256
MAX_PATTERN_BYTES = 16 * 1024
"""A body with more than so much beside its text is read in full each time: what is remembered must stay small."""
_TEXTS = ("messages", "prompt")
_ROLES = frozenset({"system", "user", "assistant"})

Body = dict[str, Any]


class FamiliarBodies:
    """Reads bodies through `read(url, body)`, which raises for a wrong one. For one thread."""

    def __init__(self, read: Callable[[str, Body], Draft]) -> None:
        self._read = read
        self._patterns: OrderedDict[tuple[str, str, bytes], Draft] = OrderedDict()

    def draft(self, url: str, body: Body) -> Draft:
        """The draft that `read` makes of the body. Raises what `read` raises."""
        name = next((name for name in _TEXTS if name in body), "")
        if not _is_plain(name, body):
            return self._read(url, body)
        rest = {field: value for field, value in body.items() if field not in (name, "seed")}
        key = (url, name, orjson.dumps(rest))
        pattern = self._patterns.get(key)
        if pattern is None:
            draft = self._read(url, body)
            self._remember(key, draft)
            return draft
        self._patterns.move_to_end(key)
        # By hand: `dataclasses.replace` takes as long as all the rest of this.
        return Draft(
            parameters=pattern.parameters,
            prompt=body.get("prompt"),
            messages=body.get("messages"),
            model=pattern.model,
            seed=body.get("seed"),
            knobs=pattern.knobs,
            fills_context=pattern.fills_context,
            deadline_seconds=pattern.deadline_seconds,
            max_attempts=pattern.max_attempts,
            under=pattern.under,
            names=pattern.names,
        )

    def _remember(self, key: tuple[str, str, bytes], draft: Draft) -> None:
        if len(key[2]) > MAX_PATTERN_BYTES:
            return
        parameters = draft.parameters.model_copy(update={"seed": None})
        knobs = parameters.model_dump(mode="json", include=KNOBS)
        self._patterns[key] = replace(draft, prompt=None, messages=None, parameters=parameters, knobs=knobs)
        if len(self._patterns) > MAX_PATTERNS:
            self._patterns.popitem(last=False)


def _is_plain(name: str, body: Body) -> bool:
    """Whether the text needs no look but this one, for any url, and the rest is worth remembering."""
    if "metadata" in body or not _is_plain_seed(body.get("seed")):
        return False
    text = body.get(name)
    if name == "prompt":
        return isinstance(text, str) and bool(text)
    return isinstance(text, list) and bool(text) and all(map(_is_plain_message, text)) and text[-1]["role"] == "user"


def _is_plain_seed(seed: object) -> bool:
    return seed is None or (type(seed) is int and 0 <= seed <= MAX_SEED)


def _is_plain_message(message: object) -> bool:
    if not isinstance(message, dict) or len(message) != 2:
        return False
    content, role = message.get("content"), message.get("role")
    return isinstance(content, str) and bool(content) and isinstance(role, str) and role in _ROLES
