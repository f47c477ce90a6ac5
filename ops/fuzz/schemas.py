"""JSON schemas that would take more time or memory than there is, each a few hundred bytes or a few thousand parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

Schema = dict[str, Any]

_NAMED: Mapping[str, Schema] = {
    "a long array": {"type": "array", "items": {"type": "string"}, "maxItems": 60_000},
    "an endless array": {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
    "a long string": {"type": "string", "minLength": 10**12},
    "a negative length": {"type": "string", "maxLength": -1},
    "a length that is none": {"type": "string", "maxLength": "x"},
    "an infinite type": {"type": ["string"] * 2000},
    "no alternatives": {"anyOf": []},
    "a remote reference": {"$ref": "https://example.com/schema.json"},
    "a file": {"$ref": "file:///etc/passwd"},
    "itself": {"$ref": "#"},
    "itself in a union": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
    "a reference that is none": {"$ref": {"a": 1}},
    "a name of the grammar": {"type": "object", "properties": {'root ::= "x"\nroot': {"type": "string"}}},
    "quotes and backslashes": {"enum": ['"\\', "\\n", "\n", '" | [^a] "', "\\x41", "]"]},
    "not": {"not": {"type": "string"}},
    "false": {"type": "object", "properties": {"a": False}},
    "a type that is none": {"type": "strange"},
}
_PATTERNS: Mapping[str, str] = {
    "repeats in repeats": "^((((a?){1,20}b?){1,20}c?){1,20}d?){1,20}$",
    "many optional letters": "^" + "[a-z]?" * 84 + "$",
    "an old friend": "^(a+)+$",
    "an older friend": "^(a|aa)+$",
    "a count": "^a{1000000000}$",
    "two to the many": "^(a|b)*a(a|b){300}$",
    "nothing, often": "^((((()*)*)*)*){2000}$",
    "a look ahead": "^(?=.*a)(?=.*b)$",
    "a reference back": "^(a*)\\1$",
    "half a class": "^[a-",
    "a lone backslash": "^\\",
    "parentheses": "(" * 400,
    "an injection": '^" | root | "$',
    "a NUL": "^\\x00$",
    "nothing at all": "^[^\\s\\S]$",
}


def _patterned(pattern: str) -> Callable[[], Schema]:
    return lambda: {"type": "string", "pattern": pattern}


def _copied(schema: Schema) -> Callable[[], Schema]:
    return lambda: dict(schema)


def _doubling_definitions() -> Schema:
    """Two references each, forty deep: a million million paths through a few lines."""
    names = [f"a {index}" for index in range(40)]
    definitions: Schema = {names[-1]: {"type": "string"}}
    for name, after in pairwise(names):
        after_ref = {"$ref": f"#/$defs/{after}"}
        definitions[name] = {"type": "object", "properties": {"x": after_ref, "y": after_ref}}
    return {"$defs": definitions, "type": "object", "properties": {"root": {"$ref": "#/$defs/a 0"}}}


def _doubling_ways() -> Schema:
    """Every bracket doubles the ways that are open."""
    item = {"type": "array", "items": {"$ref": "#/$defs/x"}}
    return {"$defs": {"x": {"anyOf": [item, item]}}, "type": "array", "items": {"$ref": "#/$defs/x"}}


def _doubling_unions() -> Schema:
    definitions: Schema = {"a30": {"type": "string"}}
    for index in range(30):
        reference = {"$ref": f"#/$defs/a{index + 1}"}
        definitions[f"a{index}"] = {"anyOf": [reference, reference]}
    return {"$defs": definitions, "type": "array", "items": {"$ref": "#/$defs/a0"}}


def _doubling_members() -> Schema:
    """A name that may be a member's own or any."""
    node = {"$ref": "#/$defs/x"}
    definition = {"type": "object", "properties": {"a": node}, "additionalProperties": node}
    return {"$defs": {"x": definition}, "type": "array", "items": node}


def _doubling_parts() -> Schema:
    definitions: Schema = {"a30": {"type": "object", "properties": {"x": {"type": "string"}}}}
    for index in range(30):
        reference = {"$ref": f"#/$defs/a{index + 1}"}
        definitions[f"a{index}"] = {"allOf": [reference, reference]}
    return {"$defs": definitions, "allOf": [{"$ref": "#/$defs/a0"}]}


def _a_chain() -> Schema:
    """Longer than any stack."""
    definitions: Schema = {"a1000": {"type": "string"}}
    for index in range(1000):
        definitions[f"a{index}"] = {"type": "array", "items": {"$ref": f"#/$defs/a{index + 1}"}}
    return {"$defs": definitions, "type": "array", "items": {"$ref": "#/$defs/a0"}}


def _many_members() -> Schema:
    return {"type": "object", "properties": {f"p{index}": {"type": "string"} for index in range(4_000)}}


def _many_values() -> Schema:
    return {"enum": [f"value {index}" for index in range(20_000)]}


def _long_names() -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(20):
        schema = {
            "type": "array",
            "minItems": 1500,
            "maxItems": 1500,
            "items": {"type": "object", "properties": {"n" * 2000: schema}},
        }
    return schema


def _many_patterns() -> Schema:
    return {"type": "object", "properties": {f"p{n}": {"pattern": f"^.*a.{{{n}}}$"} for n in range(1, 60)}}


BOMBS: Mapping[str, Callable[[], Schema]] = {
    **{name: _copied(schema) for name, schema in _NAMED.items()},
    **{f"pattern: {name}": _patterned(pattern) for name, pattern in _PATTERNS.items()},
    "doubling definitions": _doubling_definitions,
    "doubling ways": _doubling_ways,
    "doubling unions": _doubling_unions,
    "doubling members": _doubling_members,
    "doubling parts": _doubling_parts,
    "a chain": _a_chain,
    "many members": _many_members,
    "many values": _many_values,
    "long names": _long_names,
    "many patterns": _many_patterns,
}
