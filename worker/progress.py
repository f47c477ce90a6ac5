"""How far something long has come: a bar for a person, a line now and then for a log.

Knows fractions and bytes; not what is being loaded.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

logger = logging.getLogger("penstock.progress")

LINE_SECONDS = 10.0
"""Without a terminal: at most one line in so long."""


class Meter:
    """Shows one task's progress on standard error. `total` in bytes, or 1.0 for a plain fraction."""

    def __init__(self, label: str, total: float | None = None, *, terminal: bool | None = None) -> None:
        self._label, self._total, self._done = label, total, 0.0
        self._next_line_at = time.monotonic() + LINE_SECONDS
        on_terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar = _make_bar(in_bytes=total != 1.0) if on_terminal else None
        self._task = self._bar.add_task(label, total=total) if self._bar else None

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar.start()
        else:
            logger.info("%s …", self._label)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None:
            logger.info("%s: done", self._label)

    def advance(self, amount: float) -> None:
        self.reach(self._done + amount)

    def reach(self, done: float) -> None:
        self._done = done
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done)
        elif time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + LINE_SECONDS
            logger.info("%s: %s", self._label, self._describe())

    def _describe(self) -> str:
        if self._total:
            return f"{100 * self._done / self._total:.0f} %"
        return f"{self._done / 2**20:.0f} MiB"


def loading(label: str) -> tuple[Meter, Callable[[float], None]]:
    """A meter for a fraction from 0 to 1, and the callback that moves it."""
    meter = Meter(label, 1.0)
    return meter, meter.reach


def _make_bar(*, in_bytes: bool) -> Progress:
    console = Console(stderr=True)
    label, bar = TextColumn("{task.description}"), BarColumn()
    if in_bytes:
        return Progress(label, bar, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), console=console)
    return Progress(label, bar, TextColumn("{task.percentage:>3.0f} %"), console=console)
