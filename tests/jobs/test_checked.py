"""The checked file, and the windows that callers write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.checked import dump_invalid, dump_valid, read
from jobs.errors import InvalidRequest
from jobs.windows import window_seconds
from tests.jobs.batch_support import CHAT, checked_lines, job_fields

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))


def test_what_was_written_is_read() -> None:
    written = [
        dump_valid(3, "ä", CHAT, job_fields(prompt="one\ntwo 🏒"), 1),
        dump_invalid(9, None, "invalid_json", "line 9: not JSON", None),
    ]
    first, second = read([b"".join(written)])
    assert (first.number, first.custom_id, first.url, first.order, first.error) == (3, "ä", CHAT, 1, None)
    assert first.job == job_fields(prompt="one\ntwo 🏒")
    assert (first.start, first.end, second.start) == (0, len(written[0]), len(written[0]))
    assert (second.number, second.job, second.custom_id) == (9, None, None)
    assert second.error == {"code": "invalid_json", "message": "line 9: not JSON", "param": None}


@given(prompts=st.lists(TEXT, min_size=1, max_size=5), size=st.integers(1, 50), skipped=st.integers(0, 4))
def test_pieces_of_any_size_from_any_line_on_make_the_same_lines(prompts: list[str], size: int, skipped: int) -> None:
    data = b"".join(dump_valid(n, None, CHAT, job_fields(prompt=text), n) for n, text in enumerate(prompts, 1))
    whole = list(read([data]))
    assert [line.job["prompt"] for line in whole if line.job] == prompts
    start = whole[min(skipped, len(whole)) - 1].end if skipped else 0
    pieces = (data[at : at + size] for at in range(start, len(data), size))
    assert list(read(pieces, start)) == whole[skipped:]


@pytest.mark.parametrize("text", ["nul \x00", "half \ud800 pair"])
@pytest.mark.parametrize("where", ["prompt", "custom_id", "deep"])
def test_text_that_no_database_holds_is_refused(text: str, where: str) -> None:
    fields = {"prompt": job_fields(prompt=text), "deep": job_fields(metadata={"a": text})}.get(where, job_fields())
    with pytest.raises(InvalidRequest) as refused:
        dump_valid(1, text if where == "custom_id" else None, CHAT, fields, 1)
    assert text not in str(refused.value)


def test_text_that_only_speaks_of_a_nul_is_kept() -> None:
    line = dump_valid(1, None, CHAT, job_fields(prompt="\\u0000"), 1)
    assert [found.job["prompt"] for found in read([line]) if found.job] == ["\\u0000"]


def test_what_a_refusal_quotes_is_made_storable() -> None:
    (line,) = read([dump_invalid(1, "a\x00\ud800", "bad\x00", "line 1: \udfff", "x")])
    assert line.custom_id == "a\ufffd\ufffd"
    assert line.error == {"code": "bad\ufffd", "message": "line 1: \ufffd", "param": "x"}
    (line,) = read([dump_invalid(1, "x" * 513, "bad", "long", None)])
    assert line.custom_id is None


def test_a_name_too_long_an_infinite_number_and_an_unknown_field_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        dump_valid(1, "x" * 513, CHAT, job_fields(), 1)
    with pytest.raises(InvalidRequest):
        dump_valid(1, None, CHAT, job_fields(parameters={"temperature": float("inf")}), 1)
    with pytest.raises(ValueError, match="surprise"):
        dump_valid(1, None, CHAT, job_fields(surprise=1), 1)


def test_a_file_cut_within_a_line_is_noticed() -> None:
    assert len(checked_lines(2)) == 2
    with pytest.raises(ValueError, match="byte 0"):
        list(read([dump_valid(1, None, CHAT, job_fields(), 1)[:-1]]))


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86400.0), ("90m", 5400.0), ("1.5h", 5400.0), ("7d", 604800.0), ("30s", 30.0)]
)
def test_windows_are_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert window_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "0h", "-1h", "1 h", "1w", "1e3s", "٣h", "9999999999h"])
def test_other_windows_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        window_seconds(text)
    assert refused.value.param == "completion_window"


def test_a_window_has_a_limit() -> None:
    assert window_seconds("1h", 3600) == 3600
    with pytest.raises(InvalidRequest, match="3600"):
        window_seconds("61m", 3600)
