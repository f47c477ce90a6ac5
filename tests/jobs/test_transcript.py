"""A client is told each character once, in order, whatever was lost, repeated or written again."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from jobs.transcript import GAP, Transcript


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
