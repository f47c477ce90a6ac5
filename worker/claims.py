"""Claims jobs, many in one transaction.

A transaction costs its round trips and its turn at the database whatever is in it. An interactive job's claim is made
at once; a batch line's waits an instant for others, whose messages come one after the other, unless a slot stands
empty. Those that come meanwhile go together into the next transaction. Knows ids; not what the jobs say.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from typing import Protocol

from jobs.errors import StoreUnavailable
from jobs.records import ClaimedJob

MAX_GROUP = 128
GATHER_SECONDS = 0.02
"""How long a batch line's claim waits for others."""


class Claims(Protocol):
    """The part of the store that claims. `in_company`: not a job on its last attempt, which runs alone."""

    def claim(self, job_id: str, worker: str, *, in_company: bool = False) -> ClaimedJob | None: ...
    def claim_many(self, job_ids: Collection[str], worker: str) -> Mapping[str, ClaimedJob]: ...
    def runs_alone(self, job_id: str) -> bool: ...


class _Wish:
    def __init__(self, job_id: str, *, at_once: bool) -> None:
        self.job_id = job_id
        self.at_once = at_once
        self.granted: Future[ClaimedJob | None] = Future()


class ClaimWriter:
    """One thread that claims for `worker`. `claim` may be called from any thread, and waits for its answer.

    `is_short`: whether a slot stands empty, so that a line shall not wait for others."""

    def __init__(self, store: Claims, worker: str, is_short: Callable[[], bool] = lambda: False) -> None:
        self._store = store
        self._worker = worker
        self._is_short = is_short
        self._waiting: deque[_Wish] = deque()
        self._some = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="claim-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def claim(self, job_id: str, *, at_once: bool = True) -> ClaimedJob | None:
        """Take a queued job in the company of others, as `Store.claim` does. `at_once`: somebody waits for it. Raises
        StoreUnavailable."""
        wish = _Wish(job_id, at_once=at_once)
        with self._some:
            if self._closing:
                raise StoreUnavailable("the worker stops")
            self._waiting.append(wish)
            if at_once or len(self._waiting) in (1, MAX_GROUP):  # else the writer is awake, or waits for time only
                self._some.notify()
        return wish.granted.result()

    def stop(self) -> None:
        """Answer who waits, and end."""
        with self._some:
            self._closing = True
            self._some.notify()
        if self._thread.ident:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while group := self._next_group():
            self._answer(group)

    def _next_group(self) -> dict[str, _Wish]:
        """Who waits, by job; empty only when closing. Two messages of one job are answered one after the other."""
        with self._some:
            self._some.wait_for(lambda: self._waiting or self._closing)
            self._some.wait_for(self._is_pressing, GATHER_SECONDS)
            group: dict[str, _Wish] = {}
            while self._waiting and len(group) < MAX_GROUP and self._waiting[0].job_id not in group:
                wish = self._waiting.popleft()
                group[wish.job_id] = wish
            return group

    def _is_pressing(self) -> bool:
        full = len(self._waiting) >= MAX_GROUP
        return self._closing or full or any(wish.at_once for wish in self._waiting) or self._is_short()

    def _answer(self, group: Mapping[str, _Wish]) -> None:
        try:
            claimed = self._store.claim_many(group.keys(), self._worker)
        except StoreUnavailable as outage:
            _fail(group, outage)
        except Exception as error:
            # One job that cannot be claimed must not keep the others waiting.
            self._answer_each(group) if len(group) > 1 else _fail(group, error)
        else:
            for job_id, wish in group.items():
                wish.granted.set_result(claimed.get(job_id))

    def _answer_each(self, group: Mapping[str, _Wish]) -> None:
        for job_id, wish in group.items():
            self._answer({job_id: wish})


def _fail(group: Mapping[str, _Wish], error: Exception) -> None:
    for wish in group.values():
        wish.granted.set_exception(error)
