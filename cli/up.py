"""`penstock up`: the whole system on this machine, in the foreground, from one command.

Order of the start: the model (a download shows its progress and its failure here), Redis, PostgreSQL if asked for,
migrations, then every role; "ready" is said when the API says so. Order of the end: workers drain, then the other
roles, then Redis and the database. Knows each role by its command line only.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGTERM
from typing import IO

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from cli.client import Client
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
from cli.home import Addresses, announce, choose_port, hold_home, reachable_url
from cli.processes import SignalWatch, describe_end, signal_group, spawn, tail
from cli.roles import child_environment, read_settings, role_command
from cli.supervisor import LogMirror, Role, Supervisor
from jobs.settings import Settings

DRAIN_MARGIN_SECONDS = 10.0
LOOK_SECONDS = 0.1
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
WORKER_WAVE, ROLE_WAVE, STORE_WAVE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What was typed; None leaves a setting as the environment has it."""

    model: str | None = None
    slots: int | None = None
    workers: int = 1
    port: int | None = None
    flower_port: int | None = None
    postgres: bool = False
    verbose: bool = False


class Stopped(Exception):
    """A stop was asked for before the system was ready."""


def up(options: UpOptions, console: Console) -> None:
    """Run the system until SIGINT or SIGTERM. Raises CliError when it cannot start."""
    os.umask(0o077)  # prompts and completions are in these files
    settings = read_settings(
        model=options.model, slots=options.slots, port=options.port, flower_port=options.flower_port
    )
    home = settings.home.absolute()
    check_socket_path(settings.redis_socket)
    make_private(home)
    with hold_home(home), SignalWatch() as signals:
        settings = with_ports(settings)
        System(settings, options, console, signals).run()


def with_ports(settings: Settings) -> Settings:
    """Settings with ports that are free now."""
    port = choose_port(settings.host, settings.port, "--port")
    flower_port = choose_port(settings.flower_host, settings.flower_port, "--flower-port")
    return settings.model_copy(update={"port": port, "flower_port": flower_port})


class System:
    """One run of everything."""

    def __init__(self, settings: Settings, options: UpOptions, console: Console, signals: SignalWatch) -> None:
        self.settings = settings
        self.options = options
        self.console = console
        self.signals = signals
        self.home = settings.home.absolute()
        self.logs = self.home / "logs"
        self.supervisor = Supervisor(self.logs, signals, self._say)
        self.mirror = LogMirror(self.supervisor, self._show_line) if options.verbose else None
        self.environment = child_environment(settings, self._overrides())
        self.environment.setdefault("PENSTOCK_LOG_FORMAT", "console")  # a person reads them
        self.addresses = Addresses(
            os.getpid(),
            reachable_url(settings.host, settings.port),
            reachable_url(settings.flower_host, settings.flower_port),
        )

    def run(self) -> None:
        started_at = time.monotonic()
        try:
            self._start()
            self._wait_ready(started_at)
            with announce(self.home, replace(self.addresses, database_url=self._embedded_url())):
                self._keep()
        except Stopped:
            self._say("stopped before it was ready")
        finally:
            self._stop()

    def _overrides(self) -> dict[str, object]:
        """Settings that the children must have as this run has them."""
        names = ("model", "slots", "port", "flower_port")
        overrides: dict[str, object] = {"home": self.home} | {name: getattr(self.settings, name) for name in names}
        if self.options.workers > 1 and self.settings.threads is None:
            overrides["threads"] = max((os.cpu_count() or 1) // self.options.workers, 1)
        return overrides

    def _start(self) -> None:
        self._say(f"Penstock starts in {self.home}")
        if not self.options.postgres:
            self._check_binding()
        self._pull_model()
        self._start_stores()
        self._step("migrate", "the database cannot be prepared")
        if self.options.postgres:  # only now can it be asked for a key
            self._check_binding()
        self._show_addresses()
        for role in self._roles():
            self.supervisor.start(role)

    def _check_binding(self) -> None:
        """Before anything is fetched: an address that others reach needs a key."""
        if self.settings.host not in LOOPBACK and not self.settings.api_keys:
            self._step("may_listen", "the API may not listen there")

    def _pull_model(self) -> None:
        """Have the model's file before anything starts. Its progress and its errors go straight to the screen."""
        command = [*role_command("pull", self.settings), self.settings.model]
        status = self._run_step(command, stdout=subprocess.DEVNULL, stderr=None)
        if status:
            raise StartFailed(f"--model: {self.settings.model} cannot be used; the line above says why.")

    def _start_stores(self) -> None:
        if not self.settings.redis_url:
            self._start_redis()
        if self.options.postgres:
            self._start_postgres()

    def _start_redis(self) -> None:
        folder = self.home / "redis"
        make_private(folder)
        command = redis_command(find_redis_server(), self.settings.redis_socket, folder)
        self._start_store("redis", command, lambda: redis_answers(self.settings.redis_socket))

    def _start_postgres(self) -> None:
        folder = self.home / "postgres"
        url_file = postgres_url_file(folder)
        url_file.unlink(missing_ok=True)
        self._start_store("postgres", postgres_command(folder), url_file.exists)
        self.environment["PENSTOCK_DATABASE_URL"] = url_file.read_text(encoding="utf-8")

    def _start_store(self, name: str, command: list[str], answers: Callable[[], bool]) -> None:
        self.supervisor.start(Role(name, command, self.environment, wave=STORE_WAVE, stop_seconds=30.0, is_store=True))
        if not self.supervisor.run_until(answers, look_seconds=LOOK_SECONDS):
            raise Stopped

    def _step(self, name: str, failure: str) -> None:
        """Run a tool to its end; its output goes to a log."""
        log_path = self.logs / f"{name}.log"
        self.logs.mkdir(parents=True, exist_ok=True)
        with log_path.open("wb") as log:
            status = self._run_step(role_command(name, self.settings), stdout=log, stderr=log)
        if status:
            raise StartFailed(f"{failure} ({describe_end(status)}); the log is {log_path}.", tail(log_path))

    def _run_step(self, command: list[str], *, stdout: IO[bytes] | int, stderr: IO[bytes] | None) -> int:
        child = spawn(command, environment=self.environment, stdout=stdout, stderr=stderr)
        try:
            if not self.supervisor.run_until(lambda: child.poll() is not None):
                raise Stopped
        finally:
            while child.poll() is None:
                signal_group(child, SIGTERM)
                self.signals.wait(0.5)
        return child.returncode

    def _roles(self) -> list[Role]:
        command = {name: role_command(name, self.settings) for name in ("api", "dispatcher", "worker", "flower")}
        drain = self.settings.drain_seconds + DRAIN_MARGIN_SECONDS
        workers = [f"worker-{number}" for number in range(1, self.options.workers + 1)]
        return [
            Role("api", command["api"], self.environment, wave=ROLE_WAVE),
            Role("dispatcher", command["dispatcher"], self._metered(0), wave=ROLE_WAVE),
            *(
                Role(name, command["worker"], self._metered(number), wave=WORKER_WAVE, stop_seconds=drain)
                for number, name in enumerate(workers, start=1)
            ),
            Role("flower", command["flower"], self.environment, wave=ROLE_WAVE, essential=False),
        ]

    def _metered(self, number: int) -> dict[str, str]:
        """The environment of a role that serves its metrics on a port of its own: the dispatcher on the one that is
        set, the workers on those after it."""
        first = self.settings.metrics_port
        return self.environment | ({"PENSTOCK_METRICS_PORT": str(first + number)} if first else {})

    def _wait_ready(self, started_at: float) -> None:
        worker = self.logs / "worker-1.log"
        with Client(self.addresses.api) as client, self._status() as status:

            def ready() -> bool:
                if status is not None:
                    status.update(f"starting … {time.monotonic() - started_at:.0f} s  {escape(_last_line(worker))}")
                self._mirror()
                return client.ready()[0]

            if not self.supervisor.run_until(ready, look_seconds=LOOK_SECONDS):
                raise Stopped
        self.supervisor.was_ready = True
        self._say(f"ready after {time.monotonic() - started_at:.1f} s. In another terminal, try:", "bold green")
        self._say('  penstock submit --stream "Write a haiku about ice hockey"')
        self._say("ctrl-C drains and stops.")

    def _keep(self) -> None:
        def never() -> bool:
            self._mirror()
            return False

        self.supervisor.run_until(never, look_seconds=LOOK_SECONDS if self.mirror else None)

    def _stop(self) -> None:
        if self.supervisor.running:
            self._say("stopping: the workers finish or hand back what they hold; ctrl-C again stops at once")
        self.supervisor.stop()
        self._say("stopped")

    def _show_addresses(self) -> None:
        table = Table.grid(padding=(0, 2))
        store = "embedded" if not self.settings.redis_url else "PENSTOCK_REDIS_URL"
        database = "embedded PostgreSQL" if self.options.postgres else "SQLite in the home folder"
        rows = {
            "model": f"{self.settings.model}, {self.settings.slots} slots, {self.options.workers} worker(s)",
            "API": self.addresses.api,
            "docs": self.addresses.docs,
            "Flower": self.addresses.flower,
            "database": "PENSTOCK_DATABASE_URL" if self._own_database() else database,
            "Redis": store,
            "logs": str(self.logs),
        }
        for name, value in rows.items():
            table.add_row(f"  {name}", escape(value))
        self.console.print(table)

    def _embedded_url(self) -> str:
        return self.environment["PENSTOCK_DATABASE_URL"] if self.options.postgres else ""

    def _own_database(self) -> bool:
        return bool(self.settings.database_url) and not self.options.postgres

    def _status(self) -> AbstractContextManager[Status | None]:
        """A spinner where somebody watches."""
        return self.console.status("starting …") if self.console.is_terminal and not self.mirror else nullcontext()

    def _mirror(self) -> None:
        if self.mirror:
            self.mirror.look()

    def _say(self, line: str, style: str | None = None) -> None:
        self.console.print(line, style=style, soft_wrap=True, markup=False, highlight=False)

    def _show_line(self, name: str, line: str) -> None:
        self.console.print(f"[dim]{name:>10} |[/dim] {escape(line)}", soft_wrap=True, highlight=False)


def _last_line(log: Path) -> str:
    return (tail(log, num_lines=1) or [""])[0][:80]
