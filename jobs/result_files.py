"""Result files: ended lines become bytes in the vault, in segments that never change and never move.

Owns how a batch's output and error file come about: appended to in the order in which lines end (or written at once
in the order of the input), and put together into one object. Knows no office and no clock: the clerk says when.

Each append is object first, row after. The row is guarded by the cursor it starts from and by the number of its lines:
whoever is killed between the two, or overtaken by another clerk, leaves an object that no row names and nobody
reads. A line is in a file exactly if the transaction that moved the cursor past it has committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from jobs.ends import EndedLine
from jobs.errors import PenstockError
from jobs.files import Vault, output_name
from jobs.ids import new_file_id
from jobs.lines import render
from jobs.records import NewSegment
from jobs.store import Store
from jobs.tables import Batch, FileSegment

Kind = Literal["output", "error"]
KINDS: tuple[Kind, ...] = ("output", "error")

SEGMENT_BYTES = 64 * 1024 * 1024
SEGMENT_LINES = 20_000
"""One append takes no more than about so much: it is what a crash can make us do again."""
PAGE_BYTES = 1024 * 1024
MIN_PAGE, MAX_PAGE = 8, 512
"""Lines read at once: as many as are about `PAGE_BYTES` in the file, which is few if they bring logprobs."""
IDLE_ENDS = 1000
"""While a batch runs, a cursor that has only the other file's lines before it is not moved for fewer than so many."""
TAIL_SEGMENTS = 32
"""After so many appends to a growing file its small segments are put together."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What one append did. `more`: it left ended lines for the next one."""

    num_lines: int = 0
    more: bool = False


class ResultFiles:
    """Writes the files of batches. `keep` is called between the pieces of long work, and may raise to end it."""

    def __init__(self, store: Store, vault: Vault, keep: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._vault = vault
        self._keep = keep
        self._num_appends: dict[str, int] = {}

    def append(self, batch: Batch, kind: Kind) -> Appended:
        """Append what has ended since the cursor. `batch` is moved on too, as far as the row was.

        Raises:
            StoreUnavailable, StorageUnavailable: nothing is lost; the next append does it.
        """
        after = _cursor(batch, kind)
        if after >= batch.num_ends:
            return Appended()
        in_order = kind == "output" and batch.output_order == "input"
        if in_order and batch.ended_at is None:
            return Appended()
        lines = self._in_order(batch) if in_order else self._ended(batch, kind, after)
        first = next(lines, None)
        if first is None and batch.ended_at is None and batch.num_ends - after < IDLE_ENDS:
            return Appended()
        if first is None:
            return self._commit(batch, kind, None, batch.num_ends, more=False)
        return self._write(batch, kind, chain([first], lines), whole=in_order)

    def _write(self, batch: Batch, kind: Kind, lines: Iterator[tuple[int, bytes]], *, whole: bool) -> Appended:
        """Write a segment of these lines, all of them if it must be the `whole` file, and note it."""
        file_id, start = self._end_of_file(batch, kind)
        name, num_lines, newest, more = output_name(file_id, start), 0, 0, False
        with self._vault.writer(name) as out:
            for number, data in lines:
                out.write(data)
                num_lines, newest = num_lines + 1, max(newest, number)
                more = not whole and (num_lines >= SEGMENT_LINES or out.num_bytes >= SEGMENT_BYTES)
                if more:
                    break
        # What ended up to `num_ends`, as it was read before the lines were, has been seen; so has all up to the newest.
        cursor = newest if more else max(newest, batch.num_ends)
        return self._commit(batch, kind, NewSegment(file_id, start, out.num_bytes, num_lines, name), cursor, more=more)

    def _end_of_file(self, batch: Batch, kind: Kind) -> tuple[str, int]:
        file_id = batch.output_file_id if kind == "output" else batch.error_file_id
        return (new_file_id(), 0) if file_id is None else (file_id, self._store.get_file(file_id).num_bytes)

    def _commit(self, batch: Batch, kind: Kind, segment: NewSegment | None, cursor: int, *, more: bool) -> Appended:
        won = self._store.append_output(batch.id, kind, segment, after=_cursor(batch, kind), cursor=cursor)
        if not won:
            if segment is not None:
                self._drop(segment.object_name)
            return Appended()
        _move(batch, kind, cursor, segment.file_id if segment else None)
        if segment is None:
            return Appended()
        self._num_appends[segment.file_id] = self._num_appends.get(segment.file_id, 0) + 1
        return Appended(segment.num_lines, more)

    def _drop(self, name: str) -> None:
        """Delete an object that no row names. If that fails, the sweep finds it."""
        with suppress(PenstockError):
            self._vault.delete(name)

    def _ended(self, batch: Batch, kind: Kind, after: int) -> Iterator[tuple[int, bytes]]:
        """Lines of this kind past the end numbered `after`: their number and bytes."""

        def page(position: int, limit: int) -> Sequence[EndedLine]:
            return self._store.ended_lines(batch.id, after=position, limit=limit, succeeded=kind == "output")

        return self._rendered(batch, page, after, lambda line: line.end_number)

    def _in_order(self, batch: Batch) -> Iterator[tuple[int, bytes]]:
        """Succeeded lines in the order of the input."""

        def page(position: int, limit: int) -> Sequence[EndedLine]:
            return self._store.lines_in_order(batch.id, after_line=position, limit=limit, succeeded=True)

        return self._rendered(batch, page, -1, lambda line: line.job.line_number or 0)

    def _rendered(
        self,
        batch: Batch,
        read: Callable[[int, int], Sequence[EndedLine]],
        position: int,
        position_of: Callable[[EndedLine], int],
    ) -> Iterator[tuple[int, bytes]]:
        limit = MIN_PAGE
        while page := read(position, limit):
            self._keep()
            num_bytes = 0
            for line in page:
                data = render(line, batch.endpoint)
                num_bytes += len(data)
                yield line.end_number, data
            if len(page) < limit:
                return
            position = position_of(page[-1])
            limit = _next_limit(limit, num_bytes)

    def tidy(self, batch: Batch) -> list[str]:
        """Put the small segments of the batch's growing files together, now and then; names of objects to delete."""
        dropped: list[str] = []
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None and self._num_appends.get(file_id, 0) >= TAIL_SEGMENTS:
                del self._num_appends[file_id]
                dropped += self._merge(file_id, _tail(self._store.segments(file_id)))
        return dropped

    def compact(self, batch: Batch) -> list[str]:
        """Put all segments of the batch's files together, each into one object; names of objects to delete."""
        dropped: list[str] = []
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                self._num_appends.pop(file_id, None)
                dropped += self._merge(file_id, self._store.segments(file_id))
        return dropped

    def _merge(self, file_id: str, segments: Sequence[FileSegment]) -> list[str]:
        """Let one new object stand for these segments, which follow each other. No byte moves."""
        if len(segments) < 2:
            return []
        start = segments[0].start_byte
        name = output_name(file_id, start)
        with self._vault.writer(name) as out:
            for segment in segments:
                for piece in self._vault.read(segment.object_name, 0, segment.num_bytes):
                    self._keep()
                    out.write(piece)
        old = self._store.merge_segments(file_id, start, start + out.num_bytes, name)
        if not old:
            self._drop(name)
        return old


def _cursor(batch: Batch, kind: Kind) -> int:
    return batch.output_cursor if kind == "output" else batch.error_cursor


def _move(batch: Batch, kind: Kind, cursor: int, file_id: str | None) -> None:
    if kind == "output":
        batch.output_cursor, batch.output_file_id = cursor, file_id or batch.output_file_id
    else:
        batch.error_cursor, batch.error_file_id = cursor, file_id or batch.error_file_id


def _next_limit(limit: int, num_bytes: int) -> int:
    if num_bytes > 2 * PAGE_BYTES:
        return max(MIN_PAGE, limit // 2)
    return min(MAX_PAGE, 2 * limit) if num_bytes < PAGE_BYTES else limit


def _tail(segments: Sequence[FileSegment]) -> Sequence[FileSegment]:
    """The segments at the end that are small beside what follows them. A byte is copied a few times, not each time."""
    first, num_bytes = len(segments), 0
    while first > 0 and (num_bytes == 0 or segments[first - 1].num_bytes <= 2 * num_bytes):
        first -= 1
        num_bytes += segments[first].num_bytes
    return segments[first:]
