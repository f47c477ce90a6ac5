"""The lines of one file on their way to the checked file (`jobs.checked`).

Each is checked by itself (`api.intake.checker`); what depends on the lines before it (custom ids, groups, the count)
is added here. In one thread: counting tokens, half of the work, leaves the interpreter's lock to the event loop, and
more threads would hand that lock to and fro for each line. Knows no form and no vault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from api.intake.checker import BadLine, LineChecker
from api.intake.custom_ids import SeenIds
from api.intake.lines import LineSplitter, RawLine
from api.intake.prefixes import PrefixGroups
from api.models import ServedModel
from jobs.checked import dump_invalid, dump_valid
from jobs.errors import InvalidRequest
from jobs.settings import Settings


@dataclass(slots=True)
class Tally:
    """What the lines of a file come to. `urls`: how many that can run each has, `tokens`: how many tokens they ask
    for, prompt and completion."""

    num_lines: int = 0
    num_invalid: int = 0
    urls: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)


class CheckedLines:
    """Takes the bytes of a file and gives the bytes of the checked file to `write`. One thread at a time may call."""

    def __init__(self, write: Callable[[bytes], object], model: ServedModel, settings: Settings) -> None:
        self._write = write
        self._max_lines = settings.max_batch_lines
        self._splitter = LineSplitter(settings.max_line_bytes)
        self._checker = LineChecker(model, settings.max_line_bytes)
        self._seen = SeenIds()
        self._groups = PrefixGroups()
        self._tally = Tally()

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises InvalidRequest for too many lines."""
        self._take(self._splitter.feed(data))

    def finish(self) -> Tally:
        """The file is over. Raises InvalidRequest for one without lines."""
        self._take(self._splitter.finish())
        if self._tally.num_lines == 0:
            raise InvalidRequest("file: it has no lines.", param="file", code="empty_file")
        return self._tally

    def _take(self, lines: Sequence[RawLine]) -> None:
        self._tally.num_lines += len(lines)
        if self._tally.num_lines > self._max_lines:
            message = f"file: it has more than {self._max_lines} lines, which is the limit."
            raise InvalidRequest(message, param="file", code="too_many_lines")
        self._write(b"".join([self._dumped(line) for line in lines]))

    def _dumped(self, raw: RawLine) -> bytes:
        line = self._checker.check(raw)
        first = None if line.custom_id is None else self._seen.first_line(line.custom_id, line.number)
        if isinstance(line, BadLine):
            return self._refused(line)
        if first is not None:
            reason = f"custom_id: line {first} has the same one."
            return self._refused(BadLine(line.number, line.custom_id, "duplicate_custom_id", reason, "custom_id"))
        self._tally.urls[line.url] += 1
        self._tally.tokens[line.url] += line.job["num_prompt_tokens"] + line.job["parameters"]["max_tokens"]
        order = self._groups.order(line.prefix, line.number)
        return dump_valid(line.number, line.custom_id, line.url, line.job, order)

    def _refused(self, line: BadLine) -> bytes:
        self._tally.num_invalid += 1
        return dump_invalid(line.number, line.custom_id, line.code, f"line {line.number}: {line.message}", line.param)
