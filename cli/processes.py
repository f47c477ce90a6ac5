"""Child processes that cannot outlive their parent, and the signals that a parent waits for.

A child runs in a session of its own, so ctrl-C in the terminal reaches only the parent, which then stops its
children in order. If the parent is killed outright, the kernel sends each child its `death_signal` (Linux).
Start children from the main thread only: the kernel watches the thread that forked.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, Self

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a child on a leash. It gets no standard input."""
    parent = os.getpid()

    def leash() -> None:  # runs in the child, between fork and exec: no locks, no imports
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, int(death_signal))
        if os.getppid() != parent:  # the parent died before the leash was on
            os._exit(1)

    return subprocess.Popen(
        list(command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=leash,  # noqa: PLW1509 (the parent has one thread)
    )


def signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a child and whatever it started; nothing happens if it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if child.returncode is None:
            os.killpg(child.pid, number)


def describe_end(status: int) -> str:
    """A `Popen.returncode` in words."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def tail(log: Path, *, start: int = 0, num_lines: int = 8) -> list[str]:
    """Last lines of a log, of what was written from byte `start` on."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - 64 * 1024))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-num_lines:]


class SignalWatch:
    """Turns signals into something to wait for: `wait` returns when one comes, or a child ends.

    `num_stops` counts SIGINT, SIGTERM and SIGHUP since the start.
    """

    STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.num_stops = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        self._previous = {number: signal.signal(number, self._stop) for number in self.STOPS}
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _nothing)
        self._previous_wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        signal.set_wakeup_fd(self._previous_wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._read_end)
        os.close(self._write_end)

    def wait(self, timeout_seconds: float | None) -> None:
        """Sleep until a signal, a child's end, or the timeout."""
        if select.select([self._read_end], [], [], timeout_seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._read_end, 4096):
                    pass

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.num_stops += 1


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """SIGCHLD needs a handler for the wakeup descriptor to be written."""
