"""Lets only so many batch lines into this worker at once, so that an interactive job always finds a thread.

Taking order cannot do that: a line that was taken first keeps its thread. So the worker stops listening to the batch
queue while it holds as many lines as it can use, and the other workers get the rest. Celery's consumer belongs to
its own thread, so every change is made there. Exact: Celery hands a message over before it asks for the next.

Closing and opening cost round trips. Where lines wait here for a slot anyway, the gate stays closed until `slack` of
them have gone, so that short jobs do not move it each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Gate:
    """`consumer`: Celery's, once it runs. `limit`: batch lines held at once. `close` shuts every queue, for a drain.

    `on_open` is called with Celery's task consumer after a queue was opened: its wait may have to begin anew."""

    def __init__(
        self,
        controller: Any,
        queues: tuple[str, ...],
        batch_queue: str,
        limit: int,
        *,
        slack: int = 0,
        on_open: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self._slack = slack
        self._full = False
        self._on_open = on_open
        self._controller = controller
        self._queues = queues
        self._batch_queue = batch_queue
        self._limit = limit
        self._num_held = 0
        self._lock = threading.Lock()
        self._closed = False

    @property
    def num_held(self) -> int:
        return self._num_held

    def taken(self) -> None:
        """A batch line goes to a thread. On the consumer's thread."""
        with self._lock:
            self._num_held += 1
        self._apply()

    def done(self) -> None:
        """A batch line's task has ended. On any thread."""
        with self._lock:
            self._num_held -= 1
        self._soon()

    def close(self) -> None:
        """Take no message any more. On any thread."""
        self._closed = True
        self._soon()

    def wake(self) -> None:
        """Make the consumer's thread look around (it sleeps until a message comes)."""
        self._soon()

    def _soon(self) -> None:
        consumer = getattr(self._controller, "consumer", None)
        if consumer is not None:
            consumer.call_soon(self._apply)

    def _apply(self) -> None:
        """Listen to the queues that are open, and to no other. Each call states the whole of it, so that a
        consumer that Celery made anew after a lost connection is put right by the next message."""
        consumer = getattr(self._controller, "consumer", None)
        tasks = getattr(consumer, "task_consumer", None)
        if consumer is None or tasks is None:
            return
        self._full = self._num_held >= self._limit - (self._slack if self._full else 0)
        for name in self._queues:
            listening = tasks.consuming_from(name)
            if listening and not self._open(name):
                tasks.cancel_by_queue(name)
            elif not listening and self._open(name):
                tasks.add_queue(consumer.app.amqp.queues[name])
                tasks.consume()
                self._on_open(tasks)

    def _open(self, queue: str) -> bool:
        return not self._closed and (queue != self._batch_queue or not self._full)
