"""A system whose roles a benchmark starts one by one: real processes on embedded parts, in a temporary home.

Unlike `penstock up` it runs without a worker too, so that what the API and the dispatcher cost is seen by itself.
Takes nothing from the environment's `PENSTOCK_*`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import httpx
import psutil
import redis
import sqlalchemy as sa

from cli.embedded import find_redis_server, make_private, postgres_command, postgres_url_file, redis_answers
from cli.embedded import redis_command as redis_words
from cli.home import choose_port
from cli.roles import child_environment, role_command
from jobs.database import open_engine, transaction
from jobs.events import open_redis
from jobs.settings import Settings
from jobs.states import ENDED
from jobs.store import Store
from jobs.tables import Job
from worker.gguf_header import without_tensors

DEMO_MODEL = Path(__file__).resolve().parent.parent / "demo_model" / "phi-3-demo.gguf"
CONTEXT_TOKENS = 512
START_SECONDS = 120.0
STOP_SECONDS = 60.0
LOOK_SECONDS = 0.05


class Stage:
    """`settings` are those of every role. `url` is the API's."""

    def __init__(self, home: Path, *, postgres: bool, slots: int = 16, **more: object) -> None:
        port = choose_port("127.0.0.1", 0, "the API's port")
        self.settings = Settings.model_validate({"home": home, "model": "demo", "port": port, "slots": slots, **more})
        self._more = more
        self.url = f"http://127.0.0.1:{port}"
        self._postgres = postgres
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Stage:
        make_private(self.settings.home)
        self._start_stores()
        self.store = Store(open_engine(self.settings.resolved_database_url), settings=self.settings)
        self.redis: redis.Redis = open_redis(self.settings.resolved_redis_url)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.store.engine.dispose()
        self.redis.close()
        for name in reversed(list(self._processes)):
            self.stop(name)

    def start(self, *names: str) -> None:
        """Start roles: `api`, `dispatcher`, `worker`."""
        for name in names:
            self._spawn(name, role_command(name, self.settings))
        self._wait(*names)

    def start_instant_worker(self) -> None:
        """Start a worker whose engine answers at once, in the place of a real one."""
        self._spawn("worker", [sys.executable, "-m", "ops.bench.instant_worker"])
        self._wait("worker")

    def is_running(self, name: str) -> bool:
        """Whether a role that was started has not ended."""
        return self._processes[name].poll() is None

    def _wait(self, *names: str) -> None:
        if "api" in names:
            wait_for("the API", lambda: httpx.get(f"{self.url}/health/live").is_success)
        if "worker" in names:
            wait_for("the worker", lambda: bool(httpx.get(f"{self.url}/health/ready").json().get("workers")))

    def stop(self, name: str) -> None:
        """End a process in good order; kill it if it takes too long."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def resident_bytes(self, name: str) -> int:
        """Resident memory of a role and its children, now."""
        family = [psutil.Process(self._processes[name].pid)]
        family += family[0].children(recursive=True)
        return sum(process.memory_info().rss for process in family)

    def announce_demo_model(self) -> None:
        """Do what a worker does at its start, so that the API can check requests although none runs."""
        self.store.announce_model("demo", "0" * 64, CONTEXT_TOKENS, without_tensors(DEMO_MODEL))

    def _start_stores(self) -> None:
        home = self.settings.home
        self._spawn("redis", redis_words(find_redis_server(), self.settings.redis_socket, home))
        wait_for("Redis", lambda: redis_answers(self.settings.redis_socket))
        if self._postgres:
            folder = home / "postgres"
            self._spawn("postgres", postgres_command(folder))
            wait_for("PostgreSQL", postgres_url_file(folder).exists)
            url = postgres_url_file(folder).read_text(encoding="utf-8")
            database_url = url.replace("postgresql://", "postgresql+psycopg://", 1)
            self.settings = self.settings.model_copy(update={"database_url": database_url})
        subprocess.run(role_command("migrate", self.settings), env=self._environment(), check=True)

    def _spawn(self, name: str, words: list[str]) -> None:
        with (self.settings.home / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(words, env=self._environment(), stdout=log, stderr=log)

    def _environment(self) -> dict[str, str]:
        for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
            del os.environ[name]
        fields = ("home", "model", "port", "slots", "database_url")
        given = {name: getattr(self.settings, name) for name in fields}
        return child_environment(self.settings, {**given, "context_tokens": CONTEXT_TOKENS, **self._more})


@contextmanager
def staged(*, postgres: bool = False, slots: int = 16, **more: object) -> Iterator[Stage]:
    """A stage with its stores up, in a folder that goes with it; `more` are settings."""
    with (
        tempfile.TemporaryDirectory(prefix="ps-", ignore_cleanup_errors=True) as home,
        Stage(Path(home), postgres=postgres, slots=slots, **more) as stage,
    ):
        yield stage


def num_alive(store: Store) -> int:
    """Jobs that have not ended, all seen at one instant: state by state, one that is claimed between two looks would
    be in neither."""
    query = sa.select(sa.func.count()).select_from(Job).where(Job.state.not_in(ENDED))
    with transaction(store.engine, writes=False) as connection:
        return connection.scalar(query) or 0


def wait_for(what: str, ready: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Look until `ready`. Raises RuntimeError when it takes too long."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        with suppress(httpx.TransportError):
            if ready():
                return
        time.sleep(LOOK_SECONDS)
    raise RuntimeError(f"{what}: not there within {seconds:.0f} seconds")
