"""Services and sites for the worker's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ops.demo_model.random_weights import SHAPES, write_random_model
from tests.support.services import RedisServer
from tests.worker.site import Site

__all__ = [
    "RedisServer",
]

MakeSite = Callable[..., Site]


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that never end a text by themselves, with room for a long one."""
    path = tmp_path_factory.mktemp("models") / "endless.gguf"
    write_random_model(path, SHAPES["tiny"], context_tokens=8192)
    return path


@pytest.fixture
def make_site(tmp_path: Path, redis_url: str, endless_model: Path) -> Iterator[MakeSite]:
    """Makes sites: `make_site(database_url, model=…, slots=…, lease_seconds=…)`."""
    made: list[Site] = []

    def make(database_url: str, model: Path | str = endless_model, **settings: Any) -> Site:
        made.append(Site(tmp_path, database_url, settings.pop("redis_url", redis_url), model, **settings))
        return made[-1]

    yield make
    for site in made:
        site.close()
