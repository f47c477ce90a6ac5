"""A regular expression as grammar rules, by way of a deterministic automaton of bounded size.

llama.cpp follows every way through a grammar at once, and a pattern such as `(a?){9}` has more ways than there is time
for. In rules made from a deterministic automaton each character leaves one way. Knows no schema and no token; what it
makes is the inside of a JSON string.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

MAX_PATTERN_CHARACTERS = 512
MAX_PATTERN_PARTS = 2_000
"""States before it is made deterministic: a counted repeat takes as many as it counts."""
MAX_PATTERN_STATES = 500
MAX_PATTERN_WORK = 1_000_000
"""Steps of making it deterministic: some tenths of a second."""

Span = tuple[int, int]
"""Code points, both ends included."""

_LAST = 0x10FFFF
_BEGIN: Span = (-2, -2)
_END: Span = (-1, -1)
"""What `^` and `$` match: marks around the text, so that an anchor may stand anywhere in a pattern."""
_TEXT: tuple[Span, ...] = ((0x20, 0xD7FF), (0xE000, _LAST))
"""What stands in a JSON string, as itself or behind a backslash. Control characters are left out."""
_ESCAPED = {0x22: r'"\\\""', 0x5C: r'"\\\\"'}
_CATEGORIES: dict[str, tuple[Span, ...]] = {
    "DIGIT": ((0x30, 0x39),),
    "WORD": ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)),
    "SPACE": ((0x09, 0x0D), (0x20, 0x20)),
}
_parser: Any = importlib.import_module("re._parser")


class PatternRefused(ValueError):
    """A pattern that is wrong, too large, or needs what no automaton can do. Its text repeats nothing of it."""


def pattern_rules(pattern: str, name: str) -> dict[str, str]:
    """Rules of the texts in which `pattern` is found (as JSON schema has it); the first one is `name`.

    Raises PatternRefused.
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise PatternRefused(f"a pattern is longer than {MAX_PATTERN_CHARACTERS} characters")
    return _Automaton(_Ways(_parsed(pattern))).rules(name)


def _parsed(pattern: str) -> Iterable[tuple[Any, Any]]:
    try:
        parsed = _parser.parse(pattern, re.ASCII)
    except (re.error, OverflowError, RecursionError):
        raise PatternRefused("a pattern is not a regular expression") from None
    if parsed.state.flags != re.ASCII:
        raise PatternRefused("a pattern sets flags, which is not served")
    return list(parsed)


class _Ways:
    """The automaton as the pattern says it: `free[s]` states that are reached for nothing, `edges[s]` for a
    character."""

    def __init__(self, items: Iterable[tuple[Any, Any]]) -> None:
        self.free: list[list[int]] = []
        self.edges: list[list[tuple[tuple[Span, ...], int]]] = []
        anything = (_BEGIN, *_TEXT, _END)
        start = self._state()
        self.edges[start].append((anything, start))
        self.final = self._state()
        self.edges[self.final].append((anything, self.final))
        self.free[self._follow(items, start)].append(self.final)

    def _state(self) -> int:
        if len(self.free) >= MAX_PATTERN_PARTS:
            raise PatternRefused(f"a pattern has more than {MAX_PATTERN_PARTS} parts, its repeats counted out")
        self.free.append([])
        self.edges.append([])
        return len(self.free) - 1

    def _follow(self, items: Iterable[tuple[Any, Any]], at: int) -> int:
        for kind, what in items:
            at = self._one(str(kind), what, at)
        return at

    def _one(self, kind: str, what: Any, at: int) -> int:
        spans = _spans_of(kind, what)
        if spans is not None:
            after = self._state()
            self.edges[at].append((spans, after))
            return after
        if kind == "BRANCH":
            return self._either(what[1], at)
        if kind == "SUBPATTERN" and not what[1] and not what[2]:
            return self._follow(what[3], at)
        if kind in {"MAX_REPEAT", "MIN_REPEAT"}:
            least, most, items = what
            return self._repeat(least, most, items, at)
        raise PatternRefused("a pattern looks around or back, which is not served")

    def _either(self, branches: Iterable[Any], at: int) -> int:
        after = self._state()
        for items in branches:
            start = self._state()
            self.free[at].append(start)
            self.free[self._follow(items, start)].append(after)
        return after

    def _repeat(self, least: int, most: int, items: Any, at: int) -> int:
        if least > MAX_PATTERN_PARTS:
            raise PatternRefused(f"a pattern has more than {MAX_PATTERN_PARTS} parts, its repeats counted out")
        for _ in range(least):
            at = self._step(items, at)
        if most == _parser.MAXREPEAT:
            loop = self._state()
            self.free[at].append(loop)
            self.free[self._follow(items, loop)].append(loop)
            return loop
        after = self._state()
        for _ in range(most - least):
            self.free[at].append(after)
            at = self._step(items, at)
        self.free[at].append(after)
        return after

    def _step(self, items: Any, at: int) -> int:
        """One more repeat; it takes a state even where `items` is empty, so that counting ends."""
        start = self._state()
        self.free[at].append(start)
        return self._follow(items, start)


def _spans_of(kind: str, what: Any) -> tuple[Span, ...] | None:
    """The characters of a pattern's part that matches one; None: it is none of those."""
    if kind == "LITERAL":
        return ((what, what),)
    if kind == "NOT_LITERAL":
        return _without([(what, what)])
    if kind == "ANY":
        return _without([(0x0A, 0x0A), (0x0D, 0x0D)])
    if kind == "AT" and str(what) in {"AT_BEGINNING", "AT_END"}:
        return (_BEGIN,) if str(what) == "AT_BEGINNING" else (_END,)
    if kind == "IN":
        spans = [span for part in what if str(part[0]) != "NEGATE" for span in _spans_within(str(part[0]), part[1])]
        return _without(spans) if str(what[0][0]) == "NEGATE" else tuple(spans)
    return None


def _spans_within(kind: str, what: Any) -> Sequence[Span]:
    if kind == "RANGE":
        return (what,)
    if kind == "CATEGORY":
        name = str(what).removeprefix("CATEGORY_")
        return _without(_CATEGORIES[name[4:]]) if name.startswith("NOT_") else _CATEGORIES[name]
    return ((what, what),)


def _without(spans: Iterable[Span]) -> tuple[Span, ...]:
    """All characters but those of `spans`."""
    kept, at = [], 0
    for first, last in sorted(spans):
        if first > at:
            kept.append((at, first - 1))
        at = max(at, last + 1)
    if at <= _LAST:
        kept.append((at, _LAST))
    return tuple(kept)


class _Automaton:
    """Made deterministic. A state is the set of ways that are open, as the bits of a number."""

    def __init__(self, ways: _Ways) -> None:
        self._ways = ways
        self._work = 0
        self._atoms = _atoms(span for edges in ways.edges for spans, _ in edges for span in spans)
        self._reached = [self._all_free(state) for state in range(len(ways.free))]
        self._edges = [
            [(self._atoms_in(spans), self._reached[after]) for spans, after in edges] for edges in ways.edges
        ]
        self._marked = [
            [(spans, self._reached[after]) for spans, after in edges if not {_BEGIN, _END}.isdisjoint(spans)]
            for edges in ways.edges
        ]

    def rules(self, name: str) -> dict[str, str]:
        start = self._after(self._reached[0], _BEGIN)
        onward: dict[int, dict[int, list[int]]] = {}
        waiting = [start]
        while waiting:
            state = waiting.pop()
            if state in onward:
                continue
            if len(onward) >= MAX_PATTERN_STATES:
                raise PatternRefused(f"a pattern needs more than {MAX_PATTERN_STATES} states")
            onward[state] = self._onward(state)
            waiting.extend(onward[state])
        ends = {state for state in onward if self._after(state, _END) >> self._ways.final & 1}
        live = _live(onward, ends)
        if start not in live:
            raise PatternRefused("a pattern matches no text that JSON can hold")
        names = {state: f"{name}-{index}" for index, state in enumerate(onward) if state in live} | {start: name}
        return {names[state]: self._rule(onward[state], names, ends=state in ends) for state in onward if state in live}

    def _rule(self, onward: dict[int, list[int]], names: dict[int, str], *, ends: bool) -> str:
        ways = [
            f"{character} {names[after]}"
            for after, atoms in onward.items()
            if after in names
            for character in self._characters(atoms)
        ]
        return " | ".join([*ways, '""'] if ends else ways)

    def _characters(self, atoms: list[int]) -> Iterator[str]:
        plain = ""
        for first, last in (self._atoms[atom] for atom in atoms):
            if first in _ESCAPED:
                yield _ESCAPED[first]
            else:
                plain += f"\\U{first:08X}" + (f"-\\U{last:08X}" if last > first else "")
        if plain:
            yield f"[{plain}]"

    def _onward(self, state: int) -> dict[int, list[int]]:
        """States that a character leads to, each with the atoms that do."""
        targets = [0] * len(self._atoms)
        for way in _bits(state):
            self._spend(1)
            for atoms, reached in self._edges[way]:
                self._spend(len(atoms))
                for atom in atoms:
                    targets[atom] |= reached
        onward: dict[int, list[int]] = {}
        for atom, target in enumerate(targets):
            if target:
                onward.setdefault(target, []).append(atom)
        return onward

    def _after(self, state: int, mark: Span) -> int:
        """The ways that are open once `mark` has come."""
        found = 0
        for way in _bits(state):
            for spans, reached in self._marked[way]:
                found |= reached if mark in spans else 0
        return found

    def _all_free(self, state: int) -> int:
        found, waiting = 0, [state]
        while waiting:
            at = waiting.pop()
            if not found >> at & 1:
                found |= 1 << at
                self._spend(1)
                waiting.extend(self._ways.free[at])
        return found

    def _atoms_in(self, spans: tuple[Span, ...]) -> list[int]:
        self._spend(len(self._atoms) // 8)
        return [
            index
            for index, (first, last) in enumerate(self._atoms)
            if any(low <= first and last <= high for low, high in spans)
        ]

    def _spend(self, steps: int) -> None:
        self._work += steps
        if self._work > MAX_PATTERN_WORK:
            raise PatternRefused("a pattern is too complex")


def _atoms(spans: Iterable[Span]) -> list[Span]:
    """The text's characters, cut where any of `spans` begins or ends."""
    cuts = {first for first, _ in _TEXT} | {last + 1 for _, last in _TEXT}
    cuts |= {place for escaped in _ESCAPED for place in (escaped, escaped + 1)}
    for first, last in spans:
        cuts |= {first, last + 1}
    pieces = ((first, after - 1) for first, after in pairwise(sorted(cuts)))
    return [(first, last) for first, last in pieces if any(low <= first and last <= high for low, high in _TEXT)]


def _live(onward: dict[int, dict[int, list[int]]], ends: set[int]) -> set[int]:
    """States from which an end can be reached."""
    back: dict[int, list[int]] = {}
    for state, targets in onward.items():
        for target in targets:
            back.setdefault(target, []).append(state)
    live, waiting = set(ends), list(ends)
    while waiting:
        for state in back.get(waiting.pop(), ()):
            if state not in live:
                live.add(state)
                waiting.append(state)
    return live


def _bits(number: int) -> Iterator[int]:
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest
