"""Stores how attempts ended, many in one transaction.

A commit costs a flush of the disk whatever is in it, and milliseconds of a processor. An interactive end is written at
once; a batch line's waits an instant for those of the same step of the engine, unless a slot stands empty, and the
worker may take its next line the sooner for it. What comes while others are being written goes together into the next
transaction. While the database is away the ends are held and tried again until they are stored or the store says that
the lease is lost. Nothing is dropped, and nobody is told that a result is stored before it is durable.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from jobs.errors import LeaseLost, StoreUnavailable
from jobs.records import AttemptRef, Outcome
from jobs.states import JobState

logger = logging.getLogger("penstock.results")

MAX_GROUP = 128
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 2.0
GATHER_SECONDS = 0.02
"""How long a batch line's end waits for others: a step ends several, each told by a thread of its own."""
_GIVEN_UP = "the worker stopped before the database came back"

Stored = JobState | LeaseLost


class Finishes(Protocol):
    """The part of the store that ends attempts."""

    def finish_many(self, ends: Sequence[tuple[AttemptRef, Outcome]]) -> list[Stored]: ...


class _End:
    def __init__(self, ref: AttemptRef, outcome: Outcome, *, at_once: bool) -> None:
        self.pair = (ref, outcome)
        self.at_once = at_once
        self.stored: Future[JobState] = Future()

    def settle(self, answer: Stored) -> None:
        if isinstance(answer, LeaseLost):
            self.stored.set_exception(answer)
        else:
            self.stored.set_result(answer)


class ResultWriter:
    """One thread that writes. `finish` may be called from any thread, and waits until its end is durable.

    `is_short`: as of `ClaimWriter`."""

    def __init__(self, store: Finishes, is_short: Callable[[], bool] = lambda: False) -> None:
        self._store = store
        self._is_short = is_short
        self._waiting: deque[_End] = deque()
        self._some = threading.Condition()
        self._closing = self._gave_up = False
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="result-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, ref: AttemptRef, outcome: Outcome, *, at_once: bool = True) -> JobState:
        """Store one end. Returns the job's state after it; raises LeaseLost when the attempt is stale, and
        StoreUnavailable only when the worker stops before the database comes back. `at_once`: somebody waits for it."""
        end = _End(ref, outcome, at_once=at_once)
        with self._some:
            if self._gave_up:
                raise StoreUnavailable(_GIVEN_UP)
            self._waiting.append(end)
            if at_once or len(self._waiting) in (1, MAX_GROUP):  # else the writer is awake, or waits for time only
                self._some.notify()
        return end.stored.result()

    def close(self, timeout_seconds: float) -> int:
        """Write what waits, for so long at most. Returns how many ends were given up (their leases run out)."""
        with self._some:
            self._closing = True
            self._some.notify()
        if self._thread.ident:
            self._thread.join(timeout_seconds)
        self._hurry.set()
        if self._thread.ident:
            self._thread.join(1.0)
        return self._give_up()

    def _run(self) -> None:
        group: list[_End] = []
        pause = FIRST_RETRY_SECONDS
        while group := self._next_group(group):
            try:
                self._write(group)
                group, pause = [], FIRST_RETRY_SECONDS
            except StoreUnavailable:
                logger.warning("%d ends wait for the database; next try in %.1f s.", len(group), pause)
                if self._hurry.wait(pause):
                    break
                pause = min(2 * pause, LAST_RETRY_SECONDS)
        with self._some:
            self._waiting.extendleft(reversed(group))

    def _next_group(self, held: list[_End]) -> list[_End]:
        """What could not be stored yet, and what came since; empty only when closing."""
        with self._some:
            self._some.wait_for(lambda: held or self._waiting or self._closing)
            self._some.wait_for(self._is_pressing, GATHER_SECONDS)
            while self._waiting and len(held) < MAX_GROUP:
                held.append(self._waiting.popleft())
            return held

    def _is_pressing(self) -> bool:
        full = len(self._waiting) >= MAX_GROUP
        return self._closing or full or any(end.at_once for end in self._waiting) or self._is_short()

    def _write(self, group: list[_End]) -> None:
        try:
            answers = self._store.finish_many([end.pair for end in group])
        except StoreUnavailable:
            raise
        except Exception as error:
            # One end that cannot be stored must not take the others with it.
            self._write_each(group) if len(group) > 1 else group[0].stored.set_exception(error)
            return
        for end, answer in zip(group, answers, strict=True):
            end.settle(answer)

    def _write_each(self, group: list[_End]) -> None:
        for end in group:
            if not end.stored.done():
                self._write([end])

    def _give_up(self) -> int:
        with self._some:
            self._gave_up = True
            left = [end for end in self._waiting if not end.stored.done()]
            self._waiting.clear()
        for end in left:
            end.stored.set_exception(StoreUnavailable(_GIVEN_UP))
        return len(left)
