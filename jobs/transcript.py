"""What one reader knows of a job's text, and what it has told its client: pure, knows no Redis.

An event of text covers the code points [seq - len(text), seq) of its attempt's whole text. What is older is cut off;
a gap is answered with `GAP`, and whoever asks then brings the snapshot. A newer attempt writes the same text again
when the job is exact: nothing is told twice then. Where it writes something else, the client is told to start over
(`reset`), because what it has shown is no longer what will be stored.

A client that comes back says how far it had come, and in whose text: in which attempt's. What it has is not known here,
so an attempt says of each one before it how much of what that one told its own text begins with (`Kept`). A client
that had more than that starts over, rather than go on in another text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Event = dict[str, Any]
"""`{"type": "text", "attempt", "seq", "text"}` or `{"type": "reset", "attempt"}`."""

GAP: Literal["gap"] = "gap"

Kept = Mapping[int, int]
"""By number of an earlier attempt: so many code points of what it told are those that the newest text begins with."""


def kept_of(text: str, attempt: int, told: str, before: Kept) -> dict[int, int]:
    """What `text` keeps of all attempts before it: of the last of them, which had `told` so much, and of those that
    were before that one."""
    num_same = _num_same(text, told)
    return {**{number: min(kept, num_same) for number, kept in before.items()}, attempt: num_same}


def _num_same(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))


def keeps(attempt: int, kept: Kept, of: int, seq: int) -> bool:
    """Whether the text of `attempt` begins with the first `seq` code points that the attempt `of` told."""
    return seq == 0 or of == attempt or seq <= kept.get(of, 0)


class Transcript:
    """The text of the newest attempt so far, beside what the client has."""

    def __init__(self, after: int = 0, attempt: int = 1) -> None:
        """`after`: code points that the client has already, from an earlier connection, of what `attempt` told."""
        self.attempt = 0
        self._text = ""
        self._told = after
        self._told_by = attempt
        self._told_text: str | None = None if after else ""

    def hear(self, attempt: int, seq: int, text: str) -> list[Event] | Literal["gap"]:
        """Take an event of text; answer what to tell the client, or GAP."""
        if attempt < self.attempt:
            return []  # A worker that lost its lease and does not know it yet.
        if attempt > self.attempt and self._told_text is None and attempt != self._told_by:
            return GAP  # Whether it keeps what the client has, only the snapshot says.
        self._turn_to(attempt)
        start = seq - len(text)
        if start > len(self._text):
            return GAP
        return self._grow(text[len(self._text) - start :])

    def read_snapshot(self, attempt: int, text: str, kept: Kept | None = None) -> list[Event]:
        """Take a snapshot: the whole text of an attempt so far; answer what to tell the client."""
        if attempt < self.attempt:
            return []
        self._turn_to(attempt)
        begins_anew = self._told_text is None and not keeps(attempt, kept or {}, self._told_by, self._told)
        if begins_anew:
            self._told, self._told_text = 0, ""
        elif self._told_text is None and len(text) >= self._told:
            self._told_text = text[: self._told]
        reset: list[Event] = [{"type": "reset", "attempt": attempt}] if begins_anew else []
        return reset + self._grow(text[len(self._text) :])

    def _turn_to(self, attempt: int) -> None:
        if attempt > self.attempt:
            self.attempt, self._text = attempt, ""

    def _grow(self, piece: str) -> list[Event]:
        """Append to the text of this attempt; tell what is new to the client."""
        known = len(self._text)
        self._text += piece
        events: list[Event] = []
        if self._told_text is not None and not self._agrees(known, piece):
            events.append({"type": "reset", "attempt": self.attempt})
            self._told = 0
        if len(self._text) > self._told:
            events.append(
                {
                    "type": "text",
                    "attempt": self.attempt,
                    "seq": len(self._text),
                    "text": self._text[self._told :],
                }
            )
            self._told, self._told_text = len(self._text), self._text
        return events

    def _agrees(self, start: int, piece: str) -> bool:
        told = (self._told_text or "")[start : start + len(piece)]
        return piece.startswith(told)
