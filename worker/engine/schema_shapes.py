"""What a JSON schema comes to, as a small graph of shapes: references resolved, each definition once.

The half of JSON schema that a grammar can keep. What it cannot keep without changing which texts are right (`not`, an
unknown type) is refused; limits on numbers are not kept, as in llama.cpp's own converter. Sizes are bounded here; how
many ways lie open at once is bounded in `worker.engine.schemas`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_SCHEMA_CHARACTERS = 64 * 1024
MAX_SHAPES = 5_000
"""Schemas within schemas, each reference counted once."""
MAX_NESTING = 100
MAX_REPEATS = 2_000
"""The largest `minItems`, `maxItems`, `minLength` and `maxLength`."""
MAX_REPEATS_IN_ALL = 10_000

_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_UUID = re.compile("uuid[1-5]?")
_FORMATS = ("date", "time", "date-time")


class SchemaRefused(ValueError):
    """A schema that is wrong, too large, or asks for what is not served. Its text repeats nothing of the schema."""


@dataclass(slots=True)
class Plain:
    """A value by the name of its rule: `string`, `value`, `uuid`, …"""

    rule: str


@dataclass(slots=True)
class Exactly:
    """One of these values, as JSON."""

    texts: Sequence[str]


@dataclass(slots=True)
class Text:
    """A string by its length; `most` None: any."""

    least: int
    most: int | None


@dataclass(slots=True)
class Matching:
    """A string in which a pattern is found."""

    pattern: str


@dataclass(slots=True)
class AnyOf:
    """One of these shapes, by their places in the graph."""

    shapes: Sequence[int]


@dataclass(slots=True)
class Items:
    """An array of one shape."""

    shape: int
    least: int
    most: int | None


@dataclass(slots=True)
class Tuple:
    """An array of these shapes, in turn."""

    shapes: Sequence[int]


@dataclass(slots=True)
class Object:
    """Members in this order, those that must be there first; `more`: the shape of members by any other name."""

    required: Mapping[str, int]
    optional: Mapping[str, int]
    more: int | None


Shape = Plain | Exactly | Text | Matching | AnyOf | Items | Tuple | Object


@dataclass(slots=True)
class _Members:
    properties: dict[str, Any] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)


class Shapes:
    """The graph of one schema; `root` is its place. Raises SchemaRefused."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        if len(json.dumps(schema, ensure_ascii=False)) > MAX_SCHEMA_CHARACTERS:
            raise SchemaRefused(f"it is longer than {MAX_SCHEMA_CHARACTERS} characters")
        self._schema = schema
        self._defined: dict[str, int] = {}
        self._num_visits = 0
        self._num_repeats = 0
        self.shapes: list[Shape] = []
        self.root = self._placed(schema, 0)

    def _placed(self, schema: Any, depth: int) -> int:
        """The place of a schema's shape; of a definition the place it has had from its first mention on."""
        self._visit(depth)
        if schema is True:
            schema = {}
        if not isinstance(schema, Mapping):
            raise SchemaRefused("each schema in it must be an object or true")
        reference = schema.get("$ref")
        if reference is not None:
            return self._referred(reference, depth)
        place = self._reserve()
        self.shapes[place] = self._shape(schema, depth)
        return place

    def _visit(self, depth: int) -> None:
        self._num_visits += 1
        if self._num_visits > MAX_SHAPES:
            raise SchemaRefused(f"it holds more than {MAX_SHAPES} schemas")
        if depth > MAX_NESTING:
            raise SchemaRefused(f"it is nested deeper than {MAX_NESTING} levels, its references followed")

    def _reserve(self) -> int:
        self.shapes.append(Plain("value"))
        return len(self.shapes) - 1

    def _referred(self, reference: object, depth: int) -> int:
        if not isinstance(reference, str):
            raise SchemaRefused("a $ref is not a string")
        if reference not in self._defined:
            place = self._defined[reference] = self._reserve()
            self.shapes[place] = AnyOf([self._placed(self._target(reference), depth + 1)])
        return self._defined[reference]

    def _target(self, reference: str) -> Any:
        if reference != "#" and not reference.startswith("#/"):
            raise SchemaRefused("a $ref must point into the schema itself, as in '#/$defs/name'")
        found: Any = self._schema
        for part in reference.split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isascii() and key.isdigit() and int(key[:9]) < len(found):
                found = found[int(key[:9])]
            elif isinstance(found, Mapping) and key in found:
                found = found[key]
            else:
                raise SchemaRefused("a $ref points at nothing in the schema")
        return found

    def _shape(self, schema: Mapping[str, Any], depth: int) -> Shape:
        for name in ("oneOf", "anyOf"):
            if name in schema:
                return AnyOf(self._all(schema[name], depth))
        kind = schema.get("type")
        if isinstance(kind, list):
            return AnyOf([self._placed({**schema, "type": one}, depth + 1) for one in _some(kind)])
        if kind is not None and kind not in _TYPES:
            raise SchemaRefused("a type is none of " + ", ".join(_TYPES))
        if "not" in schema:
            raise SchemaRefused("`not` is not served")
        if "const" in schema:
            return Exactly([_dumped(schema["const"])])
        if "enum" in schema:
            return Exactly([_dumped(value) for value in _some(schema["enum"])])
        return self._shape_of(kind, schema, depth)

    def _shape_of(self, kind: str | None, schema: Mapping[str, Any], depth: int) -> Shape:
        if kind in {None, "object"} and any(name in schema for name in ("properties", "additionalProperties", "allOf")):
            return self._object(schema, depth)
        if kind in {None, "array"} and any(name in schema for name in ("items", "prefixItems")):
            return self._array(schema, depth)
        if kind in {None, "string"}:
            text = self._text(kind, schema)
            if text is not None:
                return text
        return Plain(kind or "value")

    def _text(self, kind: str | None, schema: Mapping[str, Any]) -> Shape | None:
        if "pattern" in schema:
            if not isinstance(schema["pattern"], str):
                raise SchemaRefused("a pattern is not a string")
            return Matching(schema["pattern"])
        wanted = schema.get("format")
        if isinstance(wanted, str) and _UUID.fullmatch(wanted):
            return Plain("uuid")
        if wanted in _FORMATS:
            return Plain(f"{wanted}-string")
        if kind == "string" and ("minLength" in schema or "maxLength" in schema):
            return Text(*self._repeats(schema, "minLength", "maxLength"))
        return None

    def _array(self, schema: Mapping[str, Any], depth: int) -> Shape:
        items = schema.get("prefixItems", schema.get("items"))
        if isinstance(items, list):
            return Tuple(self._all(items, depth))
        return Items(self._placed(items, depth + 1), *self._repeats(schema, "minItems", "maxItems"))

    def _repeats(self, schema: Mapping[str, Any], least_name: str, most_name: str) -> tuple[int, int | None]:
        least, most = schema.get(least_name, 0), schema.get(most_name)
        for name, value in ((least_name, least), (most_name, most if most is not None else least)):
            if type(value) is not int or not 0 <= value <= MAX_REPEATS:
                raise SchemaRefused(f"{name} must be a whole number from 0 to {MAX_REPEATS}")
        if most is not None and most < least:
            raise SchemaRefused(f"{most_name} is less than {least_name}")
        self._num_repeats += max(least, most or 0)
        if self._num_repeats > MAX_REPEATS_IN_ALL:
            raise SchemaRefused(f"its lengths and counts come to more than {MAX_REPEATS_IN_ALL}")
        return least, most

    def _all(self, schemas: object, depth: int) -> list[int]:
        return [self._placed(schema, depth + 1) for schema in _some(schemas)]

    def _object(self, schema: Mapping[str, Any], depth: int) -> Shape:
        members = _Members()
        parts = list(self._parts(schema, depth))
        if len(parts) == 1 and parts[0] is not schema and "properties" not in parts[0]:
            return AnyOf([self._placed(parts[0], depth + 1)])
        for part in parts:
            _join(members, part)
        more = schema.get("additionalProperties", False)
        placed = {name: self._placed(member, depth + 1) for name, member in members.properties.items()}
        return Object(
            required={name: place for name, place in placed.items() if name in members.required},
            optional={name: place for name, place in placed.items() if name not in members.required},
            more=None if more is False else self._placed(more, depth + 1),
        )

    def _parts(self, schema: Mapping[str, Any], depth: int) -> Iterator[Mapping[str, Any]]:
        """A schema's own members, and those of all that it is made of."""
        self._visit(depth)
        if "properties" in schema or "allOf" not in schema:
            yield schema
        for part in _some(schema["allOf"]) if "allOf" in schema else ():
            hops = 0
            while isinstance(part, Mapping) and "$ref" in part and hops < MAX_NESTING:
                part, hops = self._target(str(part["$ref"])), hops + 1  # noqa: PLW2901 -- followed to its end
            if not isinstance(part, Mapping) or "$ref" in part:
                raise SchemaRefused("a part of an allOf is no object")
            yield from self._parts(part, depth + 1)


def _join(members: _Members, part: Mapping[str, Any]) -> None:
    properties, required = part.get("properties", {}), part.get("required", [])
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        raise SchemaRefused("`properties` must be an object, and `required` a list")
    members.properties.update(properties)
    members.required.update(name for name in required if isinstance(name, str))


def _some(values: object) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise SchemaRefused("its alternatives and parts must be lists that are not empty")
    return values


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
