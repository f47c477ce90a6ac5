"""`python -m worker`: one worker process, its options set here and nowhere else."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable

from celery import signals
from celery.platforms import SecurityWarning

from jobs.logs import configure_logs
from jobs.metrics.serving import UnsafeMetrics, serve_metrics
from jobs.settings import Settings
from jobs.standing import stand
from jobs.tracing import TracingUnavailable, start_tracing
from worker.app import make_worker_app
from worker.station import QUEUES, Station, concurrency

logger = logging.getLogger("penstock.worker")

EXIT_SETTINGS = 2
QUIET_LOGGERS = ("celery.worker.strategy", "celery.app.trace")
"""A line for a message that came and one for its end, without the attempt: the station writes one that has it."""


def main(make_station: Callable[[Settings], Station] = Station) -> int:
    """Run until a signal, and return the exit status: 1 when the model cannot be had or the engine failed."""
    warnings.simplefilter("ignore", SecurityWarning)  # of root reading pickles: only JSON is accepted here
    settings = Settings()
    _set_logs_up(settings)
    signals.worker_ready.connect(_stand, weak=False)
    app = make_worker_app(settings, make_station)
    try:
        stop_tracing = start_tracing(settings, "worker")
        stop_metrics = serve_metrics(settings, app.station.registry)
    except (TracingUnavailable, UnsafeMetrics) as error:
        logger.critical("The worker cannot start: %s", error)
        return EXIT_SETTINGS
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
    stop_metrics()
    stop_tracing()
    if worker.pool is not None and worker.pool.num_stuck:
        # The interpreter would wait for the threads of those tasks for ever.
        logging.shutdown()
        os._exit(status)
    return status


def _set_logs_up(settings: Settings) -> None:
    """Ours instead of Celery's: whoever listens to this signal has done it."""
    configure_logs(settings.log_level, settings.log_format, libraries=settings.log_level)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    signals.setup_logging.connect(_nothing_to_do, weak=False)


def _nothing_to_do(**_: object) -> None:
    pass


def _stand(**_: object) -> None:
    stand()


if __name__ == "__main__":
    sys.exit(main())
