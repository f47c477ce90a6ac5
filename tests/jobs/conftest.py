"""Fixtures of the domain's tests: the real services, a store on each database, a clock that tests move."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from jobs.database import open_engine
from jobs.store import Store
from tests.jobs.support import Clock, make_settings
from tests.support.services import (  # noqa: F401
    database_url,
    empty_postgres_url,
    own_redis_server,
    postgres_server,
    postgres_template,
    postgres_url,
    redis_server,
    redis_url,
    sqlite_template,
    sqlite_url,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[Store]:  # noqa: F811
    engine = open_engine(database_url)
    yield Store(engine, settings=make_settings(), clock=clock, dice=random.Random(7))
    engine.dispose()
