"""Schemas as grammars: what they admit is what the schema says, and none can hold anybody up."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from ops.fuzz.schemas import BOMBS
from tests.support.models import VOCABULARY
from worker.engine.grammar import ModelGrammar
from worker.engine.schema_shapes import SchemaRefused
from worker.engine.schemas import grammar_of
from worker.engine.vocabulary import Vocabulary

TREE = {
    "$defs": {
        "tree_node": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 3}, "children": {"$ref": "#/$defs/tree_nodes"}},
            "required": ["name"],
            "additionalProperties": False,
        },
        "tree_nodes": {"type": "array", "items": {"$ref": "#/$defs/tree_node"}, "maxItems": 2},
    },
    "$ref": "#/$defs/tree_node",
}
SHAPE = {
    "anyOf": [
        {"type": "object", "properties": {"kind": {"const": kind}, "sides": {"type": "integer"}}, "required": ["kind"]}
        for kind in ("square", "circle")
    ]
}
GOOD: dict[str, dict[str, Any]] = {
    "an object": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}, "c": {"type": "null"}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "optional members": {
        "type": "object",
        "properties": {name: {"type": "boolean"} for name in "abcd"},
        "additionalProperties": False,
    },
    "members by any name": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "additionalProperties": {"type": "boolean"},
    },
    "a tree": TREE,
    "alternatives": SHAPE,
    "types": {"type": ["boolean", "null", "integer"]},
    "values": {"enum": ['quote " and \\ backslash', "line\nend", "é🏒", 7, -1.5, None, {"a": [1]}]},
    "a tuple": {"type": "array", "prefixItems": [{"type": "boolean"}, {"const": "x"}], "items": False},
    "counted items": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "no items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 0},
    "a length": {"type": "string", "minLength": 2, "maxLength": 5},
    "a date": {"type": "string", "pattern": "^[0-9]{4}-[01][0-9]$"},
    "a uuid": {"type": "string", "format": "uuid"},
    "parts": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "boolean"}}},
        ]
    },
    "one part": {"$defs": {"on": {"type": "boolean"}}, "allOf": [{"$ref": "#/$defs/on"}], "description": "x"},
}


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.from_gguf(Path(VOCABULARY))


def walked(vocabulary: Vocabulary, schema: dict[str, Any], seed: int, most: int = 120) -> str | None:
    """A text of the schema's grammar, its tokens drawn blindly among those that may come; None: it did not end."""
    grammar = ModelGrammar(vocabulary._vocab, np.arange(vocabulary.size), vocabulary.grammar(schema))
    dice = random.Random(seed)
    try:
        return b"".join(pieces(vocabulary, grammar, dice, most)).decode()
    except RuntimeError:
        return None
    finally:
        grammar.close()


def pieces(vocabulary: Vocabulary, grammar: ModelGrammar, dice: random.Random, most: int) -> Iterator[bytes]:
    for _ in range(most):
        logits = np.zeros(vocabulary.size, dtype=np.float32)
        grammar.mask(logits)
        allowed = np.flatnonzero(logits != -np.inf)
        assert len(allowed), "nothing may come"
        ends = [token for token in allowed if vocabulary.is_end(token)]
        if ends:
            return
        closing = [token for token in allowed if vocabulary.piece(token) in (b'"', b"}", b"]")]
        token = int(dice.choice(closing if closing and dice.random() < 0.3 else list(allowed)))
        grammar.accept(token)
        yield vocabulary.piece(token)
    raise RuntimeError("no end")


@pytest.mark.parametrize("name", sorted(GOOD))
def test_what_a_grammar_admits_is_what_the_schema_says(vocabulary: Vocabulary, name: str) -> None:
    texts = [walked(vocabulary, GOOD[name], seed) for seed in range(6)]
    ended = [text for text in texts if text is not None]
    assert ended
    for text in ended:
        jsonschema.validate(json.loads(text), GOOD[name])


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_a_hostile_schema_is_refused_or_harmless(vocabulary: Vocabulary, name: str) -> None:
    """Harmless: it has a grammar, and a hundred blind tokens of it come and go."""
    try:
        vocabulary.grammar(BOMBS[name]())
    except ValueError as refusal:
        assert "Traceback" not in str(refusal)  # noqa: PT017 -- either outcome is right
        return
    walked(vocabulary, BOMBS[name](), seed=1, most=100)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a long array", "maxItems must be a whole number from 0 to 2000"),
        ("an endless array", "minItems"),
        ("a negative length", "maxLength"),
        ("a remote reference", "point into the schema itself"),
        ("itself", "nothing between"),
        ("a reference that is none", "not a string"),
        ("not", "`not` is not served"),
        ("doubling ways", "begin alike"),
        ("doubling unions", "begin alike"),
        ("doubling members", "begin alike"),
        ("doubling parts", "more than 5000 schemas"),
        ("a chain", "nested deeper than 100"),
        ("many values", "longer than|begin alike"),
        ("a type that is none", "a type is none of"),
    ],
)
def test_a_refusal_says_what_there_is_too_much_of(name: str, why: str) -> None:
    with pytest.raises(SchemaRefused, match=why):
        grammar_of(BOMBS[name]())


def test_a_definition_that_alternatives_share_may_refer_to_itself_if_its_first_member_tells_them_apart() -> None:
    node = {"$ref": "#/$defs/node"}
    alternatives = [
        {"type": "object", "properties": {"op": {"const": op}, "left": node, "right": node}, "required": ["op"]}
        for op in ("plus", "minus", "times")
    ]
    assert grammar_of({"$defs": {"node": {"anyOf": [*alternatives, {"type": "number"}]}}, "$ref": "#/$defs/node"})
    nameless = [{**one, "required": []} for one in alternatives]
    with pytest.raises(SchemaRefused, match="begin alike"):
        grammar_of({"$defs": {"node": {"anyOf": [*nameless, {"type": "number"}]}}, "$ref": "#/$defs/node"})
