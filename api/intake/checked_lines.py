"""The lines of one file on their way to the checked file (`jobs.checked`): checked in parallel, written in order.

Blocks of lines are checked by a few threads (counting tokens releases the interpreter's lock, and is the larger half
of the work); what depends on the lines before (custom ids, groups, the count) is done here, one line after the other.
At most a few blocks are held at a time. Knows no form and no vault.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field

from api.intake.checker import BadLine, GoodLine, check_line
from api.intake.custom_ids import SeenIds
from api.intake.lines import LineSplitter, RawLine
from api.intake.prefixes import PrefixGroups
from api.models import ServedModel
from jobs.checked import dump_invalid, dump_valid
from jobs.errors import InvalidRequest

BLOCK_LINES = 256
BLOCK_BYTES = 512 * 1024
MAX_BLOCKS = 4

Checked = GoodLine | BadLine


@dataclass(slots=True)
class Tally:
    """What the lines of a file come to. `urls`: how many that can run each has."""

    num_lines: int = 0
    num_invalid: int = 0
    urls: Counter[str] = field(default_factory=Counter)


class CheckedLines:
    """Takes the bytes of a file and gives the bytes of the checked file to `write`. One thread at a time may call."""

    def __init__(
        self,
        write: Callable[[bytes], object],
        model: ServedModel,
        executor: Executor,
        *,
        max_line_bytes: int,
        max_lines: int,
    ) -> None:
        self._write = write
        self._model = model
        self._executor = executor
        self._max_line_bytes = max_line_bytes
        self._max_lines = max_lines
        self._splitter = LineSplitter(max_line_bytes)
        self._block: list[RawLine] = []
        self._block_bytes = 0
        self._under_way: deque[Future[list[Checked]]] = deque()
        self._seen = SeenIds()
        self._groups = PrefixGroups()
        self._tally = Tally()

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Blocks while enough is under way. Raises InvalidRequest for too many lines."""
        self._add(self._splitter.feed(data))

    def finish(self) -> Tally:
        """The file is over: check and write what is left. Raises InvalidRequest for a file without lines."""
        self._add(self._splitter.finish())
        self._submit()
        while self._under_way:
            self._settle()
        if self._tally.num_lines == 0:
            raise InvalidRequest("file: it has no lines.", param="file", code="empty_file")
        return self._tally

    def _add(self, lines: Sequence[RawLine]) -> None:
        for line in lines:
            self._block.append(line)
            self._block_bytes += len(line.data or b"")
            if len(self._block) >= BLOCK_LINES or self._block_bytes >= BLOCK_BYTES:
                self._submit()

    def _submit(self) -> None:
        self._count(len(self._block))
        self._under_way.append(self._executor.submit(_check_block, self._block, self._model, self._max_line_bytes))
        self._block, self._block_bytes = [], 0
        if len(self._under_way) >= MAX_BLOCKS:
            self._settle()

    def _count(self, num_lines: int) -> None:
        self._tally.num_lines += num_lines
        if self._tally.num_lines > self._max_lines:
            message = f"file: it has more than {self._max_lines} lines, which is the limit."
            raise InvalidRequest(message, param="file", code="too_many_lines")

    def _settle(self) -> None:
        """Write the oldest block that is under way."""
        lines = self._under_way.popleft().result()
        self._write(b"".join([self._dumped(line) for line in lines]))

    def _dumped(self, line: Checked) -> bytes:
        first = None if line.custom_id is None else self._seen.first_line(line.custom_id, line.number)
        if isinstance(line, GoodLine) and first is None:
            self._tally.urls[line.url] += 1
            order = self._groups.order(line.prefix, line.number)
            return dump_valid(line.number, line.custom_id, line.url, line.job, order)
        self._tally.num_invalid += 1
        if isinstance(line, GoodLine):
            reason = f"custom_id: line {first} has the same one."
            line = BadLine(line.number, line.custom_id, "duplicate_custom_id", reason, "custom_id")
        return dump_invalid(line.number, line.custom_id, line.code, f"line {line.number}: {line.message}", line.param)


def _check_block(lines: Sequence[RawLine], model: ServedModel, max_line_bytes: int) -> list[Checked]:
    return [check_line(line, model, max_line_bytes) for line in lines]
