"""Signals that are answered on a thread.

Python runs a handler between any two steps of the main thread, so one that asks for a lock can wait for the very code
that it interrupted: `Event.set`, starting a thread and writing a log line all do. And while the main thread is inside a
long call of C (a model is loaded), no handler runs at all. So the interpreter's own note of a signal is read here, from
its wakeup descriptor, and the handlers do nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable


def on_signals(numbers: Iterable[int], answer: Callable[[int], None]) -> None:
    """Have `answer(number)` called for each of these signals, one after the other, on a thread. From the main thread,
    once: a process has one wakeup descriptor."""
    wanted = frozenset(numbers)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)

    def run() -> None:
        while notes := os.read(read_end, 64):
            for number in notes:
                if number in wanted:
                    answer(number)

    threading.Thread(target=run, name="signals", daemon=True).start()
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in wanted:
        signal.signal(number, lambda _number, _frame: None)


def stop_at_signals() -> threading.Event:
    """An event that SIGTERM or SIGINT sets. From the main thread."""
    stop = threading.Event()
    on_signals((signal.SIGTERM, signal.SIGINT), lambda _number: stop.set())
    return stop
