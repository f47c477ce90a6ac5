"""A place for real workers: a database, a Redis, settings, and worker processes that can be signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import redis
from celery.app.control import Inspect
from psycopg import sql

from jobs.database import open_engine
from jobs.events import EventWriter, snapshot_key
from jobs.interest import FOLLOW_CHANNEL
from jobs.queue import Publisher, make_app
from jobs.records import NewJob
from jobs.settings import Settings
from jobs.states import ENDED, JobState, Priority
from jobs.store import Store
from tests.support.services import wait_until

ROOT = Path(__file__).resolve().parents[2]
SECRET = "zanzibar prompt"
LONG = 7000
"""Tokens that take the tiny model many seconds."""
ENDLESS = {"2": -100, "32000": -100, "32007": -100}
"""No token that ends a text: how long one is depends on nothing but what was asked for."""


class WorkerProcess:
    """`python -m worker`, its output in a file."""

    def __init__(self, settings: Settings, folder: Path, environment: dict[str, str]) -> None:
        self.log = folder / f"worker-{len(list(folder.glob('worker-*')))}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker"],
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
                stdout=log,
                stderr=log,
                cwd=folder,
            )
        self._settings = settings

    def send(self, *signals: signal.Signals) -> None:
        for number in signals:
            self.process.send_signal(number)

    def wait(self, seconds: float = 30.0) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.send_signal(signal.SIGCONT)
        self.process.wait(10)

    def said(self) -> str:
        return self.log.read_text()


class Site:
    def __init__(self, folder: Path, database_url: str, redis_url: str, model: Path | str, **settings: Any) -> None:
        self.environment = {
            "PENSTOCK_HOME": str(folder / "home"),
            "PENSTOCK_DATABASE_URL": database_url,
            "PENSTOCK_REDIS_URL": redis_url,
            "PENSTOCK_MODEL": str(model),
            "PENSTOCK_THREADS": "1",
            "PENSTOCK_SLOTS": "2",
            **{f"PENSTOCK_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.folder = folder
        values = {key.removeprefix("PENSTOCK_").lower(): value for key, value in self.environment.items()}
        self.settings = Settings.model_validate(values)
        self.engine = open_engine(database_url)
        self.store = Store(self.engine, settings=self.settings)
        self.app = make_app(self.settings)
        self.publisher = Publisher(self.app)
        self.redis = redis.Redis.from_url(redis_url)
        self.events = EventWriter(self.redis)
        self.workers: list[WorkerProcess] = []

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.app.close()
        self.redis.close()
        self.engine.dispose()

    def clear(self) -> None:
        """Cancel what is alive, and wait until it has ended."""
        while alive := [job for job in self.store.list_jobs(limit=200)[0] if job.ended_at is None]:
            for job in alive:
                self.store.cancel(job.id)
                self.events.cancel(job.id)
            wait_until(lambda: all(self.state(job.id) in ENDED for job in alive))

    def start_worker(self, *, ready: bool = True) -> WorkerProcess:
        worker = WorkerProcess(self.settings, self.folder, self.environment)
        self.workers.append(worker)
        if ready:
            wait_until(lambda: " ready." in worker.said() or worker.process.poll() is not None, 60)
            assert worker.process.poll() is None, worker.said()
        return worker

    def submit(self, num_jobs: int = 1, *, batch: bool = False, publish: bool = True, **changes: Any) -> list[str]:
        """Store jobs, and publish them unless told not to."""
        parameters = {"max_tokens": 8, "logit_bias": ENDLESS, **changes.pop("parameters", {})}
        values: dict[str, Any] = {"seed": 7, "num_prompt_tokens": 4, "prompt": SECRET, **changes}
        priority = Priority.BATCH if batch else Priority.INTERACTIVE
        job = NewJob(model=self.settings.model_name, parameters=parameters, priority=priority, **values)
        ids = self.store.submit([job] * num_jobs, new_batch=batch).ids
        if publish:
            self.publish(ids, priority)
        return list(ids)

    def publish(self, ids: Sequence[str], priority: Priority = Priority.INTERACTIVE) -> None:
        self.publisher.publish(ids, priority)

    def state(self, job_id: str) -> JobState:
        return JobState(self.store.get(job_id).state)

    def wait_for(self, state: JobState, *job_ids: str, seconds: float = 30.0) -> None:
        wait_until(lambda: all(self.state(job_id) is state for job_id in job_ids), seconds)

    def wait_for_text(self, job_id: str) -> None:
        """Follow the job until it has shown its first text."""

        def shown() -> object:
            self.redis.publish(FOLLOW_CHANNEL, job_id)
            return self.redis.exists(snapshot_key(job_id))

        wait_until(shown, 20)

    def inspect(self) -> Inspect:
        """Celery's inspection, that comes back with the first worker's answer."""
        return self.app.control.inspect(timeout=5, limit=1)

    def outcomes(self, job_id: str) -> list[str | None]:
        return [attempt.outcome for attempt in self.store.attempts(job_id)]


@contextmanager
def connections_refused(postgres_url: str) -> Iterator[None]:
    """An outage of one database of PostgreSQL: everybody is thrown out, and nobody let in."""
    address, _, query = postgres_url.replace("postgresql+psycopg://", "postgresql://").partition("?")
    server, name = address.rsplit("/", 1)
    with psycopg.connect(f"{server}/postgres?{query}", autocommit=True) as operator:
        operator.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
        operator.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        yield
        operator.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name)))
