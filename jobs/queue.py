"""The queue: what a message looks like and how it gets to Redis. The only Celery import of `jobs/`.

A message is a nudge: it carries a job's id and nothing else; where it is traced, the W3C `traceparent` as a header. It
may be lost or doubled; the row decides.
`celery -A jobs.queue:app` (Flower) finds an app made from the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu import Exchange, Queue
from kombu.exceptions import KombuError, LimitExceeded
from kombu.pools import ProducerPool
from redis.exceptions import RedisError

from jobs import tracing
from jobs.errors import QueueUnavailable, StoreUnavailable
from jobs.settings import Settings
from jobs.states import Priority

if TYPE_CHECKING:
    app: Celery

TASK = "penstock.generate"
FLUSH_MESSAGES = 500
"""Messages that travel to Redis in one round trip."""
PUBLISH_TRIES = 2
"""The first try after a Redis restart meets a stale connection, and fails; the second one opens a new one."""
POOL_SIZE = 8
POOL_WAIT_SECONDS = 5.0


def make_app(settings: Settings) -> Celery:
    """Make the Celery app of any role. Why each option is as it is: it was measured together with the others, and
    without some of them messages are lost or a worker never comes back after an outage."""
    made = Celery("penstock", broker=settings.broker_url, set_as_current=False)
    made.conf.update(
        task_queues=[_queue(priority) for priority in Priority],
        task_default_queue=Priority.INTERACTIVE.value,
        task_create_missing_queues=False,
        # The message leaves Redis only once the task is over. The row is claimed either way.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # The result is a row: Celery keeps none.
        task_ignore_result=True,
        result_backend=None,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        # A full or restarting Redis must not end a worker.
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_transport_options=transport_options(),
        # What Flower shows.
        worker_send_task_events=True,
        task_send_sent_event=False,
        task_track_started=True,
        worker_hijack_root_logger=False,
        enable_utc=True,
    )
    return made


def _queue(priority: Priority) -> Queue:
    return Queue(priority.value, Exchange(priority.value, type="direct"), routing_key=priority.value)


def transport_options() -> dict[str, Any]:
    """kombu's options for Redis. `priority` with a single step: queue order alone decides, interactive first."""
    return {
        "queue_order_strategy": "priority",
        "priority_steps": [0],
        "visibility_timeout": 3600,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        "unacked_mutex_expire": 60,
        "health_check_interval": 10,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
    }


@cache
def _app_of_environment() -> Celery:
    return make_app(Settings())


def __getattr__(name: str) -> Any:
    """Make `jobs.queue.app` when somebody first asks, so that importing this module reads no environment."""
    if name == "app":
        return _app_of_environment()
    raise AttributeError(name)


class Publisher:
    """Sends nudges. Any thread may publish.

    Its connections are its own: a worker waits for Redis as long as it takes, a publisher says so within a second.
    """

    def __init__(
        self,
        app: Celery,
        traces_of: Callable[[Collection[str]], Mapping[str, str]] = lambda _: {},
        *,
        task: str = TASK,
    ) -> None:
        """`traces_of`: the trace context of jobs (`Store.traces_of`); asked for only while traces are on."""
        self._app = app
        self._task = task
        self._traces_of = traces_of
        impatient = {
            **transport_options(),
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
            "connect_retries_timeout": 1,
        }
        connection = app.connection_for_write(transport_options=impatient)
        self._producers = ProducerPool(connection.Pool(limit=POOL_SIZE), limit=POOL_SIZE)

    def publish(self, job_ids: Iterable[str], priority: Priority) -> None:
        """Put one message a job into the queue of `priority`, in order.

        Raises:
            QueueUnavailable: Redis is out of reach or refuses writes. Some of the messages may be in: publishing
                them again is harmless.
        """
        ids = list(job_ids)
        traces = self._traces(ids) if tracing.is_on() else {}
        for tries_left in reversed(range(PUBLISH_TRIES)):
            try:
                self._send(ids, priority, traces)
            except (KombuError, RedisError, OSError, LimitExceeded) as error:
                if tries_left == 0:
                    raise QueueUnavailable(f"The queue takes no messages ({type(error).__name__}).") from None
            else:
                return

    def _traces(self, ids: list[str]) -> Mapping[str, str]:
        try:
            return self._traces_of(ids)
        except StoreUnavailable:
            return {}

    def _send(self, ids: list[str], priority: Priority, traces: Mapping[str, str]) -> None:
        acquired = self._producers.acquire(block=True, timeout=POOL_WAIT_SECONDS)
        with acquired as producer, producer.batch(max_size=FLUSH_MESSAGES):
            for job_id in ids:
                self._app.send_task(
                    self._task,
                    args=(job_id,),
                    queue=priority.value,
                    producer=producer,
                    retry=False,  # `publish` tries again itself: kombu's own loop would wait inside a request.
                    # Given here so that nothing is computed, and nothing else ever shows in Flower.
                    argsrepr=job_id,
                    kwargsrepr="",
                    headers=_trace_header(job_id, traces.get(job_id)),
                )


def _trace_header(job_id: str, trace: str | None) -> dict[str, str] | None:
    """What a message carries besides the id, where the job is traced."""
    if trace is None:
        return None
    with tracing.span("publish", kind="producer", parent=trace, attributes={"job": job_id}):
        return {tracing.TRACEPARENT: tracing.traceparent() or trace}
