"""Tells the store every two seconds that this worker lives and how busy it is, and watches that it really does.

The watch: Celery's consumer has a thread of its own, and older versions were seen to hang after a Redis restart. A
beat leaves it a note; if notes stay unread for a minute while Redis answers, the worker ends itself, and whoever
supervises it starts it again. An engine that died ends the worker as well.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from jobs.errors import StoreUnavailable

logger = logging.getLogger("penstock.heartbeat")

BEAT_SECONDS = 2.0
SILENCE_SECONDS = 60.0


class Watchdog:
    """Whether Celery's consumer still turns. `leave_note(callback)` has it called on the consumer's thread."""

    def __init__(
        self,
        leave_note: Callable[[Callable[[], None]], None],
        redis_answers: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leave_note = leave_note
        self._redis_answers = redis_answers
        self._clock = clock
        self._seen_at = clock()
        self._note_left = False

    def check(self) -> bool:
        """Leave a note if the last one was read. False: nobody has read it for too long, and Redis is there."""
        if not self._note_left:
            self._note_left = True
            self._leave_note(self._read)
        if self._clock() - self._seen_at < SILENCE_SECONDS:
            return True
        if self._redis_answers():
            return False
        self._seen_at = self._clock()  # without Redis the consumer waits for it: that is no hang
        return True

    def _read(self) -> None:
        self._seen_at = self._clock()
        self._note_left = False


class Heartbeat:
    """Calls `beat` until stopped; `beat` raising StoreUnavailable is an outage, and the next one comes in its turn."""

    def __init__(self, beat: Callable[[], None], seconds: float = BEAT_SECONDS) -> None:
        self._beat = beat
        self._seconds = seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._beat()
            except StoreUnavailable:
                logger.debug("No heartbeat: the database is out of reach.")
            except Exception:
                logger.exception("A heartbeat failed; the next one comes in its turn.")
            self._stopping.wait(self._seconds)
