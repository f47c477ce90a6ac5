"""Assembles a worker: model, engine, leases, results, text, heartbeat; opens it before the first message, and ends it.

`Station` owns the parts; `StationStep` hangs it into Celery's worker, after the pool (so that it starts before
anything is consumed, and stops before the pool waits for its threads). A model that cannot be had ends the worker
with status 1 and one line that says why.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from typing import Any

import redis
import structlog
from celery import bootsteps
from celery.worker import state as celery_state
from sqlalchemy import Engine as DatabaseEngine

from jobs import tracing
from jobs.database import open_engine
from jobs.errors import StoreUnavailable
from jobs.events import CANCEL_CHANNEL, EventWriter, open_redis
from jobs.interest import FOLLOW_CHANNEL, Interest
from jobs.logs import bound
from jobs.metrics.registry import new_registry, watch_store
from jobs.records import recipe_id
from jobs.settings import Settings
from jobs.signals import on_signals
from jobs.states import Priority
from jobs.store import Store
from worker.broadcast import Broadcaster
from worker.claims import ClaimWriter
from worker.company import Company
from worker.drain import Drain
from worker.engine.engine import Engine
from worker.gate import Gate
from worker.gguf_header import without_tensors
from worker.heartbeat import Heartbeat, Watchdog
from worker.leases import LeaseKeeper
from worker.listener import Listener
from worker.loading import Loaded, load, options_of
from worker.metering import EngineCollector, JobMeter, worker_facts
from worker.results import ResultWriter
from worker.sources import ModelUnavailable
from worker.tasks import Desk, run_job
from worker.telling import Teller
from worker.transport import unblock

logger = logging.getLogger("penstock.station")
log = structlog.get_logger("penstock.station")

QUEUES = tuple(priority.value for priority in (Priority.INTERACTIVE, Priority.BATCH))
"""In the order in which messages are taken."""
SPARE_THREADS = 4


def worker_name() -> str:
    """Celery's node name, and the worker's name in the database: unique among the living."""
    return f"penstock@{socket.gethostname()[:80]}-{os.getpid()}"


def batch_slots(settings: Settings) -> int:
    """Slots that batch lines may take."""
    options = options_of(settings)
    return options.tile_slots or options.slots


def batch_limit(settings: Settings) -> int:
    """Batch lines held at once: one for each slot that is not in reserve, and as many again to follow them, so that a
    slot that falls free is taken in the next step.

    Without tiles the engine has one kind of slot, and only the gate keeps the reserve free: none follow then.
    """
    options = options_of(settings)
    return 2 * options.tile_slots or options.slots


def gate_slack(settings: Settings) -> int:
    """Lines that may go before more are taken: half of those that only follow, so that no slot ever waits."""
    return options_of(settings).tile_slots // 2


def concurrency(settings: Settings) -> int:
    """Threads of the pool: one waits for each held job. An interactive job finds one whatever the batches do."""
    options = options_of(settings)
    return batch_limit(settings) + options.tile_slots + options.lone_slots + SPARE_THREADS


class Station:
    """One worker's parts. `open` on Celery's main thread; `run` on the pool's threads; `close` at the end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = worker_name()
        self._desk: Desk | None = None
        self._announced = False
        self.registry = new_registry("worker")

    # -- opening

    def open(self, controller: Any) -> None:
        """Load the model and start every part. Ends the process with status 1 when the model cannot be had."""
        self._take_signals()
        self._loaded = self._load_or_exit()
        self._database: DatabaseEngine = open_engine(self.settings.resolved_database_url)
        self._store = Store(self._database, settings=self.settings)
        self._redis = open_redis(self.settings.resolved_redis_url)
        self._controller = controller
        self._make_parts()
        self._hang_into(controller)
        self._start_parts()
        self._say_why_not_ours()
        logger.info("%s is loaded: %d slots.", self._loaded.source.name, self._loaded.model.num_slots)

    def _load_or_exit(self) -> Loaded:
        try:
            return load(self.settings)
        except ModelUnavailable as error:
            logger.critical("No model, no worker: %s", error.message)
            raise SystemExit(1) from error

    def _say_why_not_ours(self) -> None:
        """A slower attention than this worker could have is worth a line; one that was asked for is not."""
        _, _, reason = self._loaded.model.attention.partition("llama.cpp: ")
        if reason:
            logger.warning(
                "Attention is llama.cpp's, which is slower for long texts. Penstock's own cannot be had: %s. "
                "PENSTOCK_ATTENTION=llama.cpp asks for this, and ends this warning.",
                reason,
            )

    def _make_parts(self) -> None:
        settings, loaded = self.settings, self._loaded
        events = EventWriter(self._redis, snapshot_seconds=settings.snapshot_seconds)
        self._leases = LeaseKeeper(self._store, self.name, settings.lease_seconds)
        self._num_batch_slots = batch_slots(settings)
        self._claims = ClaimWriter(self._store, self.name, self._is_short)
        self._results = ResultWriter(self._store, self._is_short)
        interest = Interest()
        self._broadcaster = Broadcaster(events, settings.event_interval_seconds, interest=interest)
        self._engine = self._make_engine(loaded)
        self._listener = Listener(
            open_redis(settings.resolved_redis_url),
            {CANCEL_CHANNEL: self._leases.cancel, FOLLOW_CHANNEL: interest.hear},
            on_return=self._catch_up,
        )
        self._events = events
        self._gate = Gate(
            self._controller,
            QUEUES,
            Priority.BATCH.value,
            batch_limit(settings),
            slack=gate_slack(settings),
            on_open=unblock,
        )
        self._company = Company()
        self._drain = Drain(
            settings.drain_seconds,
            close_gate=self._close_gate,
            stop_engine=self._engine.stop,
            interrupt=self._leases.interrupt_all,
            wait_idle=self._leases.wait_idle,
            exit_with=self._let_celery_stop,
        )
        self._watchdog = Watchdog(self._leave_note, self._redis_answers)
        self._heartbeat = Heartbeat(self._beat)
        self._teller = Teller(self._event_dispatcher, self._broadcaster.num_tokens)
        self._desk = Desk(
            worker=self.name,
            model=loaded.source.name,
            store=self._store,
            engine=self._engine,
            vocabulary=loaded.model.vocabulary,
            recipe=loaded.recipe,
            proofs=loaded.proofs,
            leases=self._leases,
            claims=self._claims,
            results=self._results,
            broadcaster=self._broadcaster,
            events=events,
            company=self._company,
            on_engine_failure=self._engine_failed,
            meter=JobMeter(self.registry),
            owners_share=settings.prefix_sharing == "everyone",
        )
        self._expose()

    def _is_short(self) -> bool:
        """Whether a slot for batch lines stands empty, and no line waits for one."""
        stats = self._engine.stats()
        return stats.waiting == 0 and stats.busy_slots < self._num_batch_slots

    def _expose(self) -> None:
        watch_store(self.registry, self._store, standing=False)
        loaded = self._loaded
        facts = worker_facts(loaded.source.name, self._backend(), loaded.proofs, self._row_classes())
        self.registry.register(EngineCollector(self._engine, lambda: self._gate.num_held, facts=facts))

    def _make_engine(self, loaded: Loaded) -> Engine:
        return Engine(
            loaded.model,
            on_text=self._broadcaster.deltas,
            sampling_threads=self.settings.sampling_threads,
            spare_cell_bytes=loaded.spare_cell_bytes,
        )

    def _hang_into(self, controller: Any) -> None:
        pool = controller.pool
        pool.batch_queue = Priority.BATCH.value
        pool.on_batch_taken, pool.on_batch_done = self._gate.taken, self._gate.done
        pool.on_interrupt = self._drain.hurry

    def _start_parts(self) -> None:
        self._engine.start()
        for part in (self._claims, self._results, self._broadcaster, self._leases, self._listener):
            part.start()
        try:
            self._announce()
        except StoreUnavailable:
            logger.warning("The database is out of reach; the model is announced when it is there.")
        self._heartbeat.start()

    # -- running

    @property
    def draining(self) -> bool:
        return self._drain.begun.is_set()

    def run(
        self, job_id: str, *, trace: str | None = None, task_id: str | None = None, queue: str | None = None
    ) -> str:
        """One message's job; on a thread of the pool. `trace`: the message's `traceparent`; `task_id`: Celery's;
        `queue`: where it came from."""
        if self._desk is None:
            raise RuntimeError("the station is not open")
        began = time.monotonic()
        with (
            bound(job=job_id),
            tracing.span("attempt", kind="consumer", parent=trace, attributes={"job": job_id, "worker": self.name}),
            self._teller.running(job_id, task_id),
        ):
            result = run_job(job_id, self._desk, at_once=queue != Priority.BATCH)
            tracing.note(result=result)
            log.info("attempt_over", result=result, seconds=round(time.monotonic() - began, 3))
            return result

    def info(self) -> dict[str, Any]:
        """What `inspect stats` and Flower's page of the worker show."""
        if self._desk is None:
            return {}
        stats, loaded = self._engine.stats(), self._loaded
        return {
            "model": loaded.source.name,
            "model_sha256": loaded.source.sha256,
            "model_revision": loaded.source.revision,
            "backend": self._backend(),
            "attention": loaded.model.attention,
            "recipe": recipe_id(loaded.recipe),
            "context_tokens": loaded.model.context_tokens,
            "slots": stats.slots,
            "busy_slots": stats.busy_slots,
            "waiting": stats.waiting,
            "tokens_per_second": round(stats.tokens_per_second, 1),
            "row_classes": self._row_classes(),
            "exact": dict(loaded.proofs),
            "batch_lines_held": self._gate.num_held,
            "draining": self.draining,
            **stats.details,
        }

    def _backend(self) -> str:
        device = "GPU" if self.settings.gpu_layers else "CPU"
        return f"{device}, llama.cpp {self._loaded.recipe.get('llama_cpp', 'unknown')}"

    def _row_classes(self) -> dict[str, int]:
        model = self._loaded.model
        return {"tile": model.tile_slots, "lone": model.num_slots - model.tile_slots}

    def _announce(self) -> None:
        loaded = self._loaded
        self._store.announce_model(
            loaded.source.name,
            loaded.source.sha256,
            loaded.model.context_tokens,
            without_tensors(loaded.source.path),
            dict(loaded.recipe),
            {
                "repo": loaded.source.repo,
                "revision": loaded.source.revision,
                "row_classes": self._row_classes(),
                "exact": dict(loaded.proofs),
            },
        )
        self._announced = True

    def _beat(self) -> None:
        if self._engine.failure is not None:
            self._engine_failed()
        if not self.draining and not self._watchdog.check():
            logger.critical("The consumer has not turned for a minute; the worker ends, to be started again.")
            self._drain.hurry(exit_status=1)
        if not self._announced:
            self._announce()
        stats, loaded = self._engine.stats(), self._loaded
        self._store.heartbeat(
            self.name,
            loaded.source.name,
            stats.slots,
            stats.busy_slots,
            stats.tokens_per_second,
            {
                "waiting": stats.waiting,
                "draining": self.draining,
                "backend": self._backend(),
                # Whose, and no more: the reason may name folders of this machine, and callers read this.
                "attention": loaded.model.attention.partition(":")[0],
                "exact": dict(loaded.proofs),
                **stats.details,
            },
        )
        self._teller.tell()

    def _catch_up(self) -> None:
        """The channels are there (again): find the cancels that were missed, and who follows what."""
        self._leases.renew_soon()
        self._events.call_readers()

    def _leave_note(self, callback: Any) -> None:
        consumer = getattr(self._controller, "consumer", None)
        if consumer is not None:
            consumer.call_soon(callback)

    def _event_dispatcher(self) -> Any:
        return getattr(getattr(self._controller, "consumer", None), "event_dispatcher", None)

    def _redis_answers(self) -> bool:
        try:
            return bool(self._redis.ping())
        except redis.RedisError:
            return False

    # -- ending

    def _take_signals(self) -> None:
        """Ours instead of Celery's: its warm shutdown waits for the tasks without bound, its cold one cuts them."""
        on_signals((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP), self._on_signal)

    def _on_signal(self, number: int) -> None:
        if self._desk is None:  # Still loading: nothing is held, and llama.cpp cannot be asked to stop.
            sys.stderr.flush()
            os._exit(0)
        self._drain.hurry() if number == signal.SIGQUIT else self._drain.begin()

    def _engine_failed(self) -> None:
        if not self.draining:
            logger.critical("The engine has failed; the worker ends, to be started again.")
        self._drain.hurry(exit_status=1)

    def _close_gate(self) -> None:
        self._gate.close()
        self._company.close()

    def _let_celery_stop(self, exit_status: int) -> None:
        celery_state.should_stop = exit_status
        self._gate.wake()

    def close(self) -> None:
        """End every part, in the order that loses nothing. Celery's step; after a drain it finds all idle."""
        if self._desk is None:
            return
        self._drain.finish()
        given_up = self._results.close(timeout_seconds=1.0)
        if given_up:
            logger.error("%d ends could not be stored: the database is away. Those jobs will run again.", given_up)
        for part in (self._claims, self._heartbeat, self._listener, self._leases, self._broadcaster):
            part.stop()
        self._redis.close()
        self._database.dispose()
        logger.info("Stopped.")


class StationStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Hangs the station of the app into its worker."""

    requires = ("celery.worker.components:Pool",)

    def start(self, controller: Any) -> None:
        controller.app.station.open(controller)

    def stop(self, controller: Any) -> None:
        controller.app.station.close()

    def terminate(self, controller: Any) -> None:
        controller.app.station.close()

    def info(self, controller: Any) -> dict[str, Any]:
        return dict(controller.app.station.info())
