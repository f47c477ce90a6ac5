"""The Celery app of a worker: the queue's settings, the one task, the station.

`python -m worker` runs it; `celery -A worker.app inspect stats` and the like work on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.exceptions import Reject

from jobs.queue import TASK, make_app
from jobs.settings import Settings
from jobs.tracing import TRACEPARENT
from worker.consumer import GatheringConsumer
from worker.pool import DrainingThreadPool
from worker.station import Station, StationStep, concurrency
from worker.transport import WorkerConnection


def make_worker_app(settings: Settings, make_station: Callable[[Settings], Station] = Station) -> Celery:
    """An app with the task `penstock.generate` and the station in its worker's blueprint."""
    app = make_app(settings)
    station = make_station(settings)
    app.station = station
    app.amqp.Connection = WorkerConnection
    app.steps["worker"].add(StationStep)
    app.conf.update(
        worker_pool=f"{DrainingThreadPool.__module__}:{DrainingThreadPool.__name__}",
        worker_concurrency=concurrency(settings),
        worker_consumer=f"{GatheringConsumer.__module__}:{GatheringConsumer.__name__}",
        # A task goes on without Redis: only its message is lost.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_redirect_stdouts=False,  # the progress bars of loading belong on the terminal
    )

    @app.task(name=TASK, bind=True)  # type: ignore[untyped-decorator]
    def generate(task: Any, job_id: str) -> str:
        if station.draining:
            raise Reject("draining", requeue=True)  # another worker's, then
        request = task.request
        queue = (request.delivery_info or {}).get("routing_key")
        return station.run(job_id, trace=request.get(TRACEPARENT), task_id=request.id, queue=queue)

    return app


def __getattr__(name: str) -> Any:
    """`app` is made when it is asked for: importing this module needs no settings and no Redis."""
    if name != "app":
        raise AttributeError(name)
    made = globals()["app"] = make_worker_app(Settings())
    return made
