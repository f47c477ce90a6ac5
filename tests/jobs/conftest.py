"""Fixtures of the domain's tests: the real services, a store on each database, a clock that tests move."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from jobs.database import open_engine
from jobs.store import Store
from tests.jobs.support import Clock, make_settings


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[Store]:
    engine = open_engine(database_url)
    yield Store(engine, settings=make_settings(), clock=clock, dice=random.Random(7))
    engine.dispose()
