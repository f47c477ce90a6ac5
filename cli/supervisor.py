"""Keeps the roles of one machine running, and stops them in order. Knows processes, not what they do.

A role that ends by itself is started again after a pause that doubles from one failure to the next; once it has been
up for `healthy_seconds` the count starts anew. An essential role that fails `quick_failures` times in a row cannot
start, and ends the whole system with the last lines it wrote. A role that is killed from outside, once the system
has been ready, is always started again.

Stopping goes in waves: the roles of the lowest `wave` get SIGTERM and their time to drain, then the next. Whoever
overstays is killed. A second request to stop kills at once, except the stores of the last wave, which close properly.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from cli.errors import StartFailed
from cli.processes import SignalWatch, describe_end, signal_group, spawn, tail

MAX_LOG_BYTES = 16 * 1024 * 1024
KILL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Role:
    """One process to keep. `stop_seconds` is how long it may take after SIGTERM."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    wave: int = 1
    stop_seconds: float = 10.0
    essential: bool = True
    is_store: bool = False
    """Closes its files on SIGTERM within a moment: never killed before it had the chance."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When to try again, and when no more."""

    first_seconds: float = 0.5
    max_seconds: float = 30.0
    healthy_seconds: float = 60.0
    quick_failures: int = 3

    def pause_seconds(self, failures: int) -> float:
        return float(min(self.first_seconds * 2 ** (failures - 1), self.max_seconds))


@dataclass
class Running:
    """A role and the process that has it now, if any."""

    role: Role
    log: Path
    child: subprocess.Popen[bytes] | None = None
    log_start: int = 0
    started_at: float = 0.0
    failures: int = 0
    due_at: float = 0.0

    @property
    def alive(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def last_lines(self) -> list[str]:
        return tail(self.log, start=self.log_start)


@dataclass
class Supervisor:
    """Owns the children. Every method is for the main thread. `say` gets a line for a person."""

    logs: Path
    signals: SignalWatch
    say: Callable[[str], None]
    patience: Patience = field(default_factory=Patience)
    clock: Callable[[], float] = time.monotonic
    running: list[Running] = field(default_factory=list)
    was_ready: bool = False

    def start(self, role: Role) -> Running:
        """Start a role and keep it."""
        log = self.logs / f"{role.name}.log"
        _rotate(log)
        entry = Running(role, log)
        self.running.append(entry)
        self._launch(entry)
        return entry

    def run_until(self, done: Callable[[], bool], *, look_seconds: float | None = None) -> bool:
        """Keep the roles until `done` (looked at every `look_seconds`), or until a stop is asked for (False).

        Raises:
            StartFailed: an essential role cannot start.
        """
        while not self.signals.num_stops:
            self.mend()
            if done():
                return True
            self.signals.wait(self._nap_seconds(look_seconds))
        return False

    def mend(self) -> None:
        """Notice roles that ended; start those that are due."""
        for entry in self.running:
            if entry.child is not None and entry.child.poll() is not None:
                self._lost(entry, entry.child.returncode)
            if entry.child is None and self.clock() >= entry.due_at:
                self._launch(entry)

    def stop(self) -> None:
        """Stop everything, wave by wave. Returns when no child is left."""
        asked = self.signals.num_stops
        for wave in sorted({entry.role.wave for entry in self.running}):
            entries = [entry for entry in self.running if entry.role.wave == wave]
            self._stop_wave(entries, at_once=lambda: self.signals.num_stops > max(asked, 1))
        self.running.clear()

    def _launch(self, entry: Running) -> None:
        with _append(entry.log) as log:
            entry.log_start = log.tell()
            death = signal.SIGTERM if entry.role.is_store else signal.SIGKILL
            entry.child = spawn(
                entry.role.command,
                environment=entry.role.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                death_signal=death,
            )
        entry.started_at = self.clock()

    def _lost(self, entry: Running, status: int) -> None:
        entry.child = None
        if self.clock() - entry.started_at >= self.patience.healthy_seconds:
            entry.failures = 0
        entry.failures += 1
        name, end = entry.role.name, describe_end(status)
        from_outside = status < 0 and self.was_ready
        if entry.role.essential and not from_outside and entry.failures >= self.patience.quick_failures:
            raise StartFailed(
                f"{name} failed {entry.failures} times in a row ({end}); its log is {entry.log}.", entry.last_lines()
            )
        pause = self.patience.pause_seconds(entry.failures)
        entry.due_at = self.clock() + pause
        self.say(f"{name} ended ({end}); starting it again in {pause:.1f} s. Its log: {entry.log}")

    def _nap_seconds(self, look_seconds: float | None) -> float | None:
        """Until the next role is due, or the next look."""
        waits = [max(entry.due_at - self.clock(), 0.0) for entry in self.running if entry.child is None]
        return min([*waits, *([look_seconds] if look_seconds is not None else [])], default=None)

    def _stop_wave(self, entries: Sequence[Running], *, at_once: Callable[[], bool]) -> None:
        started = self.clock()
        for entry in entries:
            _signal(entry, signal.SIGTERM)
        while alive := [entry for entry in entries if entry.alive]:
            for entry in alive:
                patience = entry.role.stop_seconds
                if at_once():
                    patience = min(patience, KILL_SECONDS) if entry.role.is_store else 0.0
                if self.clock() - started >= patience:
                    _signal(entry, signal.SIGKILL)
            self.signals.wait(0.5)


def _signal(entry: Running, number: signal.Signals) -> None:
    if entry.child is not None:
        signal_group(entry.child, number)


def _append(log: Path) -> IO[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    return log.open("ab")


def _rotate(log: Path) -> None:
    """Keep one older log, so that logs stay bounded from one start to the next."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))


class LogMirror:
    """Shows what the roles write, line by line, with the role's name before it."""

    def __init__(self, supervisor: Supervisor, show: Callable[[str, str], None]) -> None:
        self.supervisor = supervisor
        self.show = show
        self._positions: dict[Path, int] = {}

    def look(self) -> None:
        """Show whole lines written since the last look."""
        for entry in self.supervisor.running:
            position = self._positions.setdefault(entry.log, entry.log_start)
            with entry.log.open("rb") as log:
                log.seek(position)
                whole, newline, _ = log.read().rpartition(b"\n")
            self._positions[entry.log] = position + len(whole) + len(newline)
            for line in whole.decode("utf-8", "replace").splitlines() if newline else ():
                self.show(entry.role.name, line)
