"""The parser of bodies, fed with anything."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.body import fingerprint, parse_object
from api.faults import MAX_NAME_CHARACTERS, first_fault
from jobs.errors import InvalidRequest

storable = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | storable,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(storable, inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_clear_refusal(raw: bytes) -> None:
    assert _outcome(raw) in {"an object", "invalid_json", "invalid_utf8", "invalid_type", "invalid_text"}


def _outcome(raw: bytes) -> str:
    try:
        parse_object(raw)
    except InvalidRequest as error:
        return error.code
    return "an object"


@given(st.dictionaries(storable, values, max_size=5))
def test_any_storable_object_is_taken_as_it_is(body: dict[str, object]) -> None:
    assert parse_object(json.dumps(body).encode()) == body
    assert parse_object(json.dumps(body, ensure_ascii=False).encode()) == body


@given(st.dictionaries(storable, values, min_size=2, max_size=5))
def test_the_fingerprint_does_not_depend_on_the_order_of_fields(body: dict[str, object]) -> None:
    assert fingerprint(body) == fingerprint(dict(reversed(body.items())))


def test_a_very_long_name_is_cut() -> None:
    name = "x" * 1000
    fault = first_fault([{"loc": (name,), "type": "extra_forbidden", "msg": ""}], {name: 1})
    assert fault.param is not None
    assert len(fault.param) == MAX_NAME_CHARACTERS + 1


@pytest.mark.parametrize("literal", ["NaN", "Infinity"])
def test_a_literal_that_stands_alone_is_refused(literal: str) -> None:
    with pytest.raises(InvalidRequest, match=literal):
        parse_object(literal.encode())
