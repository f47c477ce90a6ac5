"""A job's view beside a worker that the test plays: text in pieces, cuts, resets, attempts, keys, a hidden page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, expect

from jobs.records import Cancelled, Failed
from jobs.states import JobState
from tests.api.stage import LiveServer, generation
from tests.api.test_streams import TEXT, Worker
from tests.ops.running import free_port
from tests.page.visit import Visit

HIDEABLE = "Object.defineProperty(document, 'hidden', {get: () => window.isHidden ?? false})"
HIDE = "hidden => { window.isHidden = hidden; document.dispatchEvent(new Event('visibilitychange')) }"


@pytest.fixture
def live(start_server: Callable[..., LiveServer]) -> LiveServer:
    return start_server(port=free_port(), retry_backoff_seconds=0)


@pytest.fixture
def visit(live: LiveServer, visiting: Callable[[str], Visit]) -> Visit:
    return visiting(live.server.url)


def text_of(visit: Visit) -> Locator:
    return visit.page.locator("pre.completion")


def followed(live: LiveServer, visit: Visit) -> Worker:
    """A running job whose view is open and live."""
    worker = Worker(live, live.submit())
    visit.go(f"jobs/{worker.ref.job_id}")
    visit.sees("running", "Live")
    return worker


def test_text_streams_in_piece_by_piece_and_its_end_is_told(live: LiveServer, visit: Visit) -> None:
    worker = followed(live, visit)
    expect(text_of(visit)).to_have_attribute("aria-busy", "true")
    for end in (12, 22, len(TEXT)):
        worker.say(TEXT[len(worker.text) : end])
        expect(text_of(visit)).to_have_text(TEXT[:end], use_inner_text=False)
    worker.end()
    visit.sees("Ended: succeeded")
    assert text_of(visit).text_content() == TEXT
    expect(visit.page.locator("#whisper")).to_contain_text("The job has succeeded.")
    expect(text_of(visit)).not_to_have_attribute("aria-busy", "true")


def test_a_text_goes_on_without_gap_or_repeat_when_the_api_comes_back(
    live: LiveServer, visit: Visit, start_server: Callable[..., LiveServer]
) -> None:
    visit.expect_refusals("net::ERR_")
    worker = followed(live, visit)
    worker.say(TEXT[:10])
    expect(text_of(visit)).to_contain_text(TEXT[:10])
    live.stop()
    visit.sees("Connection lost. Connecting again.")
    expect(visit.page.get_by_text("The API cannot be reached.")).to_be_visible()
    worker.say(TEXT[10:20])
    asked: list[str | None] = []
    visit.page.on(
        "request",
        lambda request: request.url.endswith("/events") and asked.append(request.header_value("last-event-id")),
    )
    start_server(port=live.server.config.port)
    visit.sees("Live")
    expect(text_of(visit)).to_have_text(TEXT[:20])
    expect(visit.page.get_by_text("The API cannot be reached.")).to_be_hidden()
    worker.say(TEXT[20:])
    expect(text_of(visit)).to_have_text(TEXT)
    assert set(asked) == {"10"}
    worker.end()
    visit.sees("Ended: succeeded")


def test_another_attempt_with_another_text_starts_the_view_afresh(live: LiveServer, visit: Visit) -> None:
    worker = followed(live, visit)
    worker.say("Void")
    expect(text_of(visit)).to_have_text("Void")
    live.store.finish(worker.ref, Failed("engine_failed", "The engine stopped.", retryable=True))
    again = Worker(live, worker.ref.job_id)
    again.say("New")
    expect(text_of(visit)).to_have_text("New")
    steps = visit.page.locator(".timeline > li")
    expect(steps).to_have_count(3)
    expect(steps.nth(1)).to_contain_text("The engine stopped.")
    again.end()
    expect(steps).to_have_count(4)
    expect(steps.nth(2)).to_contain_text("test-worker")
    expect(steps.nth(3)).to_contain_text("Ended: succeeded")


def test_a_job_is_cancelled_after_a_question(live: LiveServer, visit: Visit) -> None:
    worker = followed(live, visit)
    worker.say("Half")
    dialog = visit.page.get_by_role("dialog")
    visit.press("Cancel")
    dialog.get_by_role("button", name="Keep it").click()
    expect(dialog).to_be_hidden()
    expect(visit.page.get_by_role("main").get_by_role("button", name="Cancel")).to_be_focused()
    visit.press("Cancel")
    dialog.get_by_role("button", name="Cancel the job").click()
    visit.sees("It is being cancelled.")
    assert live.store.get(worker.ref.job_id).cancel_requested_at is not None
    live.store.finish(worker.ref, Cancelled(generation("Half")))
    live.writer.end(worker.ref.job_id, JobState.CANCELLED)
    visit.sees("Ended: cancelled", "Half")


def test_nothing_is_asked_for_while_the_page_is_hidden(live: LiveServer, visit: Visit) -> None:
    visit.page.add_init_script(HIDEABLE)
    worker = followed(live, visit)
    worker.say(TEXT[:5])
    expect(text_of(visit)).to_have_text(TEXT[:5])
    visit.page.evaluate(HIDE, True)
    visit.sees("Paused while the page is hidden.")
    worker.say(TEXT[5:9])
    visit.requests.clear()
    visit.page.evaluate("() => new Promise(done => setTimeout(done, 2500))")
    assert visit.requests == []
    visit.page.evaluate(HIDE, False)
    expect(text_of(visit)).to_have_text(TEXT[:9])
    worker.end()
    visit.sees("Ended: succeeded")


def test_a_key_is_asked_for_kept_for_the_tab_and_sent_with_streams_too(
    start_server: Callable[..., LiveServer], visiting: Callable[[str], Visit]
) -> None:
    server = start_server(api_keys="good-key")
    server.client.headers["Authorization"] = "Bearer good-key"
    visit = visiting(server.server.url)
    visit.expect_refusals("401")
    worker = Worker(server, server.submit())
    visit.go(f"jobs/{worker.ref.job_id}")
    dialog = visit.page.get_by_role("dialog", name="API key")
    dialog.get_by_label("Key").fill("wrong-key")
    dialog.get_by_label("Key").press("Enter")
    expect(dialog.get_by_text("The API does not know this key.")).to_be_visible()
    dialog.get_by_label("Key").fill("good-key")
    dialog.get_by_role("button", name="Use it").click()
    visit.sees("Live")
    worker.say(TEXT)
    expect(text_of(visit)).to_have_text(TEXT)
    kept = visit.page.evaluate("() => [JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie]")
    assert ["good-key" in place for place in kept] == [True, False, False]
    visit.page.get_by_role("button", name="API key: set").click()
    dialog.get_by_role("button", name="Forget it").click()
    expect(dialog.get_by_text("The API asks for a key.")).to_be_visible()
    assert "key" not in str(visit.page.evaluate("() => sessionStorage.getItem('penstock-key')"))


def test_a_file_is_downloaded_with_the_key(
    start_server: Callable[..., LiveServer], visiting: Callable[[str], Visit]
) -> None:
    server = start_server(api_keys="good-key")
    server.client.headers["Authorization"] = "Bearer good-key"
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/jobs", "body": {"prompt": "Ice"}}\n'
    form = {"file": ("in.jsonl", line, "application/jsonl")}
    file = server.client.post("/v1/files", files=form, data={"purpose": "batch"}).json()
    made = server.client.post("/v1/batches", json={"input_file_id": file["id"], "endpoint": "/v1/jobs"}).json()
    visit = visiting(server.server.url)
    visit.page.add_init_script("sessionStorage.setItem('penstock-key', 'good-key')")
    visit.go(f"batches/{made['id']}")
    with visit.page.expect_download() as download:
        visit.press("Download input")
    assert download.value.path().read_bytes() == line
    assert download.value.suggested_filename == "in.jsonl"


def test_an_outage_is_said_and_passes(live: LiveServer, visit: Visit, start_server: Callable[..., LiveServer]) -> None:
    visit.expect_refusals("net::ERR_")
    visit.go()
    visit.sees("No batch is under way", "no worker is alive")
    live.stop()
    banner = visit.page.get_by_text("The API cannot be reached.")
    expect(banner).to_be_visible()
    start_server(port=live.server.config.port)
    expect(banner).to_be_hidden()
