"""Carries new text from the engine to the event channels, a few times a second for all generations at once.

The engine's thread only appends to a deque. A thread of ours joins what belongs to one job, and writes all jobs in
one pipelined round trip. With Redis away the text is kept (it is stored at the end anyway), tried again with the
next flush, and nothing waits: readers find the whole text in the snapshot.

Text *on demand* (batch lines) goes out only while somebody follows the job. Until then it is gathered here, so the
first event of a job that gains a reader is its whole text so far. The ends of such jobs are told by our thread as
well, all of a flush in one round trip: they are told whether anybody is known to follow or not, for a reader may
have come in that moment.

An attempt after the first says nothing while all it has is what readers were told before: the snapshot has more, and
the attempt after this one must find all of it. With its first new text it says how much of the old it keeps.

That a job runs is told here too, before its text, so that nobody waits for Redis on the way to the engine.

Knows text and where it goes; never logs it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jobs.events import Snapshot, TextEvent
from jobs.interest import Interest
from jobs.records import AttemptRef
from jobs.states import JobState
from jobs.transcript import Kept, kept_of
from worker.engine.generation import TextDelta

RecipeOf = Callable[[TextDelta], str | None]
CALM_SECONDS = 0.5
"""Between two looks while nobody follows any job."""
REST_SECONDS = 1.0
"""After a write that failed: so long nothing is tried."""


def storable(text: str) -> str:
    """`text` with each NUL as U+FFFD: a model may say NUL (it is a token), PostgreSQL cannot hold it, and what is
    streamed must be what is stored. The length stays."""
    return text.replace("\0", "\ufffd")


class WritesText(Protocol):
    """The part of the event writer that takes text. False: it could not be written."""

    def text(self, events: list[TextEvent]) -> bool: ...
    def state(self, job_id: str, state: JobState, attempt: int) -> Any: ...
    def ends(self, ended: list[tuple[str, JobState]]) -> Any: ...


class _Stream:
    """One attempt's text so far, and how much of it readers have been sent."""

    def __init__(self, ref: AttemptRef, *, on_demand: bool, recipe_of: RecipeOf, before: Snapshot | None) -> None:
        self.ref = ref
        self.on_demand = on_demand
        self._recipe_of = recipe_of
        self.recipe: str | None = None
        self._before = before
        self._kept: Kept = {}
        self.started = False
        """Whether readers have been told that it runs."""
        self.text = ""
        self.token_ids: list[int] = []
        self.row_class: str | None = None
        self.num_sent = 0

    def take_in(self, deltas: Sequence[TextDelta]) -> None:
        self.text += storable("".join(delta.text for delta in deltas))
        for delta in deltas:
            self.token_ids += delta.token_ids
        self.row_class = deltas[-1].row_class
        self.recipe = self.recipe or self._recipe_of(deltas[-1])

    @property
    def has_news(self) -> bool:
        """Whether there is text that no attempt has told."""
        known = self._before is not None and self._before.text.startswith(self.text)
        return len(self.text) > self.num_sent and not known

    def event(self) -> TextEvent:
        """What is new, and everything: the next attempt goes on from there if this one is lost."""
        if self._before is not None:  # It has gone beyond what was told, or another way: what it keeps is settled.
            self._kept = kept_of(self.text, self._before.attempt, self._before.text, self._before.kept)
            self._before = None
        ref, fresh, seq = self.ref, self.text[self.num_sent :], len(self.text)
        return TextEvent(
            ref.job_id, ref.number, seq, fresh, self.text, self.token_ids, self.row_class, self.recipe, self._kept
        )


class Broadcaster:
    """`deltas` is the engine's `on_text`. A stream is opened before its request is submitted, closed at its end."""

    def __init__(
        self,
        events: WritesText,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        interest: Interest | None = None,
    ) -> None:
        """`interest`: who follows what; its news wake us."""
        self._events = events
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._interest = interest or Interest()
        self._new: deque[Sequence[TextDelta]] = deque()
        self._ends: deque[tuple[str, JobState]] = deque()
        self._some = threading.Event()
        self._interest.on_news = self._hear_news
        self._stopping = threading.Event()
        self._streams: dict[str, _Stream] = {}
        self._fresh: set[str] = set()
        """Streams, not on demand, of which readers have seen nothing: their first text waits for no interval."""
        self._urgent = threading.Event()
        self._is_calm = False
        self._flushing = threading.Lock()
        self._rest_until = 0.0
        self._thread = threading.Thread(target=self._run, name="broadcaster", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what was handed over before goes out first."""
        self._stopping.set()
        self._some.set()
        self._urgent.set()
        if self._thread.ident:
            self._thread.join(timeout=5)

    def deltas(self, deltas: list[TextDelta]) -> None:
        """On the engine's thread, between two steps: an append, no more."""
        self._new.append(deltas)
        self._wake()
        if self._fresh and any(delta.request_id in self._fresh for delta in deltas):
            self._urgent.set()

    def open(
        self,
        request_id: str,
        ref: AttemptRef,
        *,
        on_demand: bool = False,
        recipe_of: RecipeOf = lambda _: None,
        before: Snapshot | None = None,
    ) -> None:
        """Waits for nothing, like `close` of a stream that nobody follows. `on_demand`: see above. `recipe_of`: the id
        of the recipe by which the text is made; the first text says what it needs to know of how it runs. `before`:
        what an earlier attempt told."""
        stream = _Stream(ref, on_demand=on_demand, recipe_of=recipe_of, before=before)
        self._streams[request_id] = stream
        if not on_demand:
            self._fresh.add(request_id)
        if self._wanted(stream):
            self._wake()
            self._urgent.set()

    def close(self, request_id: str) -> None:
        """Write what text is left, so that the end event comes after all of it."""
        stream = self._streams.get(request_id)
        if stream is not None and self._wanted(stream):
            self.flush()
        self._streams.pop(request_id, None)
        self._fresh.discard(request_id)

    def ended(self, job_id: str, state: JobState) -> None:
        """A job on demand has ended, and the end is stored: told with the next flush."""
        self._ends.append((job_id, state))
        self._wake()
        if self._interest.wants(job_id):
            self._urgent.set()

    def num_tokens(self) -> dict[str, int]:
        """Completion tokens so far of every open stream, by job."""
        return {stream.ref.job_id: len(stream.token_ids) for stream in list(self._streams.values())}

    def flush(self) -> None:
        """Write the new text of every stream now."""
        with self._flushing:
            self._flush()

    def _flush(self) -> None:
        self._take_in()
        wanted = [stream for stream in list(self._streams.values()) if self._wanted(stream)]
        self._is_calm = not wanted
        if wanted and self._clock() >= self._rest_until and not (self._tell_starts(wanted) and self._tell_text(wanted)):
            self._rest_until = self._clock() + REST_SECONDS

    def _tell_starts(self, wanted: Sequence[_Stream]) -> bool:
        for stream in wanted:
            if not stream.started:
                if self._events.state(stream.ref.job_id, JobState.RUNNING, stream.ref.number) is False:
                    return False
                stream.started = True
        return True

    def _tell_text(self, wanted: Sequence[_Stream]) -> bool:
        unsent = [stream for stream in wanted if stream.has_news]
        if unsent and not self._events.text([stream.event() for stream in unsent]):
            return False
        for stream in unsent:
            stream.num_sent = len(stream.text)
        return True

    def _tell_ends(self) -> None:
        """In one round trip. Those of an outage are dropped: readers look at the row when Redis is back."""
        ended = [self._ends.popleft() for _ in range(len(self._ends))]
        if ended and self._clock() >= self._rest_until and not self._events.ends(ended):
            self._rest_until = self._clock() + REST_SECONDS

    def _wanted(self, stream: _Stream) -> bool:
        return not stream.on_demand or self._interest.wants(stream.ref.job_id)

    def _take_in(self) -> None:
        grown: dict[str, list[TextDelta]] = {}
        while self._new:
            for delta in self._new.popleft():
                grown.setdefault(delta.request_id, []).append(delta)
        for request_id, deltas in grown.items():
            self._fresh.discard(request_id)
            if stream := self._streams.get(request_id):
                stream.take_in(deltas)

    def _wake(self) -> None:
        if not self._some.is_set():
            self._some.set()

    def _hear_news(self) -> None:
        self._some.set()
        self._urgent.set()

    def _run(self) -> None:
        """The first text of a job goes out at once; what comes within the interval after it goes together. While nobody
        follows anything there is only to be counted: each look takes a core from the engine for a moment."""
        while not self._stopping.is_set():
            self._some.wait()
            self._some.clear()
            self.flush()
            self._tell_ends()
            self._urgent.wait(max(self._interval_seconds, CALM_SECONDS) if self._is_calm else self._interval_seconds)
            self._urgent.clear()
        self.flush()
        self._tell_ends()
