"""Replays: what comparing a job with its replay says. Pure; knows no statement and no wire.

A job's text depends on prompt, parameters, seed and recipe. A replay has the first three from its original by
construction, so either the recipe differs, or the tokens must be the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from jobs.records import recipe_id
from jobs.states import ReplayResult


@dataclass(frozen=True, slots=True)
class Told:
    """A stored generation, as far as a comparison needs it."""

    completion: str
    completion_token_ids: Sequence[int]
    recipe: Mapping[str, Any]


def compare(original: Told, again: Told) -> dict[str, Any]:
    """`result`, and what differs: `fields` of the recipe as [original, replay], `first_difference` (index of a
    completion token), `tokens` there (null past an end) and both `texts`."""
    place = first_difference(original.completion_token_ids, again.completion_token_ids)
    fields = recipe_differences(original.recipe, again.recipe)
    if fields:
        return {"result": ReplayResult.RECIPE_DIFFERS, "tokens_match": place is None, "fields": fields}
    if place is None:
        return {"result": ReplayResult.MATCH}
    return {
        "result": ReplayResult.DIFFERS,
        "first_difference": place,
        "tokens": [_at(original.completion_token_ids, place), _at(again.completion_token_ids, place)],
        "texts": [original.completion, again.completion],
    }


def first_difference(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Index of the first token that is not the same in both; None if they are equal."""
    pairs = zip_longest(first, second, fillvalue=None)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), None)


def recipe_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The fields in which two recipes differ, with both values; empty for the same recipe."""
    if recipe_id(first) == recipe_id(second):
        return {}
    names = sorted({*first, *second})
    return {name: [first.get(name), second.get(name)] for name in names if first.get(name) != second.get(name)}


def _at(tokens: Sequence[int], place: int) -> int | None:
    return tokens[place] if place < len(tokens) else None
