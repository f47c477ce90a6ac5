"""The application on real parts: SQLite (PostgreSQL in some tests), Redis, and the real Phi-3 vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from jobs.database import open_engine
from jobs.events import EventWriter, open_redis
from jobs.settings import Settings
from jobs.store import Store
from tests.api.stage import CONTEXT_TOKENS, MODEL, Api, LiveServer, Stage
from tests.support.models import VOCABULARY
from worker.gguf_header import without_tensors


@pytest.fixture(scope="session")
def vocabulary_bytes() -> bytes:
    return without_tensors(VOCABULARY)


@pytest.fixture
def announce(vocabulary_bytes: bytes) -> Callable[[Store], None]:
    """What a worker does when its model is loaded."""
    return lambda store: store.announce_model(MODEL, "0" * 64, CONTEXT_TOKENS, vocabulary_bytes)


@pytest.fixture
def set_stage(
    tmp_path: Path,
    redis_url: str,
    sqlite_url: str,
    announce: Callable[[Store], None],
) -> Iterator[Callable[..., Stage]]:
    """Settings, and the parts behind an application; keyword arguments are settings."""
    plain = {
        "home": tmp_path,
        "database_url": sqlite_url,
        "redis_url": redis_url,
        "model": MODEL,
        "max_body_bytes": 256 * 1024,
        "port": 0,
    }
    with ExitStack() as stack:

        def make(*, announced: bool = True, **changes: object) -> Stage:
            settings = Settings.model_validate(plain | changes)
            engine = open_engine(settings.resolved_database_url)
            stack.callback(engine.dispose)
            client = open_redis(settings.resolved_redis_url)
            stack.callback(client.close)
            store = Store(engine, settings=settings)
            if announced:
                announce(store)
            return Stage(settings, store, client, EventWriter(client))

        yield make


@pytest.fixture
def start_api(set_stage: Callable[..., Stage]) -> Iterator[Callable[..., Api]]:
    """Start an application in this process; keyword arguments are settings."""
    with ExitStack() as stack:

        def start(**changes: object) -> Api:
            stage = set_stage(**changes)
            client = stack.enter_context(TestClient(create_app(stage.settings)))
            return Api(stage, client)

        yield start


@pytest.fixture
def api(start_api: Callable[..., Api]) -> Api:
    return start_api()


@pytest.fixture
def start_server(set_stage: Callable[..., Stage]) -> Iterator[Callable[..., LiveServer]]:
    """Start a real server on a free port of loopback; keyword arguments are settings."""
    with ExitStack() as stack:

        def start(**changes: object) -> LiveServer:
            server = LiveServer(set_stage(**changes))
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def live(start_server: Callable[..., LiveServer]) -> LiveServer:
    return start_server()
