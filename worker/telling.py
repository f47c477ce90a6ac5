"""Tells Flower how far running tasks are, every heartbeat.

Celery knows of a task that it started and that it ended. In between, the event that says "started" is sent again with
a result so far, a number of tokens: the task's state stays what it is, and its page moves. One small event a running
job every two seconds, gathered with the others (see `worker.consumer`). Numbers only, never text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Dispatcher = Callable[[], Any]
"""Celery's event dispatcher, or None while the consumer has none."""


class Teller:
    """`num_tokens`: completion tokens so far, by job."""

    def __init__(self, dispatcher: Dispatcher, num_tokens: Callable[[], Mapping[str, int]]) -> None:
        self._dispatcher = dispatcher
        self._num_tokens = num_tokens
        self._tasks: dict[str, str] = {}

    @contextmanager
    def running(self, job_id: str, task_id: str | None) -> Iterator[None]:
        """A task of Celery's works on a job."""
        if task_id is not None:
            self._tasks[job_id] = task_id
        try:
            yield
        finally:
            self._tasks.pop(job_id, None)

    def tell(self) -> None:
        """Send how far each one is."""
        dispatcher = self._dispatcher()
        if dispatcher is None or not dispatcher.enabled:
            return
        for job_id, number in self._num_tokens().items():
            task_id = self._tasks.get(job_id)
            if task_id is not None and number:
                dispatcher.send("task-started", uuid=task_id, result=f"{number} tokens so far")
