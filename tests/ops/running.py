"""Runs the services of `docker-compose.yml` as processes of this machine: the same words and the same environment,
with the hosts, ports and folders of a container exchanged for private ones.

The container's `penstock` and `python` are this interpreter; `redis:6379` and `postgres:5432` are real servers on
private sockets; the model is the built-in one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ops import compose

ROLES = ("api", "dispatcher", "worker", "flower")
"""The lasting services of ours that run here. `worker-gpu` has the worker's command line and needs a GPU."""
START_SECONDS = 90.0
DEFAULT_GRACE = "10s"  # Compose's own, where a service names none


def until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Wait until `condition()` holds; fail after `seconds` and say what was awaited."""
    deadline = time.monotonic() + seconds
    never = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        never.wait(0.1)


@dataclass(frozen=True)
class Machine:
    """What stands in for the containers' network and volumes."""

    folder: Path
    database_url: str
    redis_url: str
    api_port: int
    flower_port: int

    def environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        """The service's environment with the addresses of this machine, and nothing of PENSTOCK_* from outside."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PENSTOCK_", "FLOWER_"))}
        here = {
            "PENSTOCK_HOME": str(self.folder / "home"),
            "PENSTOCK_DATABASE_URL": self.database_url,
            "PENSTOCK_REDIS_URL": self.redis_url,
            "PENSTOCK_PORT": str(self.api_port),
            "PENSTOCK_FLOWER_PORT": str(self.flower_port),
            "PENSTOCK_FLOWER_DB": str(self.folder / "flower" / "history"),
            "PENSTOCK_MODEL": "demo",
            "PENSTOCK_SLOTS": "2",
            "HF_HOME": str(self.folder / "models"),
        }
        given = {key: self._mounted(service, value) for key, value in service["environment"].items()}
        exchanged = {key: value for key, value in here.items() if key in given}
        return {**inherited, **given, **exchanged, "PYTHONPATH": str(compose.ROOT), "PYTHONUNBUFFERED": "1"}

    def _mounted(self, service: Mapping[str, Any], value: str) -> str:
        """A path of a secret in the container as one of this machine; the file is there if the service has it."""
        if not value.startswith(compose.SECRETS_FOLDER):
            return value
        name = value.removeprefix(compose.SECRETS_FOLDER)
        path = self.folder / "secrets" / name
        if name in service["secrets"]:
            path.parent.mkdir(exist_ok=True)
            path.write_text(compose.SECRETS[name] + "\n")
        return str(path)


def words_here(words: list[str]) -> list[str]:
    """A container's command line, as this machine spells it."""
    exchanged = {
        "penstock": [sys.executable, "-m", "cli"],
        "python": [sys.executable],
        "/opt/penstock/health.py": [str(compose.ROOT / "ops/docker/health.py")],
    }
    return [here for word in words for here in exchanged.get(word, [word])]


def run_to_end(words: list[str], service: Mapping[str, Any], machine: Machine) -> subprocess.CompletedProcess[str]:
    """A command line of a container, with the service's environment, until it ends by itself."""
    return subprocess.run(
        words_here(words),
        env=machine.environment(service),
        cwd=machine.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def check_health(service: Mapping[str, Any], machine: Machine) -> subprocess.CompletedProcess[str]:
    """The service's own health check, once."""
    kind, *words = service["healthcheck"]["test"]
    assert kind == "CMD"
    return run_to_end(words, service, machine)


@dataclass
class Running:
    """One service as a process. Its output goes to a file, which a failure shows."""

    name: str
    service: Mapping[str, Any]
    machine: Machine
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                words_here(self.service["command"]),
                env=self.machine.environment(self.service),
                cwd=self.machine.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def _log(self) -> Path:
        return self.machine.folder / f"{self.name}.log"

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_healthy(self) -> None:
        until(self._is_healthy, f"{self.name} is healthy")

    def end(self) -> int:
        """SIGTERM, as a container's engine sends it; the exit status. Fails past the service's grace period."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=compose.seconds(self.service.get("stop_grace_period", DEFAULT_GRACE)))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _is_healthy(self) -> bool:
        assert self.process.poll() is None, (
            f"{self.name} ended with {self.process.returncode}:\n{self.output()[-4000:]}"
        )
        return check_health(self.service, self.machine).returncode == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
