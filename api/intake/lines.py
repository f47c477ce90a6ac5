"""Bytes to numbered lines, whatever pieces they come in. Holds one line at most, and of a too long one nothing."""

from __future__ import annotations

from typing import NamedTuple

BOM = b"\xef\xbb\xbf"


class RawLine(NamedTuple):
    """A line that is not blank. `number` counts from 1, as an editor does; `data` is None for one that is too long."""

    number: int
    data: bytes | None


class LineSplitter:
    """Splits at line feeds; a carriage return before one is white space, and so is a byte order mark at the start."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._number = 0
        self._pieces: list[bytes] = []
        self._num_bytes = 0

    def feed(self, chunk: bytes) -> list[RawLine]:
        """The lines that end in this piece."""
        *ended, rest = chunk.split(b"\n")
        lines: list[RawLine] = []
        for piece in ended:
            self._hold(piece)
            self._end_line(lines)
        self._hold(rest)
        return lines

    def finish(self) -> list[RawLine]:
        """The last line, if no line feed ended it."""
        lines: list[RawLine] = []
        self._end_line(lines)
        return lines

    def _hold(self, piece: bytes) -> None:
        self._num_bytes += len(piece)
        if self._num_bytes > self._max_line_bytes:
            self._pieces.clear()
        elif piece:
            self._pieces.append(piece)

    def _end_line(self, lines: list[RawLine]) -> None:
        self._number += 1
        too_long = self._num_bytes > self._max_line_bytes
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._num_bytes = 0
        if too_long:
            lines.append(RawLine(self._number, None))
            return
        if self._number == 1:
            data = data.removeprefix(BOM)
        if not data.isspace() and data:
            lines.append(RawLine(self._number, data))
