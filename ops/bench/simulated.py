"""Simulated workers for `ops.bench.capacity`: all that a worker does to Redis and the database, without a model.

Each is a thread with a database connection and a Redis connection of its own. It waits for messages as a worker does,
claims what it got in one transaction, holds each job for a drawn time, ends what is due in one transaction and tells it
on the jobs' channels, renews its leases, and sends its heartbeat: the real store's statements at the real intervals.
Left out: Celery (its events for Flower, its own heartbeats) and the tokens.
"""

from __future__ import annotations

import heapq
import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis import Redis

from jobs.database import open_engine
from jobs.errors import LeaseLost, StoreUnavailable
from jobs.events import EventWriter
from jobs.records import AttemptRef, GenerationRecord, Interrupted, Outcome, Succeeded
from jobs.settings import Settings
from jobs.states import FinishReason, JobState, Priority
from jobs.store import Store
from worker.heartbeat import BEAT_SECONDS
from worker.transport import BRPOP_SECONDS

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Event

MESSAGES = (Priority.INTERACTIVE.value, Priority.BATCH.value)
TEXT = "Skates carve the ice, a puck is struck, the boards ring out across the winter rink " * 4
TOKENS = tuple(range(100, 200))
"""A completion of 100 tokens, the default."""
STACK_BYTES = 512 * 1024
TIMINGS = {"queued": 0.0, "prefill": 0.1, "first_token": 0.1, "decode": 0.9, "total": 1.0}


@dataclass(frozen=True, slots=True)
class Load:
    """What the workers of one process are told. A job takes `job_seconds`, half as long or half as long again."""

    settings: Settings
    num_workers: int
    first: int
    slots: int
    job_seconds: float


@dataclass(slots=True)
class Tally:
    """What happened when, by the monotonic clock that all processes of a machine share."""

    ends: list[tuple[float, int]] = field(default_factory=list)
    """When a group of ends was stored, and how many jobs it had."""
    claims: list[tuple[float, float, int]] = field(default_factory=list)
    """When a claim was answered, how many seconds it took, and how many jobs it brought."""
    finishes: list[tuple[float, float]] = field(default_factory=list)
    num_lost: int = 0
    num_outages: int = 0


class SimulatedWorker:
    """One worker's loop. `run` returns once `stop` is set and what is held was given back."""

    def __init__(self, name: str, store: Store, redis: Redis, load: Load, tally: Tally) -> None:
        self.name = name
        self._store, self._redis, self._load, self._tally = store, redis, load, tally
        self._events = EventWriter(redis)
        self._random = random.Random(name)
        self._running: list[tuple[float, str, int]] = []  # a heap: due at, job, attempt
        now = time.monotonic()
        self._beat_at = now + self._random.uniform(0, BEAT_SECONDS)
        self._renew_at = now + self._random.uniform(0, load.settings.lease_seconds / 3)

    def run(self, stop: threading.Event) -> None:
        time.sleep(self._random.uniform(0, self._load.job_seconds))
        while not stop.is_set():
            try:
                self._turn()
            except StoreUnavailable:
                self._tally.num_outages += 1
        self._ended([(ref, Interrupted()) for ref in self._held()])

    def _turn(self) -> None:
        now = time.monotonic()
        self._end_what_is_due(now)
        if now >= self._renew_at:
            self._renew_at = now + self._load.settings.lease_seconds / 3
            self._store.renew(self._held(), self.name)
        if now >= self._beat_at:
            self._beat_at = now + BEAT_SECONDS
            self._store.heartbeat(self.name, self._load.settings.model, self._load.slots, len(self._running), 30.0, {})
        if ids := self._messages():
            self._claim(ids)

    def _held(self) -> list[AttemptRef]:
        return [AttemptRef(job_id, number) for _, job_id, number in self._running]

    def _messages(self) -> list[str]:
        """Wait as the worker's transport does: a tenth of a second at most; without a free slot, for interactive jobs
        only (there are lanes beside the slots for them)."""
        room = self._load.slots - len(self._running)
        queues = MESSAGES if room > 0 else MESSAGES[:1]
        first: Any = self._redis.brpop(queues, timeout=BRPOP_SECONDS)
        if first is None:
            return []
        more: Any = self._redis.rpop(MESSAGES[1], room - 1) if room > 1 else None
        return [_job_of(message) for message in (first[1], *(more or ()))]

    def _claim(self, ids: list[str]) -> None:
        asked_at = time.monotonic()
        claimed = self._store.claim_many(ids, self.name)
        now = time.monotonic()
        self._tally.claims.append((now, now - asked_at, len(claimed)))
        for job_id, job in claimed.items():
            due_at = now + self._load.job_seconds * self._random.uniform(0.5, 1.5)
            heapq.heappush(self._running, (due_at, job_id, job.ref.number))

    def _end_what_is_due(self, now: float) -> None:
        due: list[AttemptRef] = []
        while self._running and self._running[0][0] <= now:
            _, job_id, number = heapq.heappop(self._running)
            due.append(AttemptRef(job_id, number))
        if not due:
            return
        asked_at = time.monotonic()
        answers = self._ended([(ref, Succeeded(_record())) for ref in due])
        stored_at = time.monotonic()
        ended = [(ref.job_id, answer) for ref, answer in zip(due, answers, strict=True) if isinstance(answer, JobState)]
        self._events.ends(ended)
        self._tally.num_lost += len(due) - len(ended)
        self._tally.finishes.append((stored_at, stored_at - asked_at))
        self._tally.ends.append((stored_at, len(ended)))

    def _ended(self, ends: list[tuple[AttemptRef, Outcome]]) -> list[JobState | LeaseLost]:
        """As a worker does, hold the results of an outage until they are stored. (A lock that is not had within
        15 seconds counts as one.)"""
        while True:
            try:
                return self._store.finish_many(ends)
            except StoreUnavailable:
                self._tally.num_outages += 1
                time.sleep(1.0)


def _job_of(message: bytes) -> str:
    return str(json.loads(message)["headers"]["argsrepr"])


def _record() -> GenerationRecord:
    return GenerationRecord(
        completion=TEXT,
        finish_reason=FinishReason.LENGTH,
        prompt_token_ids=TOKENS[:16],
        completion_token_ids=TOKENS,
        recipe={"engine": "simulated", "model": "demo"},
        timings=TIMINGS,
    )


def drive(load: Load, stop: Event, results: Queue[Tally]) -> None:
    """The body of a process: its share of the workers, until `stop` is set. Puts one tally when all have ended."""
    threading.stack_size(STACK_BYTES)
    engine = open_engine(load.settings.resolved_database_url, pool_size=load.num_workers)
    store, tally, over = Store(engine, settings=load.settings), Tally(), threading.Event()
    workers = [_worker(load, store, tally, load.first + index) for index in range(load.num_workers)]
    threads = [threading.Thread(target=worker.run, args=(over,)) for worker in workers]
    for thread in threads:
        thread.start()
    stop.wait()
    over.set()
    for thread in threads:
        thread.join()
    engine.dispose()
    results.put(tally)


def _worker(load: Load, store: Store, tally: Tally, number: int) -> SimulatedWorker:
    redis = Redis.from_url(load.settings.resolved_redis_url)
    return SimulatedWorker(f"penstock@simulated-{number}", store, redis, load, tally)
