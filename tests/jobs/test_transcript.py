"""A client is told each character once, in order, whatever was lost, repeated or written again."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.transcript import GAP, Transcript, keeps, kept_of


def told(events: object) -> str:
    return "".join(event["text"] for event in events)  # type: ignore[attr-defined]


def test_text_is_told_as_it_comes() -> None:
    transcript = Transcript()
    assert transcript.hear(1, 5, "hello") == [{"type": "text", "attempt": 1, "seq": 5, "text": "hello"}]
    assert transcript.hear(1, 8, " 🏒!") == [{"type": "text", "attempt": 1, "seq": 8, "text": " 🏒!"}]


def test_what_was_told_is_not_told_again() -> None:
    transcript = Transcript()
    transcript.read_snapshot(1, "hello")
    assert transcript.hear(1, 3, "hel") == []
    assert transcript.hear(1, 7, "llo w") == [{"type": "text", "attempt": 1, "seq": 7, "text": " w"}]


def test_a_gap_asks_for_the_snapshot() -> None:
    transcript = Transcript()
    transcript.hear(1, 2, "he")
    assert transcript.hear(1, 8, "wo") == GAP
    assert told(transcript.read_snapshot(1, "hello wo")) == "llo wo"


def test_a_client_that_comes_back_gets_the_rest_only() -> None:
    transcript = Transcript(after=3)
    assert told(transcript.read_snapshot(1, "hello")) == "lo"
    assert Transcript(after=9).read_snapshot(1, "hello") == []


def test_a_new_attempt_that_writes_the_same_is_not_noticed() -> None:
    transcript = Transcript()
    transcript.hear(1, 5, "hello")
    assert transcript.hear(2, 3, "hel") == []
    assert told(transcript.hear(2, 8, "lo wo")) == " wo"


def test_a_new_attempt_that_writes_something_else_starts_over() -> None:
    transcript = Transcript()
    transcript.hear(1, 5, "hello")
    assert transcript.hear(2, 2, "he") == []
    assert transcript.hear(2, 5, "art") == [
        {"type": "reset", "attempt": 2},
        {"type": "text", "attempt": 2, "seq": 5, "text": "heart"},
    ]
    assert told(transcript.hear(2, 6, "y")) == "y"


def test_a_snapshot_that_went_another_way_starts_over() -> None:
    transcript = Transcript()
    transcript.hear(1, 5, "hello")
    assert transcript.read_snapshot(2, "heart")[0] == {"type": "reset", "attempt": 2}


def test_a_stale_worker_is_not_listened_to() -> None:
    transcript = Transcript()
    transcript.hear(2, 2, "he")
    assert transcript.hear(1, 5, "other") == []
    assert transcript.read_snapshot(1, "other") == []


def test_a_client_that_comes_back_goes_on_in_the_text_of_an_attempt_that_keeps_what_it_has() -> None:
    transcript = Transcript(after=3, attempt=1)
    assert transcript.read_snapshot(2, "hello", {1: 3}) == [{"type": "text", "attempt": 2, "seq": 5, "text": "lo"}]


@pytest.mark.parametrize("kept", [{}, {1: 2}])
def test_a_client_that_comes_back_with_more_than_is_kept_starts_over(kept: dict[int, int]) -> None:
    """Its text is not known here, and must not be taken to be the newest attempt's."""
    transcript = Transcript(after=3, attempt=1)
    assert transcript.read_snapshot(2, "heart", kept) == [
        {"type": "reset", "attempt": 2},
        {"type": "text", "attempt": 2, "seq": 5, "text": "heart"},
    ]


def test_an_attempt_that_begins_beside_a_client_of_unknown_text_is_judged_by_its_snapshot() -> None:
    """A Redis that lost its last writes knows less than the client has."""
    transcript = Transcript(after=9, attempt=1)
    assert transcript.read_snapshot(1, "hello") == []
    assert transcript.hear(2, 12, "hello, world") == GAP
    events = transcript.read_snapshot(2, "hello, world", {1: 5})
    assert [event["type"] for event in events] == ["reset", "text"]
    assert transcript.hear(2, 12, "hello, world") == []


def test_what_is_kept_of_each_attempt_never_grows() -> None:
    second = kept_of("hello wo", 1, "hello", {})
    assert second == {1: 5}
    third = kept_of("hellish", 2, "hello wo", second)
    assert third == {1: 4, 2: 4}
    assert keeps(3, third, of=1, seq=4)
    assert not keeps(3, third, of=1, seq=5)
    assert keeps(3, third, of=3, seq=7)


@given(data=st.data(), text=st.text(max_size=40), after=st.integers(0, 10))
def test_lost_and_repeated_messages_never_show(data: st.DataObject, text: str, after: int) -> None:
    """Any pieces of one text, some lost, some twice, in order: with the snapshot at each gap, the client has it all."""
    after = min(after, len(text))
    cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=8))})
    transcript = Transcript(after)
    heard = ""
    for start, end in itertools.pairwise(cuts):
        for _ in range(data.draw(st.integers(0, 2))):
            events = transcript.hear(1, end, text[start:end])
            if events == GAP:
                heard += told(transcript.read_snapshot(1, text[:end]))
                events = transcript.hear(1, end, text[start:end])
            heard += told(events)
    heard += told(transcript.read_snapshot(1, text))
    assert heard == text[after:]


@given(data=st.data())
def test_readers_that_come_and_go_hold_the_newest_attempts_text(data: st.DataObject) -> None:
    """Attempts that go on from any part of what was told, or say it all again; a reader that leaves at any time, with
    or without the snapshot's knowledge, holds what the newest attempt has told, or starts over."""
    snapshot: tuple[int, str, dict[int, int]] = (1, "", {})
    client, attempt_told, transcript = "", 1, Transcript()
    for number in range(1, data.draw(st.integers(1, 5)) + 1):
        _, text, kept = snapshot
        if number > 1:
            start = data.draw(st.integers(0, len(text)))
            piece = data.draw(st.text("ab", min_size=len(text) - start, max_size=len(text) - start + 5))
            kept = kept_of(text[:start] + piece, number - 1, text, kept)
            text = text[:start] + piece
        else:
            text = data.draw(st.text("ab", max_size=5))
        snapshot = (number, text, kept)
        if data.draw(st.booleans()):
            transcript = Transcript(len(client), attempt_told)
        if data.draw(st.booleans()):
            for event in transcript.read_snapshot(*snapshot):
                attempt_told = event["attempt"]
                client = "" if event["type"] == "reset" else client + event["text"]
    events = transcript.read_snapshot(*snapshot)
    for event in events:
        client = "" if event["type"] == "reset" else client + event["text"]
    assert client.startswith(snapshot[1]), "all that was told, and perhaps more of an attempt before"
    assert not events or client == snapshot[1]
