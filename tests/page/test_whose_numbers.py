"""How busy the machine is, on the page: with everybody's jobs for a key that may know it, else with the key's own."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from jobs.keys import USUAL_SCOPES, KeyScope, NewKey
from tests.api.stage import LiveServer, claim
from tests.page.visit import Visit

CHECKS = (Path(__file__).parent / "checks.js").read_text()


@pytest.fixture
def enter(start_server: Callable[..., LiveServer], visiting: Callable[[str], Visit]) -> Callable[..., Visit]:
    """Open the page with a key of these scopes, beside somebody else's jobs: one that runs and two that wait."""

    def open_page(*scopes: KeyScope) -> Visit:
        server = start_server()
        _, own = server.store.create_key(NewKey("a key", "ann", scopes or USUAL_SCOPES))
        _, others = server.store.create_key(NewKey("a key", "bob"))
        server.client.headers["Authorization"] = f"Bearer {others}"
        first, *_ = (server.submit() for _ in range(3))
        claim(server.store, first)
        server.store.heartbeat("test-worker", "demo", 16, 5, 12.5, {"backend": "CPU", "waiting": 2, "prefix_bytes": 7})
        visit = visiting(server.server.url)
        visit.page.add_init_script(f"sessionStorage.setItem('penstock-key', '{own}')")
        return visit

    return open_page


def tile(visit: Visit, name: str) -> str:
    found = visit.page.locator(".tile").filter(has=visit.page.get_by_text(name, exact=True))
    expect(found.locator(".tile-value")).not_to_have_text("–")
    return found.inner_text()


def test_a_key_sees_its_own_numbers_and_what_the_machine_has(enter: Callable[..., Visit]) -> None:
    visit = enter()
    visit.go()
    visit.sees("one worker")
    assert re.search(r"\b16\b", tile(visit, "Slots"))
    for name in ("Your jobs with a worker", "Your interactive jobs waiting", "Your batch jobs waiting"):
        assert re.search(r"\n0\n", tile(visit, name)), name
    assert visit.page.evaluate(CHECKS) == []
    visit.go("workers")
    worker = visit.page.get_by_role("article", name="Worker test-worker")
    expect(worker).to_contain_text("16, and 0 jobs of yours")
    expect(worker).to_contain_text("CPU")
    for hidden in ("Tokens per second", "busy", "Prefix memory"):
        expect(worker.get_by_text(hidden).locator("visible=true")).to_have_count(0)
    visit.sees("The counts are of your own jobs.")
    expect(visit.page.get_by_role("row", name=re.compile("^interactive 0 0 0"))).to_be_visible()
    assert visit.page.evaluate(CHECKS) == []


@pytest.mark.parametrize("scope", [KeyScope.METRICS, KeyScope.ADMIN])
def test_a_key_for_numbers_or_for_everything_sees_how_busy_the_machine_is(
    enter: Callable[..., Visit], scope: KeyScope
) -> None:
    visit = enter(KeyScope.READ, scope)
    visit.go()
    visit.sees("one worker", "5 of 16", "2 wait for one")
    assert "12.5" in tile(visit, "Tokens per second")
    assert re.search(r"\n2\n", tile(visit, "Interactive queue"))
    visit.go("workers")
    expect(visit.page.get_by_role("article", name="Worker test-worker")).to_contain_text("5 of 16 busy")
    expect(visit.page.get_by_text("The counts are of your own jobs.")).to_be_hidden()
