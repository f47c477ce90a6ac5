"""What a person sees of a running system, in a real browser: the API's documentation, and Flower."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.cli.test_up import Up, running
from tests.support.browser import browser  # noqa: F401

SECRET = "zanzibar"


@pytest.fixture(scope="module")
def system() -> Iterator[Up]:
    with running("--model", "demo") as up:
        up.wait_ready()
        out, err = up.penstock("submit", "--wait", f"Write a haiku about {SECRET}").communicate()
        assert out, err
        yield up


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:  # noqa: F811
    """A page; at its end nothing may have complained on the console, nor asked another host for anything."""
    opened = browser.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("requestfailed", lambda request: complaints.append(request.url))
    yield opened
    opened.close()
    assert complaints == []


def url_of(system: Up, name: str) -> str:
    return str(json.loads((system.home / "up.json").read_text())[name])


def test_the_documentation_opens_without_the_internet(system: Up, page: Page) -> None:
    page.goto(url_of(system, "api") + "/docs")
    page.get_by_text("Submit a job, or several").click()
    expect(page.get_by_text("Idempotency-Key").first).to_be_visible()


def test_flower_shows_the_worker_its_model_and_its_load_and_no_prompt(system: Up, page: Page) -> None:
    page.goto(url_of(system, "flower"))
    page.locator('a[href*="/worker/"]').first.click()
    page.get_by_text("Other", exact=True).click()
    for name in ("model", "slots", "busy_slots", "tokens_per_second", "exact"):
        expect(page.get_by_role("cell", name=name, exact=True)).to_be_visible()
    assert SECRET not in page.content()


def test_flower_shows_the_task_as_it_ended_and_no_prompt(system: Up, page: Page) -> None:
    page.goto(url_of(system, "flower") + "/tasks")
    expect(page.get_by_text("penstock.generate").first).to_be_visible()
    expect(page.get_by_text("SUCCESS", exact=True).first).to_be_visible()
    assert SECRET not in page.content()
