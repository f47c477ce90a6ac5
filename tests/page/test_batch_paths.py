"""What a person does with batches: drop files, watch, find what failed, retry, cancel, download. And the workers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.page.visit import Visit
from tests.support.system import System

DROP = """([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name));
    return data;
}"""


def line(custom_id: str, **body: Any) -> str:
    value = {"messages": [{"role": "user", "content": f"Write a haiku about {custom_id}"}], "max_tokens": 6, **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/jobs", "body": value}) + "\n"


def drop(page: Page, name: str, text: str) -> None:
    zone = page.locator(".drop-zone")
    data = page.evaluate_handle(DROP, [name, text])
    zone.dispatch_event("dragenter", {"dataTransfer": data})
    expect(zone).to_have_class(re.compile("is-over"))
    zone.dispatch_event("drop", {"dataTransfer": data})
    expect(page.get_by_role("list", name="Files to send")).to_contain_text(name)


def shown_batch(visit: Visit, system: System) -> dict[str, Any]:
    expect(visit.page).to_have_url(re.compile("#/batches/batch_[0-9a-f]{32}"))
    batch_id = visit.page.url.split("/batches/")[1].split("?")[0]
    return dict(system.http.get(f"/v1/batches/{batch_id}").json())


def test_a_dropped_file_becomes_a_batch_whose_results_are_downloaded(
    system: System, visit: Visit, tmp_path: Path
) -> None:
    visit.go("new/batch")
    page = visit.page
    drop(page, "haiku.jsonl", "".join(line(f"c{n}") for n in range(12)) + line("bad", temperature=-1))
    page.get_by_label("Name", exact=True).fill("Haiku")
    page.get_by_label("Window", exact=True).fill("24h")
    page.get_by_label("Weight", exact=True).fill("2")
    page.get_by_label("Order of results").select_option("as the lines stand")
    visit.press("Send")
    expect(visit.heading(re.compile("^Haiku"))).to_be_visible()
    visit.sees("completed", "13 of 13 lines have ended · 100 %", "1 line failed", "body.temperature")
    batch = shown_batch(visit, system)
    assert (batch["endpoint"], batch["completion_window"], batch["weight"]) == ("/v1/jobs", "24h", 2)
    assert batch["metadata"] == {"name": "Haiku", "weight": "2", "output_order": "input"}
    with page.expect_download() as download:
        visit.press("Download results")
    download.value.save_as(tmp_path / "out.jsonl")
    rows = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == [f"c{n}" for n in range(12)]
    with page.expect_download() as download:
        visit.press("Download errors")
    assert "bad" in download.value.path().read_text()
    progress = page.get_by_role("progressbar", name="Progress of the batch")
    expect(progress).to_have_attribute("aria-valuenow", "100")
    page.get_by_role("region", name="Lines of the batch").get_by_role("link").first.click()
    visit.sees("Ended: failed")


def test_progress_pace_and_time_left_are_told_while_a_batch_runs_and_it_can_be_cancelled(
    system: System, visit: Visit
) -> None:
    visit.go("new/batch")
    page = visit.page
    drop(page, "long.jsonl", "".join(line(f"c{n}", max_tokens=200) for n in range(3000)))
    visit.press("Send")
    visit.sees("in progress")
    expect(page.locator(".headline")).to_have_text(re.compile(r"^[1-9][\d,]* of 3,000 lines have ended"))
    pace = page.locator(".tiles.inner .tile")
    expect(pace.nth(0)).to_contain_text(re.compile(r"\d"))
    expect(pace.nth(2)).to_contain_text(re.compile(r"\d+ (s|min).* (to|about)?"))
    expect(pace.nth(2)).to_contain_text("nine times in ten", timeout=60_000)
    visit.go()
    expect(page.get_by_role("article").first).to_contain_text("lines/s")
    visit.go("batches")
    row = page.get_by_role("article").filter(has_text="in progress")
    expect(row).to_contain_text(re.compile(r"of 3,000 · \d"))
    row.get_by_role("link").first.click()
    visit.press("Cancel")
    page.get_by_role("dialog").get_by_role("button", name="Cancel the batch").click()
    expect(visit.heading(re.compile("cancelled$"))).to_be_visible(timeout=60_000)
    expect(page.locator(".headline")).to_have_text(re.compile("^3,000 of 3,000 lines have ended"))
    assert shown_batch(visit, system)["status"] == "cancelled"


def test_plain_prompts_get_the_parameters_of_the_form(system: System, visit: Visit) -> None:
    visit.go("new/batch")
    page = visit.page
    drop(page, "prompts.txt", "Ice\n\nSnow\r\n")
    page.get_by_label("Max tokens").fill("3")
    page.get_by_label("System message").fill("Be brief.")
    visit.press("Send")
    visit.sees("completed")
    batch = shown_batch(visit, system)
    jobs = system.http.get(f"/v1/jobs?batch_id={batch['id']}").json()["data"]
    assert [job["custom_id"] for job in jobs] == ["line-3", "line-1"]
    assert [job["messages"][-1]["content"] for job in jobs] == ["Snow", "Ice"]
    assert {(job["messages"][0]["content"], job["parameters"]["max_tokens"]) for job in jobs} == {("Be brief.", 3)}


def test_typed_prompts_are_a_batch_too(system: System, visit: Visit) -> None:
    visit.go("new/batch")
    visit.page.get_by_label("Or type prompts").fill("Ice\nSnow")
    visit.page.get_by_label("Max tokens").fill("2")
    visit.press("Send")
    visit.sees("2 of 2 lines have ended")


def test_several_files_are_a_batch_each(visit: Visit) -> None:
    visit.go("new/batch")
    files = [{"name": f"{name}.jsonl", "mimeType": "", "buffer": line(name).encode()} for name in ("one", "two")]
    visit.page.locator("input[type=file]").set_input_files(files)  # type: ignore[arg-type]
    expect(visit.page.get_by_role("list", name="Files to send").get_by_role("listitem")).to_have_count(2)
    visit.press("Send")
    expect(visit.page).to_have_url(re.compile("#/batches$"))
    expect(visit.page.get_by_role("article").first).to_contain_text("1 of 1 · 100 %")


def test_what_is_wrong_with_a_batch_is_said(visit: Visit) -> None:
    visit.expect_refusals("400")
    visit.go("new/batch")
    visit.press("Send")
    expect(visit.page.get_by_role("alert").first).to_have_text("Choose a file, or type a prompt.")
    drop(visit.page, "one.jsonl", line("a"))
    visit.page.get_by_label("Window", exact=True).fill("soon")
    visit.press("Send")
    window = visit.page.get_by_label("Window", exact=True)
    expect(window).to_be_focused()
    expect(window).to_have_accessible_description(re.compile("completion_window is a positive number"))
    window.fill("1h")
    visit.press("Send")
    visit.sees("completed")


def test_a_batch_that_was_refused_as_a_whole_lists_its_lines(visit: Visit) -> None:
    visit.go("new/batch")
    drop(visit.page, "bad.jsonl", line("a") + line("b", temperature=-1))
    visit.page.get_by_label("A line that cannot run").select_option("refuses the batch")
    visit.press("Send")
    visit.sees("failed", "line 2", "body.temperature")


def test_failed_lines_are_run_again(system: System, visit: Visit) -> None:
    file = {"file": ("in.jsonl", (line("a") + line("late", deadline_seconds=0.001)).encode(), "application/jsonl")}
    file_id = system.http.post("/v1/files", files=file, data={"purpose": "batch"}).json()["id"]
    body = {"input_file_id": file_id, "endpoint": "/v1/jobs", "metadata": {"name": "Again"}}
    batch = system.http.post("/v1/batches", json=body).json()
    visit.go(f"batches/{batch['id']}")
    visit.sees("2 of 2 lines have ended", "expired")
    visit.press("Retry failed lines")
    expect(visit.page.locator("#notes")).to_contain_text("1 line queued again.")


def test_lines_are_filtered_by_state(system: System, visit: Visit) -> None:
    lines = [{"prompt": "Ice", "max_tokens": 2}, {"prompt": "Snow", "max_tokens": 2}]
    batch_id = system.http.post("/v1/jobs", json={"jobs": lines}).json()["batch_id"]
    visit.go(f"batches/{batch_id}")
    visit.sees("completed", "This batch has no files.")
    rows = visit.page.get_by_role("table").locator("tbody tr")
    expect(rows).to_have_count(2)
    visit.page.get_by_label("failed", exact=True).check(force=True)
    visit.sees("No job matches")
    visit.page.get_by_role("main").get_by_role("link", name=re.compile("succeeded")).click()
    expect(rows).to_have_count(2)


def test_workers_are_shown_with_slots_speed_and_queues(system: System, visit: Visit) -> None:
    visit.go("workers")
    worker = visit.page.get_by_role("article", name=re.compile("Worker penstock@"))
    for text in ("alive", system.settings.model_name, "CPU, llama.cpp", "proven", re.compile(r"\d of \d+ busy")):
        expect(worker).to_contain_text(text)
    queues = visit.page.get_by_role("table")
    expect(queues.get_by_role("row", name=re.compile("^interactive"))).to_be_visible()
    expect(queues.get_by_role("row", name=re.compile("^batch"))).to_be_visible()
    visit.go()
    expect(visit.page.get_by_text("one worker")).to_be_visible()
