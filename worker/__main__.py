"""`python -m worker`: one worker process, its options set here and nowhere else."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable

from celery.platforms import SecurityWarning

from jobs.settings import Settings
from worker.app import make_worker_app
from worker.station import QUEUES, Station, concurrency


def main(make_station: Callable[[Settings], Station] = Station) -> int:
    """Run until a signal, and return the exit status: 1 when the model cannot be had or the engine failed."""
    warnings.simplefilter("ignore", SecurityWarning)  # of root reading pickles: only JSON is accepted here
    settings = Settings()
    app = make_worker_app(settings, make_station)
    worker = app.Worker(
        hostname=app.station.name,
        pool=app.conf.worker_pool,
        concurrency=concurrency(settings),
        queues=",".join(QUEUES),
        loglevel=settings.log_level.upper(),
        task_events=True,
        without_gossip=True,
        without_mingle=True,
        quiet=True,
        no_color=not sys.stderr.isatty(),
    )
    warnings.simplefilter("ignore", PendingDeprecationWarning)  # of choices that `worker.app` states
    worker.start()
    status = int(worker.exitcode or 0)
    if worker.pool is not None and worker.pool.num_stuck:
        # The interpreter would wait for the threads of those tasks for ever.
        logging.shutdown()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
