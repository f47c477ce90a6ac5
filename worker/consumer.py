"""Celery's consumer, made to publish its task events together.

Each task makes three events for Flower. Sent as they come they cost the consumer's thread a round trip each, which is
most of what it does when jobs are short; gathered for a moment, a message carries many. Knows no jobs.
"""

from __future__ import annotations

import time

from celery.worker.consumer import Consumer

GATHER_SECONDS = 0.1
OVERDUE_SECONDS = 1.0
"""A flush that was asked for and has not come by then went with a lost connection: another is asked for."""
MAX_EVENTS = 1000
"""Past so many, whoever makes the next event sends them all."""


class GatheringConsumer(Consumer):  # type: ignore[misc]
    """Set by `worker_consumer`."""

    _flush_due_at = float("-inf")

    def on_send_event_buffered(self) -> None:
        """An event waits. On any thread."""
        now = time.monotonic()
        if self.hub and now > self._flush_due_at + OVERDUE_SECONDS:
            self._flush_due_at = now + GATHER_SECONDS
            self.hub.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self.event_dispatcher.buffer_limit = MAX_EVENTS
        self.hub.call_later(GATHER_SECONDS, self._flush_gathered)

    def _flush_gathered(self) -> None:
        self._flush_due_at = float("-inf")
        self._flush_events()
