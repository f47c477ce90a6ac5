"""JSON schemas as tables of fields: type, limits, default, meaning. Knows JSON schema as pydantic writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ops.docs.markdown import anchor, code, table

Schema = Mapping[str, Any]

_LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "maxProperties": "at most {} pairs",
}


def fields_table(schema: Schema, *, names: str = "field", links: bool = True) -> str:
    """The fields of an object."""
    required = set(schema.get("required", ()))
    rows = [
        [code(name), kind(field, links=links), _default(field, needed=name in required), described(field)]
        for name, field in schema.get("properties", {}).items()
    ]
    return table([names, "type", "default", "meaning"], rows)


def described(field: Schema) -> str:
    """What the field means."""
    return str(field.get("description", ""))


def kind(field: Schema, *, links: bool = True) -> str:
    """The type of a value and its limits."""
    return " or ".join(dict.fromkeys(_kinds(field, links))) or "any"


def _kinds(field: Schema, links: bool) -> Iterator[str]:
    if "$ref" in field:
        name = str(field["$ref"]).rpartition("/")[2]
        yield f"[{name}](#{anchor(name)})" if links else name
    elif "const" in field:
        yield code(json.dumps(field["const"]))
    elif "enum" in field:
        yield ", ".join(code(value) for value in field["enum"])
    elif field.get("type") == "array":
        yield f"list of {kind(field.get('items', {}), links=links)}" + _limits(field)
    elif "type" in field:
        yield str(field["type"]) + _limits(field)
    for option in [*field.get("anyOf", ()), *field.get("oneOf", ()), *field.get("allOf", ())]:
        yield from _kinds(option, links)


def _limits(field: Schema) -> str:
    limits = [text.format(_number(field[name])) for name, text in _LIMITS.items() if name in field]
    return f" ({', '.join(limits)})" if limits else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 10_000 else f"{value:g}"


def _default(field: Schema, *, needed: bool) -> str:
    if needed:
        return "required"
    if "default" not in field:
        return ""
    return code(json.dumps(field["default"], ensure_ascii=False))
