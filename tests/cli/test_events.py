"""Reading a stream: pieces trimmed, gaps noticed, resets honoured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.errors import ApiRefused
from cli.events import Ended, Frame, Gap, Reader, Reset, Text, frames


def text_of(reader: Reader, *pieces: tuple[int, str]) -> str:
    shown = [event for seq, text in pieces for event in reader.take(Frame("text", {"seq": seq, "text": text}))]
    return "".join(event.text for event in shown if isinstance(event, Text))


@given(st.text(min_size=1), st.data())
def test_overlapping_pieces_are_shown_once(text: str, data: st.DataObject) -> None:
    reader, pieces, reached = Reader(), [], 0
    while reached < len(text):
        end = data.draw(st.integers(reached + 1, len(text)))
        start = data.draw(st.integers(0, reached))
        pieces.append((end, text[start:end]))
        reached = end
    assert text_of(reader, *pieces) == text


def test_a_piece_that_starts_later_is_a_gap() -> None:
    reader = Reader(received=3)
    with pytest.raises(Gap):
        text_of(reader, (6, "ef"))


def test_a_reset_voids_what_came_before() -> None:
    reader = Reader()
    text_of(reader, (3, "abc"))
    assert list(reader.take(Frame("reset", {"attempt": 2}, "0@2"))) == [Reset()]
    assert reader.after == "0@2"
    assert text_of(reader, (2, "xy")) == "xy"


def test_it_resumes_by_the_servers_own_word() -> None:
    reader = Reader()
    assert reader.after == "0"
    list(reader.take(Frame("text", {"seq": 2, "text": "ab"}, "2@3")))
    assert reader.after == "2@3"


def test_an_error_frame_is_no_end() -> None:
    body = {"error": {"message": "Gone.", "type": "x", "param": None, "code": "queue_unavailable"}}
    with pytest.raises(ApiRefused, match="Gone"):
        list(Reader().take(Frame("error", body)))


def test_the_end_brings_the_whole_job() -> None:
    assert list(Reader().take(Frame("end", {"id": "job_1"}))) == [Ended({"id": "job_1"})]


def test_frames_are_cut_at_blank_lines_and_pings_say_nothing() -> None:
    lines = [
        "event: text",
        "id: 2",
        'data: {"seq": 2,',
        'data: "text": "ab"}',
        "",
        ": ping",
        "event: end",
        "data: {}",
        "",
    ]
    assert list(frames(lines)) == [Frame("text", {"seq": 2, "text": "ab"}, "2"), Frame("end", {})]


def test_a_frame_that_was_cut_off_is_dropped() -> None:
    assert list(frames(["event: end", 'data: {"id"'])) == []
