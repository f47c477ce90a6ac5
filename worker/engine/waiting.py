"""Requests that have no slot yet, and which of them gets the next one.

Interactive ones go in the order they came. Of the others the longest goes first: what is left near the end of a batch
is short then and fills the slots almost to the last step, where a long one that began late would decode by itself, for
the price of a whole tile a token. Nobody waits for ever: whoever came first goes after at most `patience` others.
Knows nothing of slots. Not safe for threads: the engine's lock is held around it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from worker.engine.generation import Generation, Request


class Waiting(NamedTuple):
    """One that waits. `submitted`: seconds of the monotonic clock."""

    generation: Generation
    submitted: float


def num_steps(request: Request, chunk_rows: int) -> int:
    """Steps for which a request may hold a slot: one for each chunk of its prompt, and one for each token."""
    return len(request.prefix_ids) // chunk_rows + request.max_tokens - len(request.taken_over)


class Queue:
    """Requests in the order of their turn: first come, first served; with `chunk_rows`, the longest first."""

    def __init__(self, chunk_rows: int | None = None, *, patience: int = 0) -> None:
        self._chunk_rows = chunk_rows
        self._patience = patience
        self._entries: dict[int, Waiting] = {}
        self._by_length: list[tuple[int, int]] = []
        self._serials = itertools.count()
        self._num_passed = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(list(self._entries.values()))

    def add(self, entry: Waiting) -> None:
        """Let one more wait."""
        serial = next(self._serials)
        self._entries[serial] = entry
        if self._chunk_rows is not None:
            steps = num_steps(entry.generation.request, self._chunk_rows)
            heapq.heappush(self._by_length, (-steps, serial))

    def first(self) -> Waiting | None:
        """Whose turn it is; None when nobody waits. Asked again it says the same, until somebody is added or taken."""
        return self._entries[self._turn()] if self._entries else None

    def take(self, entry: Waiting) -> None:
        """Take out one that was the first when it was asked for: a longer one may have come since."""
        serial = next(serial for serial, other in self._entries.items() if other is entry)
        self._num_passed = 0 if serial == self._oldest() else self._num_passed + 1
        del self._entries[serial]

    def take_all(self, wanted: Callable[[Generation], bool]) -> list[Waiting]:
        """Take out all that are `wanted`, whoever's turn it is."""
        serials = [serial for serial, entry in self._entries.items() if wanted(entry.generation)]
        return [self._entries.pop(serial) for serial in serials]

    def clear(self) -> None:
        """Forget everybody."""
        self._entries.clear()
        self._by_length.clear()

    def _turn(self) -> int:
        while self._by_length and self._by_length[0][1] not in self._entries:
            heapq.heappop(self._by_length)
        if not self._by_length or self._num_passed >= self._patience:
            return self._oldest()
        return self._by_length[0][1]

    def _oldest(self) -> int:
        return next(iter(self._entries))
