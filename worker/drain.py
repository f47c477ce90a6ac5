"""How a worker ends: stop taking, finish what is held, give the rest back.

    first signal     take no more messages; what waits in the engine goes back at once; what runs may finish for
                     `drain_seconds`, then it is interrupted (outcome `interrupted`: queued again, costs no attempt)
    second signal    interrupt now
    then             Celery's own stop, which finds nothing running

Celery's consumer keeps turning during all of it, so that messages are acknowledged and Flower sees the ends. Knows no
job by name.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("penstock.drain")

STORE_SECONDS = 10.0
"""After the last generation has ended: how long its result may wait for the database."""
LOOK_SECONDS = 0.2


class Drain:
    """One worker's end. `close_gate`, `stop_engine(drain_seconds)`, `interrupt` and `wait_idle(timeout)` do the
    work; `exit_with(status)` lets Celery stop."""

    def __init__(
        self,
        drain_seconds: float,
        *,
        close_gate: Callable[[], None],
        stop_engine: Callable[[float], None],
        interrupt: Callable[[], None],
        wait_idle: Callable[[float], bool],
        exit_with: Callable[[int], None],
    ) -> None:
        self._drain_seconds = drain_seconds
        self._close_gate = close_gate
        self._stop_engine = stop_engine
        self._interrupt = interrupt
        self._wait_idle = wait_idle
        self._exit_with = exit_with
        self._until = float("inf")
        self._exit_status = 0
        self.begun = threading.Event()
        self.over = threading.Event()

    def begin(self, exit_status: int = 0) -> None:
        """The first time: drain. Again: at once."""
        if self.begun.is_set():
            self.hurry(exit_status)
            return
        self._until = time.monotonic() + self._drain_seconds
        self._exit_status = exit_status
        self.begun.set()
        _in_thread("drain", self._run)

    def hurry(self, exit_status: int = 0) -> None:
        """Interrupt what runs, now."""
        self._exit_status = self._exit_status or exit_status
        if not self.begun.is_set():
            self.begin(exit_status)
        if self._until > time.monotonic():
            self._until = time.monotonic()
            _in_thread("drain-hurry", self._cut)

    def finish(self) -> None:
        """Wait for the end of a drain, beginning one if nobody has: Celery stops for a reason of its own."""
        if not self.begun.is_set():
            self.begin()
        self.over.wait()

    def _run(self) -> None:
        logger.info("Draining: no more jobs are taken; running ones may finish for %.0f s.", self._drain_seconds)
        self._close_gate()
        _in_thread("drain-engine", lambda: self._stop_engine(max(self._until - time.monotonic(), 0.0)))
        if not self._idle_by(lambda: self._until):
            self._cut()
            patience = time.monotonic() + STORE_SECONDS
            if not self._idle_by(lambda: patience):
                logger.warning("Some jobs did not come back; their leases will run out.")
        self.over.set()
        self._exit_with(self._exit_status)

    def _cut(self) -> None:
        self._interrupt()
        self._stop_engine(0.0)

    def _idle_by(self, until: Callable[[], float]) -> bool:
        while (left := until() - time.monotonic()) > 0:
            if self._wait_idle(min(left, LOOK_SECONDS)):
                return True
        return self._wait_idle(0)


def _in_thread(name: str, work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()
