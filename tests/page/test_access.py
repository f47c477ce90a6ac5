"""Every view for everybody: names, headings, landmarks, contrast, width, keyboard; light and dark, wide and narrow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.page.visit import Visit
from tests.support.system import System

CHECKS = (Path(__file__).parent / "checks.js").read_text()
LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 375, "height": 700}, "color_scheme": "light", "has_touch": True},
    "narrow": {"viewport": {"width": 320, "height": 600}, "color_scheme": "dark", "reduced_motion": "reduce"},
}
LONG = "Unbreakable" * 30


@pytest.fixture(scope="module")
def places(system: System) -> Mapping[str, str]:
    """Where each view is, with something to show: every state, a replay, a long word, a batch with bad lines."""
    job = system.post(LONG, metadata={LONG[:60]: LONG}, logprobs=1)
    system.wait_for_ends([job])
    replay = system.http.post(f"/v1/jobs/{job}/replay").json()["id"]
    system.wait_for_ends([replay])
    failed = system.post("Ice", deadline_seconds=0.001)
    lines = [
        {"custom_id": f"{LONG}{n}", "method": "POST", "url": "/v1/jobs", "body": {"prompt": "x"}} for n in range(3)
    ]
    lines[0]["body"] = {"prompt": "x", "temperature": -1}
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    form = {"file": ("in.jsonl", data, "application/jsonl")}
    file = system.http.post("/v1/files", files=form, data={"purpose": "batch"}).json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/jobs", "metadata": {"name": LONG}}
    batch = system.http.post("/v1/batches", json=asked).json()
    return {
        "": "Newest texts",
        "jobs": "Older|succeeded",
        f"jobs/{job}?replay={replay}": "The same, token for token",
        f"jobs/{failed}": "Ended: expired",
        "batches": LONG,
        f"batches/{batch['id']}": "1 line failed",
        "workers": "proven",
        "new": "As a command",
        "new/batch": "Drop files here",
        "nowhere": "Nothing here",
    }


@pytest.fixture
def visiting_as(browser: Browser, system: System) -> Iterator[Callable[[str], Visit]]:
    opened = []

    def begin(look: str) -> Visit:
        context = browser.new_context(**LOOKS[look])  # type: ignore[arg-type]
        opened.append(context)
        return Visit(context.new_page(), str(system.http.base_url))

    yield begin
    for context in opened:
        context.close()


@pytest.mark.parametrize("look", LOOKS)
def test_every_view_can_be_read_and_used(
    look: str, visiting_as: Callable[[str], Visit], places: Mapping[str, str]
) -> None:
    visit = visiting_as(look)
    problems: dict[str, list[str]] = {}
    for place, text in places.items():
        visit.go(place)
        expect(visit.page.get_by_text(re.compile(text)).locator("visible=true").first).to_be_visible()
        for details in visit.page.locator("main details").all():
            details.evaluate("details => { details.open = true }")
        if found := visit.page.evaluate(CHECKS):
            problems[place] = found
    assert problems == {}
    visit.check()


def test_the_questions_can_be_read_and_used(visiting_as: Callable[[str], Visit], places: Mapping[str, str]) -> None:
    for look in LOOKS:
        visit = visiting_as(look)
        visit.go()
        visit.page.get_by_role("button", name="API key").click()
        expect(visit.page.get_by_role("dialog", name="API key")).to_be_visible()
        expect(visit.page.get_by_label("Key", exact=True)).to_be_focused()
        assert visit.page.evaluate(CHECKS) == []
        visit.page.keyboard.press("Escape")
        expect(visit.page.get_by_role("button", name="API key")).to_be_focused()


def test_the_keyboard_alone_reaches_everything_and_shows_where_it_is(visiting_as: Callable[[str], Visit]) -> None:
    visit = visiting_as("light")
    visit.go("jobs")
    page = visit.page
    expect(page.get_by_role("table")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("main").get_by_role("link", name="New job")).to_be_focused()
    width = page.evaluate("() => getComputedStyle(document.activeElement).outlineWidth")
    assert width == "2px"
    page.keyboard.press("Tab")
    expect(page.get_by_label("all", exact=True)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_label("queued", exact=True)).to_be_focused()
    expect(page).to_have_url(re.compile("state=queued"))


def test_a_change_of_view_moves_the_focus_to_its_heading_and_the_title_says_it(
    visiting_as: Callable[[str], Visit],
) -> None:
    visit = visiting_as("light")
    visit.go()
    visit.page.get_by_role("navigation", name="Views").get_by_role("link", name="Workers").click()
    expect(visit.heading("Workers")).to_be_focused()
    expect(visit.page).to_have_title("Workers · Penstock")
    current = visit.page.get_by_role("navigation", name="Views").locator("[aria-current=page]")
    expect(current).to_have_text("Workers")
    visit.page.go_back()
    expect(visit.heading("Overview")).to_be_focused()


def test_the_theme_is_chosen_and_kept(visiting_as: Callable[[str], Visit]) -> None:
    visit = visiting_as("light")
    visit.go()
    page = visit.page
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    theme = page.get_by_role("button", name=re.compile("^Theme"))
    theme.click()
    assert page.evaluate(ground) == light
    theme.click()
    expect(theme).to_have_text("Theme: dark")
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark


def test_states_are_told_in_words_and_drawings_as_well_as_colours(
    system: System, visiting_as: Callable[[str], Visit]
) -> None:
    visit = visiting_as("light")
    visit.go("jobs")
    expect(visit.page.get_by_role("table")).to_be_visible()
    for badge in visit.page.locator(".badge").all():
        assert badge.inner_text().strip()
        assert badge.locator("svg").count() == 1
