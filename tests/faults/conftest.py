"""Services and whole systems for the tests that break them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import PostgresServer
from tests.support.services import RedisServer
from tests.support.system import System
from tests.worker.conftest import endless_model

__all__ = [
    "RedisServer",
    "endless_model",
]

MakeSystem = Callable[..., System]


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL for this test alone, to stop and start."""
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture
def make_system(tmp_path: Path, redis_url: str, endless_model: Path) -> Iterator[MakeSystem]:
    """Makes systems: `make_system(database_url, slots=…)`. Their worker never ends a text by itself."""
    made: list[System] = []

    def make(database_url: str, model: Path | str = endless_model, **settings: Any) -> System:
        url = settings.pop("redis_url", redis_url)
        made.append(System(tmp_path, database_url, url, model, **settings))
        return made[-1]

    yield make
    for system in made:
        system.close()
