"""What a person does with single jobs: submit with any knob, watch, find, filter, cancel, replay, use again."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.page.visit import Visit
from tests.support.system import System

HAIKU = "Write a haiku about ice hockey"
HOSTILE = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">'


def read(system: System, job_id: str) -> dict[str, Any]:
    return dict(system.http.get(f"/v1/jobs/{job_id}").json())


def shown_id(visit: Visit) -> str:
    """The id of the job whose view is shown."""
    expect(visit.page).to_have_url(re.compile("#/jobs/job_[0-9a-f]{32}"))
    return visit.page.url.split("/jobs/")[1].split("?")[0]


def ended(system: System, **job: Any) -> dict[str, Any]:
    job_id = system.post(**job)
    system.wait_for_ends([job_id])
    return read(system, job_id)


def test_a_job_is_submitted_with_every_knob_and_its_text_streams_in(system: System, visit: Visit) -> None:
    visit.go("new")
    page = visit.page
    page.get_by_label("Text of message 1").fill(HAIKU)
    page.get_by_role("button", name="Add a message").click()
    page.get_by_label("Role of message 2").select_option("assistant")
    page.get_by_label("Text of message 2").fill("Ice.")
    page.get_by_role("button", name="Add a message").click()
    page.get_by_label("Text of message 3").fill("Another")
    knobs = {
        "Temperature": "0.7", "Max tokens": "40", "Seed": "42", "Top-p": "0.9", "Top-k": "50", "Min-p": "0.01",
        "Repeat penalty": "1.1", "Repeat window": "32", "Stop strings": "zzz\nyyy\\n", "Log probabilities": "2",
        "Logit bias": "1234: -5", "Deadline, seconds": "600", "Attempts at most": "2",
        "Model": system.settings.model_name,
    }  # fmt: skip
    for label, value in knobs.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("Exact", exact=True).select_option("off")
    page.get_by_label("Priority").select_option("batch")
    page.get_by_role("button", name="Add metadata").click()
    page.get_by_label("Metadata: key").fill("who")
    page.get_by_label("Metadata: value").fill("somebody")
    expect(page.get_by_label("The request as a command")).to_contain_text('"temperature": 0.7')
    visit.press("Submit")

    job_id = shown_id(visit)
    visit.sees("succeeded", "Ended: succeeded")
    job = read(system, job_id)
    asked = {
        "temperature": 0.7, "max_tokens": 40, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "repeat_penalty": 1.1,
        "repeat_last_n": 32, "stop": ["zzz", "yyy\n"], "logprobs": 2, "logit_bias": {"1234": -5}, "exact": False,
    }  # fmt: skip
    assert {name: job["parameters"][name] for name in asked} == asked
    assert (job["seed"], job["priority"], job["max_attempts"], job["metadata"]) == (42, "batch", 2, {"who": "somebody"})
    assert [message["role"] for message in job["messages"]] == ["user", "assistant", "user"]
    expect(page.get_by_label("Text", exact=True).locator("pre")).to_have_text(job["completion"])
    visit.sees("Log probabilities", "who", "somebody", "42", "0.7")


def test_a_raw_prompt_with_a_schema_makes_json(system: System, visit: Visit) -> None:
    visit.go("new")
    page = visit.page
    page.get_by_label("Raw prompt", exact=True).first.check(force=True)
    page.get_by_role("textbox", name="Raw prompt").fill("<|user|>\nJSON<|end|>\n<|assistant|>\n")
    page.get_by_label("Format").select_option("json_schema")
    page.get_by_label("JSON schema").fill('{"type": "object", "properties": {"ok": {"type": "boolean"}}}')
    visit.press("Submit")
    job = read(system, shown_id(visit))
    assert job["prompt"] == "<|user|>\nJSON<|end|>\n<|assistant|>\n"
    assert job["parameters"]["response_format"]["type"] == "json_schema"
    visit.sees("succeeded")


def test_what_is_wrong_is_said_at_its_field_and_the_focus_goes_there(visit: Visit) -> None:
    visit.go("new")
    visit.expect_refusals("400")
    page = visit.page
    visit.press("Submit")
    expect(page.get_by_role("alert").filter(has_text="say something first")).to_be_visible()
    page.get_by_label("Text of message 1").fill(HAIKU)
    temperature = page.get_by_label("Temperature", exact=True)
    temperature.fill("-1")
    visit.press("Submit")
    expect(temperature).to_have_attribute("aria-invalid", "true")
    expect(temperature).to_be_focused()
    expect(temperature).to_have_accessible_description(re.compile("temperature: "))
    temperature.fill("1")
    page.get_by_label("Logit bias").fill("nonsense")
    visit.press("Submit")
    expect(page.get_by_label("Logit bias")).to_be_focused()


def test_a_replay_tells_its_verdict_and_stays_after_a_reload(system: System, visit: Visit) -> None:
    job = ended(system, prompt=HAIKU, max_tokens=20)
    visit.go(f"jobs/{job['id']}")
    visit.press("Replay")
    verdict = visit.page.locator("[data-result=match]")
    expect(verdict).to_contain_text("The same, token for token")
    visit.page.reload()
    expect(verdict).to_be_visible()
    verdict.get_by_role("link").nth(1).click()
    expect(visit.page.locator("[data-result=match]")).to_be_visible()
    visit.sees("Replay of")


def test_the_recipe_opens_to_all_that_decides_the_text(system: System, visit: Visit) -> None:
    job = ended(system)
    visit.go(f"jobs/{job['id']}")
    visit.sees(job["recipe"])
    visit.page.get_by_text("All that decides the text").click()
    visit.sees("row_class")


def test_a_job_is_used_again_with_all_it_was_asked_with(system: System, visit: Visit) -> None:
    job = ended(system, prompt="Ice", temperature=0.5, stop=["a\n"], metadata={"k": "v"})
    visit.go(f"jobs/{job['id']}")
    visit.press("Use again", role="link")
    page = visit.page
    expect(page.get_by_role("textbox", name="Raw prompt")).to_have_value("Ice")
    expect(page.get_by_label("Temperature", exact=True)).to_have_value("0.5")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
    expect(page.get_by_label("Stop strings")).to_have_value("a\\n")
    visit.press("Submit")
    again = read(system, shown_id(visit))
    assert (again["prompt"], again["seed"], again["metadata"]) == ("Ice", 7, {"k": "v"})


def test_jobs_are_filtered_by_state_and_paged(system: System, visit: Visit) -> None:
    ids = [system.post(max_tokens=1) for _ in range(27)]
    system.wait_for_ends(ids)
    visit.go("jobs")
    rows = visit.page.get_by_role("table").locator("tbody tr")
    expect(rows).to_have_count(25)
    visit.press("Older")
    expect(rows.filter(has=visit.page.locator(f"a[href='#/jobs/{ids[0]}']"))).to_have_count(1)
    visit.press("Newer")
    expect(rows.filter(has=visit.page.locator(f"a[href='#/jobs/{ids[-1]}']"))).to_have_count(1)
    visit.page.get_by_label("running", exact=True).check(force=True)
    visit.sees("No job matches")
    expect(visit.page.get_by_label("running", exact=True)).to_be_focused()
    assert visit.page.url.endswith("state=running")


def test_the_search_finds_by_id_by_its_beginning_and_in_a_pasted_line(system: System, visit: Visit) -> None:
    job_id = system.post()
    visit.go()
    box = visit.page.get_by_role("searchbox")
    visit.page.keyboard.press("Control+k")
    expect(box).to_be_focused()
    box.fill(f'level=info job_id="{job_id}"')
    box.press("Enter")
    expect(visit.heading(re.compile("Job"))).to_be_visible()
    assert shown_id(visit) == job_id
    box.fill(job_id[4:24])
    box.press("Enter")
    expect(visit.page.get_by_role("main").get_by_role("link", name=f"Job {job_id}")).to_be_visible()
    box.fill("nonsense")
    box.press("Enter")
    assert box.evaluate("box => box.validationMessage").startswith("An id is job_")


@pytest.mark.parametrize(
    "place", ["jobs/job_00000000000000000000000000000000", "jobs/%2e%2e", "batches/x", "nowhere", "new/x"]
)
def test_what_is_not_there_is_said_so(visit: Visit, place: str) -> None:
    visit.expect_refusals("404")
    visit.go(place)
    expect(visit.page.get_by_text(re.compile("cannot be shown|Nothing here")).first).to_be_visible()


def test_a_hostile_text_is_only_ever_text(system: System, visit: Visit) -> None:
    job_id = system.post(HOSTILE, metadata={HOSTILE[:60]: HOSTILE})
    system.wait_for_ends([job_id])
    for place in (f"jobs/{job_id}", "jobs", ""):
        visit.go(place)
        expect(visit.page.get_by_text("<script>").first).to_be_visible()
        assert visit.page.locator("main script, main img").count() == 0
    assert "owned" not in visit.page.title()


def test_the_browser_itself_refuses_text_as_markup(visit: Visit) -> None:
    visit.go()
    expect(visit.heading("Overview")).to_be_visible()
    refused = visit.page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; return '' } catch (error) { return error.name } }"
    )
    assert refused == "TypeError"
    visit.expect_refusals("TrustedHTML")


def test_the_page_is_sent_with_a_strict_policy_and_names_no_other_host(system: System) -> None:
    reply = system.http.get("/")
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "unsafe" not in policy
    assert "http" not in reply.text
    assert not re.search(r"<style|style=|<script>| on[a-z]+=", reply.text)
    for link in re.findall(r'(?:src|href)="(/page/[^"]+)"', reply.text):
        asset = system.http.get(link)
        assert (asset.status_code, asset.headers["Cache-Control"]) == (200, "no-cache")
        assert system.http.get(link, headers={"If-None-Match": asset.headers["ETag"]}).status_code == 304
    assert system.http.get("/page/../wire.py").status_code == 404
    assert system.http.get("/page/none.js").json()["error"]["code"] == "unknown_url"
