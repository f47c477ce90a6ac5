"""Celery's thread pool, made to end: clean on SIGTERM, SIGINT and SIGQUIT.

The stock one raises NotImplementedError where a cold shutdown terminates a job, and then waits for its threads
without bound (celery#10490). Here a stop first tells the running tasks to come back (`on_interrupt`), then waits a
bounded time for them. What is given up is only a message: the row is the truth.

The pool is also where the worker sees each message on its way to a thread, so it counts the batch lines that are
out (`on_batch_taken`, `on_batch_done`): see `worker.gate`. Knows no jobs and no engine.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from celery.concurrency.base import apply_target
from celery.concurrency.thread import ApplyResult, TaskPool

STOP_SECONDS = 10.0
"""How long a stop waits for running tasks after asking them to come back."""


def _nothing() -> None:
    pass


class Result(ApplyResult):  # type: ignore[misc]
    """A task on a thread. A thread cannot be terminated; the task is asked to come back by the pool's stop."""

    def terminate(self, signal: int | None = None) -> None:
        """Celery's cold shutdown and revoke call this."""


class DrainingThreadPool(TaskPool):  # type: ignore[misc]
    """Threads for tasks that wait. The hooks are set by the station, before the first message."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._running: set[Future[Any]] = set()
        self.on_interrupt: Callable[[], None] = _nothing
        self.on_batch_taken: Callable[[], None] = _nothing
        self.on_batch_done: Callable[[], None] = _nothing
        self.batch_queue = ""

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[..., Any] | None = None,
        accept_callback: Callable[..., Any] | None = None,
        **_options: Any,
    ) -> Result:
        """Called on Celery's consumer thread, one message at a time."""
        future = self.executor.submit(apply_target, target, args, kwargs, callback, accept_callback)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        if _queue_of(args) == self.batch_queue:
            self.on_batch_taken()
            future.add_done_callback(lambda _: self.on_batch_done())
        return Result(future)

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Nothing: the pid of a job on a thread is the worker's own."""

    def on_stop(self) -> None:
        """Ask the running tasks to come back, and wait for them; a second call finds nothing to do."""
        self.on_interrupt()
        self.executor.shutdown(wait=False, cancel_futures=True)
        concurrent.futures.wait(set(self._running), timeout=STOP_SECONDS)

    def on_terminate(self) -> None:
        self.on_stop()

    @property
    def num_stuck(self) -> int:
        """Tasks that did not come back: the interpreter would wait for their threads for ever."""
        return sum(1 for future in set(self._running) if future.running())


def _queue_of(args: tuple[Any, ...] | None) -> str:
    """The queue a message came from: of Celery's (task, id, request, body, type, encoding), the request says."""
    request = args[2] if args and len(args) > 2 and isinstance(args[2], dict) else {}
    return str((request.get("delivery_info") or {}).get("routing_key", ""))
