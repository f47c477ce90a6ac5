"""The page on a real system: API, dispatcher, worker with the demo model; and a browser whose console must be still."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.api.conftest import announce, set_stage, start_server, vocabulary_bytes
from tests.page.visit import Visit
from tests.support.browser import browser
from tests.support.services import RedisServer
from tests.support.system import System

__all__ = ["announce", "browser", "set_stage", "start_server", "vocabulary_bytes"]

ACTION_MILLISECONDS = 15_000


@pytest.fixture(scope="module")
def start_system(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, demo_model_path: Path
) -> Iterator[Callable[..., System]]:
    """Start a system of one's own; keyword arguments are settings."""
    made: list[tuple[System, RedisServer]] = []

    def start(**settings: object) -> System:
        folder = tmp_path_factory.mktemp("page")
        shutil.copy(sqlite_template, folder / "penstock.db")
        redis = RedisServer()
        url = f"sqlite:///{folder / 'penstock.db'}"
        system = System(folder, url, redis.url, demo_model_path, **{"slots": 4, **settings})
        made.append((system, redis))
        system.start_all()
        return system

    yield start
    for system, redis in made:
        system.close()
        redis.remove()


@pytest.fixture(scope="module")
def system(start_system: Callable[..., System]) -> System:
    """One system for all tests of a module."""
    return start_system()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    opened.set_default_timeout(ACTION_MILLISECONDS)
    yield opened
    opened.close()


@pytest.fixture
def visit(system: System, context: BrowserContext) -> Iterator[Visit]:
    """The page, opened. At the end nothing may have complained, nor asked another host for anything."""
    opened = Visit(context.new_page(), str(system.http.base_url))
    yield opened
    opened.check()


@pytest.fixture
def visiting(context: BrowserContext) -> Iterator[Callable[[str], Visit]]:
    """Visit a server of the test's own."""
    made: list[Visit] = []

    def begin(url: str) -> Visit:
        made.append(Visit(context.new_page(), url))
        return made[-1]

    yield begin
    for one in made:
        one.check()
