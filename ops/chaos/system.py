"""The system under test: every role a process of ours, on embedded parts in a temporary home.

Takes nothing from the environment's `PENSTOCK_*`: a fault can only ever strike what was started here. Whatever dies
is started again, as a machine's own supervisor would; what dies without being struck is noted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import redis

from cli.embedded import (
    check_socket_path,
    find_redis_server,
    make_private,
    postgres_command,
    postgres_url_file,
    redis_answers,
    redis_command,
)
from cli.errors import StartFailed
from cli.home import choose_port
from cli.processes import SignalWatch, describe_end, tail
from cli.roles import child_environment, role_command
from cli.supervisor import Patience, Role, Running, Supervisor
from jobs.settings import Settings

LOOK_SECONDS = 0.05
START_SECONDS = 120.0
RESTARTS = Patience(first_seconds=0.5, max_seconds=2.0, healthy_seconds=2.0, quick_failures=10)
WORKER_WAVE, ROLE_WAVE, STORE_WAVE = 0, 1, 2


class Interrupted(Exception):
    """Somebody pressed ctrl-C."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start. The durations are short, so that a schedule shows many recoveries in minutes."""

    postgres: bool = False
    num_workers: int = 2
    num_dispatchers: int = 2
    slots: int = 16
    lease_seconds: float = 5.0
    drain_seconds: float = 2.0
    republish_after_seconds: float = 5.0
    max_attempts: int = 50

    def settings(self, home: Path) -> Settings:
        """The same for every role. Attempts are many: a job is struck again and again, and must not be given up."""
        return Settings(
            home=home,
            model="demo",
            slots=self.slots,
            threads=max((os.cpu_count() or 1) // self.num_workers, 1),
            port=choose_port("127.0.0.1", 0, "the API's port"),
            lease_seconds=self.lease_seconds,
            drain_seconds=self.drain_seconds,
            republish_after_seconds=self.republish_after_seconds,
            max_attempts=self.max_attempts,
        )


def forget_settings() -> None:
    """Drop every `PENSTOCK_*` variable: a database or a Redis named there may be somebody's real one."""
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        del os.environ[name]


@dataclass
class WatchfulSupervisor(Supervisor):
    """Notes which processes ended without having been struck."""

    struck: set[int] = field(default_factory=set)
    unasked: list[str] = field(default_factory=list)

    def _lost(self, entry: Running, status: int) -> None:
        if entry.child is not None and entry.child.pid not in self.struck:
            last = " | ".join(entry.last_lines()[-2:])
            self.unasked.append(f"{entry.role.name} ended by itself ({describe_end(status)}): {last}")
        super()._lost(entry, status)


class System:
    """Starts, strikes, keeps and stops the processes. `on_look` is called whenever we look around."""

    def __init__(self, plan: Plan, home: Path, signals: SignalWatch, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.home = home
        check_socket_path(home / "redis.sock")
        self.settings = plan.settings(home)
        self.environment = child_environment(self.settings, self._overrides())
        self.supervisor = WatchfulSupervisor(home / "logs", signals, say, RESTARTS)
        self.on_look: Callable[[], object] = lambda: None
        self.redis = redis.Redis.from_url(self.settings.resolved_redis_url, socket_timeout=2)

    def _overrides(self) -> Mapping[str, object]:
        return {name: getattr(self.settings, name) for name in self.settings.model_fields_set}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    @property
    def database_url(self) -> str:
        return self.environment.get("PENSTOCK_DATABASE_URL") or self.settings.resolved_database_url

    # -- starting and stopping

    def start(self) -> None:
        """Start everything and wait until jobs can run. Raises StartFailed."""
        make_private(self.home)
        self._start_stores()
        self._migrate()
        for role in self._roles():
            self.supervisor.start(role)
        self._must("the system is not ready", self.ready, START_SECONDS)
        self.supervisor.was_ready = True

    def _start_stores(self) -> None:
        folder = self.home / "redis"
        make_private(folder)
        command = redis_command(find_redis_server(), self.settings.redis_socket, folder)
        self._start_store("redis", command, lambda: redis_answers(self.settings.redis_socket))
        if self.plan.postgres:
            url_file = postgres_url_file(self.home / "postgres")
            self._start_store("postgres", postgres_command(self.home / "postgres"), url_file.exists)
            self.environment["PENSTOCK_DATABASE_URL"] = url_file.read_text(encoding="utf-8")

    def _start_store(self, name: str, command: list[str], answers: Callable[[], bool]) -> None:
        role = Role(name, command, self.environment, wave=STORE_WAVE, stop_seconds=30.0, is_store=True)
        self.supervisor.start(role)
        self._must(f"{name} does not answer", answers, START_SECONDS)

    def _migrate(self) -> None:
        log = self.home / "logs" / "migrate.log"
        with log.open("wb") as out:
            command = role_command("migrate", self.settings)
            done = subprocess.run(command, env=self.environment, stdout=out, stderr=out, check=False)
        if done.returncode:
            raise StartFailed("the database cannot be prepared", tail(log))

    def _roles(self) -> list[Role]:
        dispatchers = [f"dispatcher-{number}" for number in range(1, self.plan.num_dispatchers + 1)]
        workers = [f"worker-{number}" for number in range(1, self.plan.num_workers + 1)]
        return [
            Role("api", role_command("api", self.settings), self.environment, wave=ROLE_WAVE),
            *(
                Role(name, role_command("dispatcher", self.settings), self.environment, wave=ROLE_WAVE)
                for name in dispatchers
            ),
            *(
                Role(
                    name,
                    role_command("worker", self.settings),
                    self.environment,
                    wave=WORKER_WAVE,
                    stop_seconds=self.plan.drain_seconds + 20,
                )
                for name in workers
            ),
        ]

    def _must(self, failure: str, happened: Callable[[], bool], seconds: float) -> None:
        if not self.wait(happened, seconds):
            raise StartFailed(f"{failure} after {seconds:.0f} s; the logs are in {self.supervisor.logs}")

    def stop_roles(self) -> list[str]:
        """Stop all but Redis and the database, as an operator would. Returns what did not end well."""
        return self._stop([entry for entry in self.supervisor.running if not entry.role.is_store])

    def stop(self) -> list[str]:
        """Stop whatever is left."""
        for entry in self.supervisor.running:
            if entry.child is not None:
                strike(entry.child.pid, signal.SIGCONT)
        self.redis.close()
        return self._stop(list(self.supervisor.running))

    def _stop(self, entries: list[Running]) -> list[str]:
        part = Supervisor(self.supervisor.logs, self.supervisor.signals, self.supervisor.say, running=list(entries))
        part.stop()
        self.supervisor.running = [entry for entry in self.supervisor.running if entry not in entries]
        return [
            f"{entry.role.name} was told to stop, and ended with {describe_end(entry.child.returncode)}"
            for entry in entries
            if entry.child is not None and entry.child.returncode
        ]

    # -- looking

    def wait(self, happened: Callable[[], bool], seconds: float) -> bool:
        """Keep the processes running until `happened`, for so long at most; whether it did. Raises Interrupted."""
        until, seen = time.monotonic() + seconds, False

        def look() -> bool:
            nonlocal seen
            self.on_look()
            seen = happened()
            return seen or time.monotonic() >= until

        if not self.supervisor.run_until(look, look_seconds=LOOK_SECONDS):
            raise Interrupted
        return seen

    def pause(self, seconds: float) -> None:
        """Let everything run on for a while."""
        self.wait(lambda: False, seconds)

    def ready(self) -> bool:
        """Whether the API says that all is well, every worker included."""
        health = self._health()
        return health.get("status") == "ok" and (health.get("workers") or 0) >= self.plan.num_workers

    def api_answers(self) -> bool:
        return bool(self._health())

    def _health(self) -> Mapping[str, Any]:
        try:
            reply = httpx.get(f"{self.url}/health/ready", timeout=2.0)
            return reply.json() if reply.status_code == 200 else {}
        except (httpx.HTTPError, ValueError):
            return {}

    def running(self, prefix: str) -> list[Running]:
        """The roles of that kind which have a process now."""
        return [entry for entry in self.supervisor.running if entry.role.name.startswith(prefix) and entry.alive]

    def is_up(self, name: str, *, other_than: int) -> bool:
        """Whether a role has a process again, and not the one that was struck."""
        return any(entry.child and entry.child.pid != other_than for entry in self.running(name))

    # -- striking

    def strike(self, pid: int, number: signal.Signals) -> None:
        """Signal a process of ours; its end is no surprise then."""
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self.supervisor.struck.add(pid)
        strike(pid, number)

    def postmaster(self) -> int:
        """Process id of PostgreSQL itself (our child only keeps it)."""
        return int((self.home / "postgres" / "postmaster.pid").read_text().split()[0])

    def expect_end(self, name: str) -> None:
        """The process of a role will end as a consequence of what was struck."""
        self.supervisor.struck.update(entry.child.pid for entry in self.running(name) if entry.child)


def pid_of(entry: Running) -> int:
    if entry.child is None:
        raise LookupError(f"{entry.role.name} has no process now")
    return entry.child.pid


def strike(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
