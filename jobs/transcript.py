"""What one reader knows of a job's text, and what it has told its client: pure, knows no Redis.

An event of text covers the code points [seq - len(text), seq) of its attempt's whole text. What is older is cut off;
a gap is answered with `GAP`, and whoever asks then brings the snapshot. A newer attempt writes the same text again
when the job is exact: nothing is told twice then. Where it writes something else, the client is told to start over
(`reset`), because what it has shown is no longer what will be stored.
"""

from __future__ import annotations

from typing import Any, Literal

Event = dict[str, Any]
"""`{"type": "text", "attempt", "seq", "text"}` or `{"type": "reset", "attempt"}`."""

GAP: Literal["gap"] = "gap"


class Transcript:
    """The text of the newest attempt so far, beside what the client has."""

    def __init__(self, after: int = 0) -> None:
        """`after`: code points that the client has already, from an earlier connection. Their text is not known here,
        so it is taken to be this attempt's."""
        self.attempt = 0
        self._text = ""
        self._told = after
        self._told_text: str | None = None if after else ""

    def hear(self, attempt: int, seq: int, text: str) -> list[Event] | Literal["gap"]:
        """Take an event of text; answer what to tell the client, or GAP."""
        if attempt < self.attempt:
            return []  # A worker that lost its lease and does not know it yet.
        if attempt > self.attempt:
            self.attempt, self._text = attempt, ""
        start = seq - len(text)
        if start > len(self._text):
            return GAP
        return self._grow(text[len(self._text) - start :])

    def read_snapshot(self, attempt: int, text: str) -> list[Event]:
        """Take a snapshot: the whole text of an attempt so far; answer what to tell the client."""
        if attempt < self.attempt:
            return []
        if attempt > self.attempt:
            self.attempt, self._text = attempt, ""
        if self._told_text is None and len(text) >= self._told:
            self._told_text = text[: self._told]
        return self._grow(text[len(self._text) :])

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
