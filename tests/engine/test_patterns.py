"""Patterns as rules: the same texts as the regular expression finds, one way for each character, and bounded."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.engine.patterns import PatternRefused, pattern_rules

_WAY = re.compile(r'(\[[^\]]*\]|"(?:\\.|[^"\\])+") (\S+)|""')
_SPAN = re.compile(r"\\U([0-9A-F]{8})(?:-\\U([0-9A-F]{8}))?")


def accepts(rules: dict[str, str], text: str) -> bool:
    """Walk the rules along a text; fails where a character has two ways."""
    state = "p"
    for character in text:
        after = [target for characters, target in _WAY.findall(rules[state]) if matches(characters, character)]
        assert len(after) <= 1, "two ways for one character"
        if not after:
            return False
        state = after[0]
    return rules[state].endswith('""')


def matches(characters: str, character: str) -> bool:
    if characters.startswith('"'):
        return characters in {r'"\\\""': ['"'], r'"\\\\"': ["\\"]} and character in {'"': r'"\\\""', "\\": r'"\\\\"'}
    spans = [(int(low, 16), int(high or low, 16)) for low, high in _SPAN.findall(characters)]
    return any(low <= ord(character) <= high for low, high in spans)


atoms = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", r"\d", r"\w", "[a-c]", "ab", r"\.", "é"])
parts = st.recursive(
    atoms,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,2}", "*?"])).map(
            lambda p: f"(?:{p[0]}){p[1]}"
        )
        | st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=2, max_size=3).map("|".join).map("({})".format)
    ),
    max_leaves=6,
)
patterns = st.tuples(st.sampled_from(["", "^"]), parts, st.sampled_from(["", "$"])).map("".join)


@settings(max_examples=300)
@given(pattern=patterns, text=st.text("abc1.é", max_size=6))
@example(pattern="^a|b$", text="xb")
@example(pattern="^(^|x)a", text="xa")
def test_the_rules_take_what_the_pattern_is_found_in(pattern: str, text: str) -> None:
    try:
        rules = pattern_rules(pattern, "p")
    except PatternRefused:
        return
    assert accepts(rules, text) == bool(re.search(pattern, text, re.ASCII))


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("a" * 513, "longer than 512"),
        ("x{1000000000}", "more than 2000 parts"),
        ("(((()*)*)*){5000}", "more than 2000 parts"),
        ("^((((a?){1,20}b?){1,20}c?){1,20}d?){1,20}$", "more than 2000 parts"),
        ("^(a|b)*a(a|b){300}$", "more than 500 states"),
        ("^(?=a)b$", "looks around"),
        (r"^(a)\1$", "looks around"),
        ("(?i)a", "sets flags"),
        ("(?i:a)", "looks around"),
        ("^[a-", "not a regular expression"),
        ("(" * 400, "not a regular expression"),
        (r"^[^\s\S]$", "no text"),
        (r"^\x00$", "no text"),
    ],
)
def test_what_no_small_automaton_can_do_is_refused(pattern: str, why: str) -> None:
    with pytest.raises(PatternRefused, match=why):
        pattern_rules(pattern, "p")


def test_many_ways_through_a_pattern_are_one_way_through_its_rules() -> None:
    rules = pattern_rules("^" + "[a-z]?" * 84 + "$", "p")
    assert len(rules) == 85
    assert accepts(rules, "a" * 84)
    assert not accepts(rules, "a" * 85)


def test_quotes_and_backslashes_come_escaped_and_control_characters_never() -> None:
    rules = pattern_rules(r'^["\\\n]$', "p")
    assert rules["p"] == r'"\\\"" p-1 | "\\\\" p-1'
