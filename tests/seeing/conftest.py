"""One watched system for all tests here: it is looked at, not broken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs.database import migrate
from tests.seeing.spans import receiver
from tests.seeing.system import Watched
from tests.support.models import DEMO_MODEL
from tests.support.services import RedisServer


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    database_url = f"sqlite:///{folder / 'penstock.db'}"
    migrate(database_url)
    redis = RedisServer()
    with receiver() as spans:
        system = Watched(folder, database_url, redis.url, DEMO_MODEL, spans)
        system.start_all_roles()
        yield system
        system.close()
    redis.remove()
