"""The yardstick of `ops.bench.overhead`: a Celery worker whose task does nothing, `python -m ops.bench.bare_worker`.

Broker, queue settings, threads and task events are those of a real worker; the pool is Celery's own. Its one task
counts, and the count goes to Redis a few times a second, from a thread of its own.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import warnings

from celery import Celery
from redis import Redis

from jobs.queue import make_app
from jobs.settings import Settings
from worker.station import QUEUES, concurrency

NOOP = "penstock.bench.noop"
COUNT_KEY = "bench:count"
TELL_SECONDS = 0.05


def make_bare_app(settings: Settings, on_message: itertools.count[int] | None = None) -> Celery:
    """An app with the task that does nothing but count."""
    app = make_app(settings)
    counter = on_message if on_message is not None else itertools.count()

    @app.task(name=NOOP)  # type: ignore[untyped-decorator]
    def noop(job_id: str) -> None:  # noqa: ARG001
        next(counter)

    return app


def main() -> int:
    """Run until a signal."""
    warnings.simplefilter("ignore")
    settings = Settings()
    counter = itertools.count()
    app = make_bare_app(settings, counter)
    threading.Thread(target=_tell, args=(settings, counter), daemon=True).start()
    worker = app.Worker(
        hostname=f"bench@{os.getpid()}",
        pool="threads",
        concurrency=concurrency(settings),
        queues=",".join(QUEUES),
        loglevel="INFO",
        task_events=True,
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def _tell(settings: Settings, counter: itertools.count[int]) -> None:
    client = Redis.from_url(settings.resolved_redis_url)
    pause = threading.Event()
    while not pause.wait(TELL_SECONDS):
        client.set(COUNT_KEY, _value(counter))


def _value(counter: itertools.count[int]) -> int:
    """What the counter would give next, without taking it."""
    return int(counter.__reduce__()[1][0])


if __name__ == "__main__":
    sys.exit(main())
