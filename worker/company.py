"""Who may run beside whom: a job on its last attempt runs alone in its worker, every other one in company.

A prompt can kill the process (a native fault in llama.cpp), and then every job in its slots loses an attempt, guilty
or not. Were they run together again, the innocent would spend their attempts with the culprit. So nobody's last
attempt has company: whoever is set aside as spent was alone when the worker died, and nobody was taken along.

Both waits come before the claim: a job that only waits is still queued, and a dying worker costs it nothing. They
take turns: who comes after somebody who wants to be alone waits for that one, and all who wait then go before the
next. Knows no job by name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Closed(Exception):
    """The worker drains: nobody new may run."""


class Company:
    """A lock that many share or one holds. `close` sends away all who wait, and all who come."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_together = 0
        self._num_waiting = 0
        self._num_due = 0
        """Of those who wait for company, how many go in before the next who wants to be alone."""
        self._num_shy = 0
        """Those who want to be alone, the one who is included."""
        self._alone = False
        self._closed = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Hold it with others. Raises Closed."""
        with self._changed:
            self._num_waiting += 1
            try:
                self._wait(lambda: self._num_shy == 0 or self._num_due > 0)
            finally:
                self._num_waiting -= 1
            self._num_due = max(0, self._num_due - 1)
            self._num_together += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold it with nobody else. Raises Closed."""
        with self._changed:
            self._num_shy += 1
            try:
                self._wait(lambda: not (self._num_together or self._num_due or self._alone))
            except Closed:
                self._num_shy -= 1
                raise
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._num_due = self._num_waiting
                self._num_shy -= 1
                self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wait(self, free: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._closed or free())
        if self._closed:
            raise Closed
