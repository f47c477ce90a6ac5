"""What happens in the batches that somebody follows, looked up once for all the readers of a process.

One watch a batch: every half second at most it reads the batch's row, and, where lines have ended, those lines once. A
reader near the newest line is served from what the watch holds; one that is far behind reads its own pages. So a
thousand readers cost the database what one does. The rows are the truth; nothing here is ever told by Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool

from api.batch_shapes import batch_object
from api.wire import BatchObject
from jobs.errors import NotFound, StoreUnavailable
from jobs.lines import render
from jobs.store import Store

LOOK_SECONDS = 0.5
HELD_LINES = 256
HELD_BYTES = 4 * 1024 * 1024
PAGE_LINES = 100


class Line(NamedTuple):
    """A line as the files have it, without its newline. `end_number`: the cursor that stands behind it."""

    end_number: int
    text: str


def read_lines(store: Store, batch: BatchObject, after: int, limit: int = PAGE_LINES) -> list[Line]:
    """The next lines that ended, in the order of their ends. Blocks."""
    found = store.ended_lines(batch.id, after=after, limit=limit)
    return [Line(line.end_number, render(line, batch.endpoint).decode().removesuffix("\n")) for line in found]


class BatchWatch:
    """One batch. `batch` is how it was last seen; `version` counts the looks that found something new."""

    def __init__(self, store: Store, batch: BatchObject, num_ends: int) -> None:
        self.batch = batch
        self.num_ends = num_ends
        self.version = 0
        self.num_readers = 0
        self._store = store
        self._held: deque[Line] = deque()
        self._held_bytes = 0
        self._held_after = num_ends
        """The lines held are those past this cursor."""
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def changed(self, version: int, timeout_seconds: float) -> None:
        """Return once there is something newer than `version`, or after the timeout."""
        if self.version != version:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._changed.wait()

    async def lines(self, after: int) -> Sequence[Line]:
        """Lines that ended past the cursor: some, or none if there are none yet."""
        if after >= self.num_ends:
            return ()
        if after >= self._held_after:
            return [line for line in self._held if line.end_number > after]
        return await run_in_threadpool(read_lines, self._store, self.batch, after)

    def stop(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            # Not seen this time: the readers wait on, and hear of the end when the database is back.
            with contextlib.suppress(StoreUnavailable, NotFound):
                await self._look()

    async def _look(self) -> None:
        row, counts = await run_in_threadpool(self._store.get_batch, self.batch.id)
        batch = batch_object(row, counts)
        fresh = await self._fresh(row.num_ends)
        if batch == self.batch and not fresh and row.num_ends == self.num_ends:
            return
        self._hold(fresh)
        self.batch, self.num_ends = batch, row.num_ends
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def _fresh(self, num_ends: int) -> list[Line]:
        """The lines since the last look. Of very many only the last pages: who is behind them reads for itself."""
        behind = num_ends - self.num_ends
        if behind <= 0:
            return []
        after = self.num_ends if behind <= HELD_LINES else num_ends - HELD_LINES
        lines = await run_in_threadpool(read_lines, self._store, self.batch, after, HELD_LINES)
        if after != self.num_ends:
            self._held.clear()
            self._held_bytes, self._held_after = 0, after
        return [line for line in lines if line.end_number <= num_ends]

    def _hold(self, lines: Sequence[Line]) -> None:
        self._held.extend(lines)
        self._held_bytes += sum(len(line.text) for line in lines)
        while len(self._held) > HELD_LINES or self._held_bytes > HELD_BYTES:
            dropped = self._held.popleft()
            self._held_bytes -= len(dropped.text)
            self._held_after = dropped.end_number


class BatchWatches:
    """The watches of one process, by batch. Lives in one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watches: dict[str, BatchWatch] = {}

    @asynccontextmanager
    async def follow(self, batch_id: str, owner: str | None) -> AsyncGenerator[BatchWatch]:
        """A watch, as long as the block lasts. Raises NotFound, StoreUnavailable."""
        row, counts = await run_in_threadpool(self._store.get_batch, batch_id, owner)
        watch = self._watches.get(batch_id)
        if watch is None:
            watch = self._watches[batch_id] = BatchWatch(self._store, batch_object(row, counts), row.num_ends)
        watch.num_readers += 1
        try:
            yield watch
        finally:
            watch.num_readers -= 1
            if watch.num_readers == 0:
                watch.stop()
                del self._watches[batch_id]

    def num_readers(self, batch_id: str) -> int:
        watch = self._watches.get(batch_id)
        return 0 if watch is None else watch.num_readers

    async def aclose(self) -> None:
        for watch in self._watches.values():
            watch.stop()
