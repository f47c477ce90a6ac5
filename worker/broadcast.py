"""Carries new text from the engine to the event channels, a few times a second for all generations at once.

The engine's thread only appends to a deque. A thread of ours joins what belongs to one job, and writes all jobs in
one pipelined round trip. With Redis away the text is kept (it is stored at the end anyway), tried again with the
next flush, and nothing waits: readers find the whole text in the snapshot.

Knows text and where it goes; never logs it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from jobs.records import AttemptRef
from worker.engine.generation import TextDelta

REST_SECONDS = 1.0
"""After a write that failed: so long nothing is tried."""

TextEvent = tuple[str, int, int, str, str]
"""Job id, attempt, seq (length of all text in code points), new text, all text."""


class WritesText(Protocol):
    """The part of the event writer that takes text. False: it could not be written."""

    def text(self, events: list[TextEvent]) -> bool: ...


class _Stream:
    """One attempt's text so far, and how much of it readers have been sent."""

    def __init__(self, ref: AttemptRef) -> None:
        self.ref = ref
        self.text = ""
        self.num_sent = 0

    def event(self) -> TextEvent:
        return self.ref.job_id, self.ref.number, len(self.text), self.text[self.num_sent :], self.text


class Broadcaster:
    """`deltas` is the engine's `on_text`. A stream is opened before its request is submitted, closed at its end."""

    def __init__(
        self, events: WritesText, interval_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._events = events
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._new: deque[Sequence[TextDelta]] = deque()
        self._some = threading.Event()
        self._stopping = threading.Event()
        self._streams: dict[str, _Stream] = {}
        self._flushing = threading.Lock()
        self._rest_until = 0.0
        self._thread = threading.Thread(target=self._run, name="broadcaster", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._some.set()
        if self._thread.ident:
            self._thread.join(timeout=5)

    def deltas(self, deltas: list[TextDelta]) -> None:
        """On the engine's thread, between two steps: an append, no more."""
        self._new.append(deltas)
        if not self._some.is_set():
            self._some.set()

    def open(self, request_id: str, ref: AttemptRef) -> None:
        with self._flushing:
            self._streams[request_id] = _Stream(ref)

    def close(self, request_id: str) -> None:
        """Write what text is left, so that the end event comes after all of it."""
        with self._flushing:
            self._flush()
            self._streams.pop(request_id, None)

    def flush(self) -> None:
        """Write the new text of every stream now."""
        with self._flushing:
            self._flush()

    def _flush(self) -> None:
        self._take_in()
        unsent = [stream for stream in self._streams.values() if len(stream.text) > stream.num_sent]
        if not unsent or self._clock() < self._rest_until:
            return
        if not self._events.text([stream.event() for stream in unsent]):
            self._rest_until = self._clock() + REST_SECONDS
            return
        for stream in unsent:
            stream.num_sent = len(stream.text)

    def _take_in(self) -> None:
        grown: dict[str, list[str]] = {}
        while self._new:
            for delta in self._new.popleft():
                grown.setdefault(delta.request_id, []).append(delta.text)
        for request_id, pieces in grown.items():
            if stream := self._streams.get(request_id):
                stream.text += "".join(pieces)

    def _run(self) -> None:
        """The first text goes out at once; what comes within the interval after it goes together."""
        while not self._stopping.is_set():
            self._some.wait()
            self._some.clear()
            self.flush()
            self._stopping.wait(self._interval_seconds)
