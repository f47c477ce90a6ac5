"""A JSON schema as a grammar of llama.cpp's that stays small while it runs.

llama.cpp follows all ways through a grammar that are still open, copies them for each character, and stops for nobody:
a schema whose ways multiply with every bracket would hold up all that runs beside it, and deep nesting overflows the
stack of its parser. So a schema is measured first, and one of which more than MAX_WAYS can be open is refused. Rules
are flat, named by their place, and a pattern is made deterministic (`worker.engine.patterns`). Knows no token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from worker.engine.patterns import PatternRefused, pattern_rules
from worker.engine.schema_shapes import (
    AnyOf,
    Exactly,
    Items,
    Matching,
    Object,
    Plain,
    SchemaRefused,
    Shapes,
    Text,
    Tuple,
)

MAX_WAYS = 512
"""Ways that may be open at once. Judging the whole vocabulary takes milliseconds for each ten of them."""
MAX_MEASURING = 100_000
MAX_GRAMMAR_CHARACTERS = 512 * 1024

_SPACE = '" "?'
_DIGITS_16 = "[0-9]{1,16}"
_INTEGER = '"-"? ("0" | [1-9] [0-9]{0,15})'
_DATE = '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | [12] [0-9] | "3" [01])'
_TIME = (
    '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{3})? '
    '("Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])'
)
_PLAIN = {
    "space": _SPACE,
    "value": "object | array | string | number | boolean | null",
    "object": '"{" space (string ":" space value ("," space string ":" space value)*)? "}" space',
    "array": '"[" space (value ("," space value)*)? "]" space',
    "string": r'"\"" char* "\"" space',
    "char": r'[^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    "number": f'{_INTEGER} ("." {_DIGITS_16})? ([eE] [+-]? [0-9]{{1,3}})? space',
    "integer": f"{_INTEGER} space",
    "boolean": '("true" | "false") space',
    "null": '"null" space',
    "uuid": r'"\"" [0-9a-fA-F]{8} ("-" [0-9a-fA-F]{4}){3} "-" [0-9a-fA-F]{12} "\"" space',
    "date": _DATE,
    "time": _TIME,
    "date-string": r'"\"" date "\"" space',
    "time-string": r'"\"" time "\"" space',
    "date-time-string": r'"\"" date "T" time "\"" space',
}
_OPENINGS = {"value": ("{", "[", '"', "0", "t", "n"), "object": ("{",), "array": ("[",), "boolean": ("t",)}
_OPENINGS |= {"number": ("0",), "integer": ("0",), "null": ("n",)}


def grammar_of(schema: Mapping[str, Any]) -> str:
    """The GBNF text of a schema, its root named `root`. Raises SchemaRefused."""
    try:
        shapes = Shapes(schema)
        _Measure(shapes).check()
        text = "\n".join(f"{name} ::= {rule}" for name, rule in _Rules(shapes).rules.items())
    except PatternRefused as error:
        raise SchemaRefused(str(error)) from None
    except RecursionError:
        raise SchemaRefused("it is nested too deeply") from None
    if len(text) > MAX_GRAMMAR_CHARACTERS:
        raise SchemaRefused(f"its grammar is longer than {MAX_GRAMMAR_CHARACTERS} characters")
    return text


class _Measure:
    """How many ways can be open at once: alternatives that begin alike multiply all that lies within them."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes.shapes
        self._root = shapes.root
        self._walked = [0] * len(self._shapes)
        self._openings: dict[int, frozenset[str] | None] = {}
        self._steps = 0

    def check(self) -> None:
        """Raise SchemaRefused for more than MAX_WAYS. A definition that multiplies what it refers to, itself in the
        end, comes to more than any number."""
        waiting = [(self._root, 1)]
        while waiting:
            place, ways = waiting.pop()
            self._bound(ways)
            if self._walked[place] < ways:
                self._walked[place] = ways
                waiting.extend(self._within(place, ways))

    def _within(self, place: int, ways: int) -> Iterable[tuple[int, int]]:
        shape = self._shapes[place]
        match shape:
            case Exactly(texts):
                self._bound(ways * len(texts))
                return ()
            case Items(item, _, _):
                return ((item, ways),)
            case Tuple(items):
                return ((item, ways) for item in items)
            case AnyOf(alternatives):
                return self._alternatives(alternatives, ways)
            case Object(required, optional, more):
                self._bound(ways * (len(optional) + 1))
                named = [*required.values(), *optional.values()]
                if more is not None:
                    ways *= 1 + bool(named)
                    named.append(more)
                return ((member, ways) for member in named)
        return ()

    def _alternatives(self, alternatives: Sequence[int], ways: int) -> Iterable[tuple[int, int]]:
        self._bound(ways * len(alternatives))
        openings = [self._opening(place) for place in alternatives]
        for place, mine in zip(alternatives, openings, strict=True):
            alike = sum(self._are_alike(mine, theirs) for theirs in openings)
            self._bound(ways * alike)
            yield place, ways * alike

    def _are_alike(self, some: frozenset[str], others: frozenset[str]) -> bool:
        self._bound(1, len(some) * len(others))
        return any(one.startswith(other) or other.startswith(one) for one in some for other in others)

    def _bound(self, ways: int, steps: int = 1) -> None:
        self._steps += steps
        if ways > MAX_WAYS or self._steps > MAX_MEASURING:
            message = f"more than {MAX_WAYS} of its alternatives can begin alike; give them names that tell them apart"
            raise SchemaRefused(message)

    def _opening(self, place: int) -> frozenset[str]:
        """What a value of this shape can begin with: enough of it to tell it from others."""
        if place in self._openings:
            found = self._openings[place]
            if found is None:
                raise SchemaRefused("a definition refers to itself with nothing between")
            return found
        self._openings[place] = None
        made = self._openings[place] = frozenset(self._made_opening(place))
        self._bound(1, len(made))
        return made

    def _made_opening(self, place: int) -> Iterable[str]:
        shape = self._shapes[place]
        match shape:
            case Plain(rule):
                return _OPENINGS.get(rule, ('"',))
            case Exactly(texts):
                return (text if text[0] == '"' else _first(text) for text in texts)
            case AnyOf(alternatives):
                return (opening for one in alternatives for opening in self._opening(one))
            case Items() | Tuple():
                return ("[",)
            case Object(required, _, _):
                return self._object_opening(required)
        return ('"',)

    def _object_opening(self, required: Mapping[str, int]) -> Iterable[str]:
        """An object is known by its first member, if that has to be there and can have few values only."""
        for name, place in required.items():
            shape = self._shapes[place]
            if isinstance(shape, Exactly):
                return ("{" + json.dumps(name) + ":" + text for text in shape.texts)
            return ("{" + json.dumps(name) + ":",)
        return ("{",)


def _first(text: str) -> str:
    return "0" if text[0] in "-0123456789" else text[0]


class _Rules:
    """The rules of a graph of shapes, by name. None is nested, so none can overflow the parser's stack."""

    def __init__(self, shapes: Shapes) -> None:
        self.rules: dict[str, str] = {"root": _name(shapes.root), **_PLAIN}
        for place, shape in enumerate(shapes.shapes):
            self._write(_name(place), shape)

    def _write(self, name: str, shape: object) -> None:
        match shape:
            case Plain(rule):
                self.rules[name] = rule
            case Exactly(texts):
                self.rules[name] = "(" + " | ".join(map(_literal, texts)) + ") space"
            case AnyOf(alternatives):
                self.rules[name] = " | ".join(map(_name, alternatives))
            case Matching(pattern):
                self.rules.update(pattern_rules(pattern, f"{name}-p"))
                self.rules[name] = rf'"\"" {name}-p "\"" space'
            case Text(least, most):
                self.rules[name] = rf'"\"" {self._repeated("char", "char", least, most)} "\"" space'
            case Items(item, least, most):
                self.rules[name] = f'"[" space {self._items(_name(item), least, most)} "]" space'
            case Tuple(items):
                self.rules[name] = '"[" space ' + ' "," space '.join(map(_name, items)) + ' "]" space'
            case Object():
                self._write_object(name, shape)

    def _items(self, item: str, least: int, most: int | None) -> str:
        if most == 0:
            return '""'
        most = None if most is None else most - 1
        rest = self._repeated(f"{item}-next", f'"," space {item}', max(0, least - 1), most)
        return f"{item} {rest}" if least else f"({item} {rest})?"

    def _repeated(self, name: str, what: str, least: int, most: int | None) -> str:
        """`what` so many times: those that may be there are rules one behind the other, named by how many are left."""
        self.rules.setdefault(f"{name}-one", what)
        parts = [f"{name}-one"] * least
        if most is None:
            parts.append(f"{name}-one*")
        elif most > least:
            self._count_down(name, most - least)
            parts.append(f"{name}-{most - least}")
        return " ".join(parts) or '""'

    def _count_down(self, name: str, most: int) -> None:
        for left in range(1, most + 1):
            after = f" {name}-{left - 1}" if left > 1 else ""
            self.rules.setdefault(f"{name}-{left}", f'{name}-one{after} | ""')

    def _write_object(self, name: str, shape: Object) -> None:
        """Members that may be there are rules one behind the other, each for what may follow."""
        for index, (key, place) in enumerate([*shape.required.items(), *shape.optional.items()]):
            self.rules[f"{name}-m{index}"] = (
                f'{_literal(json.dumps(key, ensure_ascii=False))} space ":" space {_name(place)}'
            )
        num_required, num = len(shape.required), len(shape.required) + len(shape.optional)
        self.rules[f"{name}-rest{num}"] = self.rules[f"{name}-first{num}"] = '""'
        if shape.more is not None:
            self.rules[f"{name}-more"] = f'string ":" space {_name(shape.more)}'
            self.rules[f"{name}-rest{num}"] = f'("," space {name}-more)*'
            self.rules[f"{name}-first{num}"] = f"({name}-more {name}-rest{num})?"
        for index in range(num_required, num):
            self.rules[f"{name}-rest{index}"] = f'("," space {name}-m{index})? {name}-rest{index + 1}'
            self.rules[f"{name}-first{index}"] = f"{name}-m{index} {name}-rest{index + 1} | {name}-first{index + 1}"
        required = ' "," space '.join(f"{name}-m{index}" for index in range(num_required))
        members = f"{required} {name}-rest{num_required}" if required else f"{name}-first0"
        self.rules[name] = f'"{{" space {members} "}}" space'


def _name(place: int) -> str:
    return f"r{place}"


def _literal(text: str) -> str:
    """Text as the grammar writes it; JSON's own escapes are characters like any other."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
