"""The dispatcher: sees to it that every job that can run has a message out, and repairs what broke.

One round: hold the office (two may run; one leads) → notice an emptied Redis → publish interactive jobs → sweep →
publish batch lines → sample the progress of batches. Each step does a bounded amount, and interactive jobs are never
behind another one for long: where a sweep has left work, the next round follows soon. It knows no engine and no HTTP,
holds no state that matters, and may be killed at any point: the next round, or the other one, goes on.
Whoever publishes first and then notes it can only double a message, never lose a job.

A prompt that kills its worker costs the jobs beside it an attempt as well. The sweep cannot tell them apart and
publishes all of them again; the last attempt of each runs alone (`Store.runs_alone`, `worker.company`), so only the
culprit's attempts are ever spent by it. See `ops/decisions/0006-the-last-attempt-is-alone.md`.

`python -m jobs.dispatcher` runs the role until SIGTERM, and the clerk (`jobs.clerk`) in a thread beside it.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog
from redis import Redis
from redis.exceptions import RedisError, ResponseError

from jobs import clerk, courier
from jobs.bell import Bell, Outage
from jobs.database import open_engine
from jobs.errors import QueueUnavailable, StoreUnavailable
from jobs.events import SENTINEL_KEY, EventWriter, open_redis
from jobs.logs import configure_logs
from jobs.metrics.dispatching import RoundMeter
from jobs.metrics.registry import new_registry, watch_store
from jobs.metrics.serving import UnsafeMetrics, serve_metrics
from jobs.queue import Publisher, make_app
from jobs.records import Publishable, SweepReport
from jobs.settings import Settings
from jobs.signals import stop_at_signals
from jobs.standing import stand
from jobs.states import JobState, Priority
from jobs.store import Store
from jobs.store.progress import SAMPLE_SECONDS
from jobs.tenure import Tenure
from jobs.tracing import TracingUnavailable, start_tracing

log = structlog.get_logger("penstock.dispatcher")

OFFICE = "dispatcher"
MAX_WAIT_SECONDS = 1.0
"""Rounds come no further apart than this while something is down: recovery is noticed within it."""
IDLE_SECONDS = 1.5
"""The same while no job waits at all."""
MIN_REST_SECONDS = 0.02
PACE_SECONDS = 1.0
EXIT_SETTINGS = 2
MANY_SWEPT = 500
"""A sweep that moved so many jobs may have left some: what it does in one round is bounded."""
RETURN_SECONDS = 3.0
"""After an outage of the database no lease is swept for so long. Nobody could renew one or store a result meanwhile:
workers try again every two seconds at least, and what they have finished must not be thrown away for it."""


class Publishes(Protocol):
    """What the dispatcher needs of `jobs.queue.Publisher`."""

    def publish(self, job_ids: list[str], priority: Priority, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did. `refilled`: Redis had been emptied. `seconds`: how long it took."""

    leads: bool
    swept: SweepReport = field(default_factory=SweepReport)
    refilled: bool = False
    published: Publishable = field(default_factory=Publishable)
    seconds: float = 0.0


class Pace:
    """Lines a second that workers take, as far as refills of the window tell: about the last second's."""

    def __init__(self) -> None:
        self.per_second = 0.0

    def note(self, num_lines: int, seconds: float) -> None:
        """So many took the places of others, so long after the last look."""
        if seconds > 0:
            weight = 1 - math.exp(-seconds / PACE_SECONDS)
            self.per_second += weight * (num_lines / seconds - self.per_second)


def rest_seconds(done: Round, interval_seconds: float, lines_per_second: float) -> float:
    """How long to wait for a ring before the next round. `lines_per_second`: at which the window is used up.

    At most the interval, or twice that (up to a second) where nothing was found to do, or three times that where no job
    waits: each round takes a core from the engine for a moment, and what cannot wait rings. No longer than until the
    next lease or deadline. At once where more interactive jobs may wait, or more than half the window had been used up:
    lines are short then. Half as long as the round took where the sweep found much: there may be more, and the other
    writers of a SQLite get their turns. While lines wait, no longer than until about half the window should be used up:
    also after a round that found it full, for nobody rings when it is not.
    """
    drained = 2 * len(done.published.batch) > done.published.window > 0
    if done.refilled or drained or len(done.published.interactive) > 0:
        return 0.0
    rest = interval_seconds
    if not done.published.batch and not done.swept.num_moved:
        idle = done.leads and not done.published.waits
        rest = max(rest, min(3 * rest, IDLE_SECONDS) if idle else min(2 * rest, MAX_WAIT_SECONDS))
        if done.swept.seconds_to_next is not None:
            rest = min(rest, done.swept.seconds_to_next + MIN_REST_SECONDS)
    if done.swept.num_moved >= MANY_SWEPT:
        rest = min(rest, done.seconds / 2)
    if (done.published.batch or done.published.waits) and done.published.window and lines_per_second > 0:
        rest = min(rest, max(MIN_REST_SECONDS, done.published.window / 2 / lines_per_second))
    return rest


class Dispatcher:
    """Runs rounds. `step` is one of them; `run` repeats it until told to stop."""

    def __init__(
        self,
        store: Store,
        publisher: Publishes,
        redis: Redis,
        settings: Settings,
        *,
        holder: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        on_round: Callable[[Round], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._on_round = on_round
        self._publisher = publisher
        self._redis = redis
        self._settings = settings
        self._events = EventWriter(redis, snapshot_seconds=settings.snapshot_seconds)
        self._tenure = Tenure(store, OFFICE, settings.leader_seconds, holder=holder, monotonic=monotonic)
        self._monotonic = monotonic
        self._sampled_at = float("-inf")
        self._store_away = False
        self._spare_leases_until = float("-inf")

    def step(self) -> Round:
        """Run one round.

        Raises:
            StoreUnavailable: the database is out of reach; nothing was done or lost.
            QueueUnavailable: Redis is. The sweep was done all the same.
        """
        try:
            return self._round()
        except StoreUnavailable:
            self._store_away = True
            raise

    def _round(self) -> Round:
        begun = self._monotonic()
        leads, spare_leases = self._tenure.held(), self._just_back()
        if not leads:
            return Round(leads=False)
        refilled, published, trouble = self._urgent()
        swept = self._store.sweep(spare_leases=spare_leases)
        self._announce(swept)
        if trouble is not None:
            raise trouble
        with _redis_needed():
            if swept.requeued:
                published = [*published, *self._publish_interactive()]
            lines = self._publish_lines()
        self._sample()
        return Round(True, swept, refilled, replace(lines, interactive=published), self._monotonic() - begun)

    def _urgent(self) -> tuple[bool, Sequence[str], QueueUnavailable | None]:
        """What must not wait for a sweep: an emptied Redis, and interactive jobs. Without Redis the sweep goes on."""
        try:
            with _redis_needed():
                return self._refill_if_emptied(), self._publish_interactive(), None
        except QueueUnavailable as error:
            return False, (), error

    def _just_back(self) -> bool:
        """Whether the database has only just come back."""
        now = self._monotonic()
        if self._store_away:
            self._store.ping()
            self._store_away = False
            self._spare_leases_until = now + RETURN_SECONDS
            log.info("leases_spared", seconds=RETURN_SECONDS, next="workers store what they have finished")
        return now < self._spare_leases_until

    def resign(self) -> None:
        """Leave the office to the other one at once."""
        self._tenure.resign()

    def _announce(self, swept: SweepReport) -> None:
        """Tell those who follow the jobs. After the commits; a lost event is found in the database by who looks."""
        for job_id in swept.requeued:
            self._events.state(job_id, JobState.QUEUED)
        for ids, state in (
            (swept.failed, JobState.FAILED),
            (swept.expired, JobState.EXPIRED),
            (swept.cancelled, JobState.CANCELLED),
        ):
            self._events.ends([(job_id, state) for job_id in ids])
        if swept:
            log.info(
                "swept",
                requeued=len(swept.requeued),
                failed=len(swept.failed),
                expired=len(swept.expired),
                cancelled=len(swept.cancelled),
                next="the requeued are published in this round",
            )

    def _refill_if_emptied(self) -> bool:
        """A missing sentinel means that Redis was emptied, messages and all. It is set again last: if the database
        fails in between, the next round finds it missing still."""
        if self._redis.exists(SENTINEL_KEY):
            return False
        self._store.unpublish_all()
        self._redis.set(SENTINEL_KEY, self._tenure.holder)
        log.info("redis_was_empty", next="every queued job is published again, as the window allows")
        return True

    def _publish_interactive(self) -> Sequence[str]:
        chosen = self._choose(Priority.INTERACTIVE).interactive
        self._send(chosen, Priority.INTERACTIVE)
        return chosen

    def _publish_lines(self) -> Publishable:
        chosen = self._choose(Priority.BATCH)
        again = set(chosen.again)
        self._send(chosen.again, Priority.BATCH, before_others=True)
        self._send([job_id for job_id in chosen.batch if job_id not in again], Priority.BATCH)
        return chosen

    def _choose(self, priority: Priority) -> Publishable:
        return self._store.to_publish({priority: self._num_waiting(priority)}, (priority,))

    def _send(self, ids: Sequence[str], priority: Priority, *, before_others: bool = False) -> None:
        if ids:
            self._publisher.publish(list(ids), priority)
            if before_others:
                self._move_up(len(ids))
            self._store.mark_published(ids)

    def _sample(self) -> None:
        """Note the progress of batches, now and then."""
        now = self._monotonic()
        if now - self._sampled_at >= SAMPLE_SECONDS:
            self._store.sample_batches()
            self._sampled_at = now

    def _move_up(self, num_messages: int) -> None:
        """Put the newest batch messages before all that wait: a job whose worker died runs again at once, and not
        behind a whole window of others. kombu pushes on the left of a list and takes from its right. Only an order:
        a message that came in between, or a Redis before 6.2, does no harm."""
        with suppress(ResponseError), self._redis.pipeline(transaction=False) as pipe:
            for _ in range(num_messages):
                pipe.lmove(Priority.BATCH.value, Priority.BATCH.value, "LEFT", "RIGHT")
            pipe.execute()

    def _num_waiting(self, priority: Priority) -> int:
        """Messages in a queue: kombu keeps each queue as a Redis list of the same name."""
        return int(self._redis.llen(priority.value))

    def run(self, stop: threading.Event) -> None:
        """Run rounds until `stop`: every `dispatch_interval_seconds`, sooner where much is going on, and at once when
        somebody wakes us."""
        bell = Bell(self._redis)
        outage = Outage()
        interval = self._settings.dispatch_interval_seconds
        ended_at, pace = self._monotonic(), Pace()
        while not stop.is_set():
            try:
                done = self.step()
            except (StoreUnavailable, QueueUnavailable) as error:
                outage.began(error)
                wait_seconds = min(MAX_WAIT_SECONDS, 2 * interval)
            else:
                outage.over()
                self._on_round(done)
                now = self._monotonic()
                pace.note(len(done.published.batch), now - ended_at)
                wait_seconds = rest_seconds(done, interval, pace.per_second)
                ended_at = now
            if wait_seconds > 0:
                bell.wait(wait_seconds, stop)
        self.resign()
        bell.close()


@contextmanager
def _redis_needed() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise QueueUnavailable(f"Redis cannot be reached ({type(error).__name__}).") from None


def main() -> int:
    """Run the role until SIGTERM or SIGINT."""
    settings = Settings()
    configure_logs(settings.log_level, settings.log_format)
    try:
        return _run(settings)
    except (TracingUnavailable, UnsafeMetrics) as error:
        log.critical("dispatcher_cannot_start", reason=str(error))
        return EXIT_SETTINGS


def _run(settings: Settings) -> int:
    stop_tracing = start_tracing(settings, "dispatcher")
    registry = new_registry("dispatcher")
    stop_metrics = serve_metrics(settings, registry)
    stop = stop_at_signals()
    store = Store(open_engine(settings.resolved_database_url), settings=settings)
    watch_store(registry, store, standing=True)
    redis = open_redis(settings.resolved_redis_url)
    log.info("dispatcher_started", interval_seconds=settings.dispatch_interval_seconds, window=settings.dispatch_window)
    beside = clerk.start(store, redis, settings, stop)
    deliveries = courier.start(store, settings, stop)
    publisher = Publisher(make_app(settings), store.traces_of)
    dispatcher = Dispatcher(store, publisher, redis, settings, on_round=RoundMeter(registry).note)
    stand()
    dispatcher.run(stop)
    if beside is not None:
        beside.join(clerk.STOP_SECONDS)
    deliveries.join(courier.STOP_SECONDS + courier.OUTAGE_SECONDS)
    stop_metrics()
    stop_tracing()
    log.info("dispatcher_stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
