"""The same calls on PostgreSQL: what differs there is what it cannot store, and how instants come back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.batch_stage import batch, chat_line, create, created, job_line, lines_of, office, uploaded
from tests.api.stage import Api, LiveServer, run_to_end, text_of

TEXT = "Eis 🏒 \u2028 \ufffe \x01 '; DROP TABLE jobs; --"


@pytest.fixture
def api(start_api: Callable[..., Api], postgres_url: str) -> Api:
    return start_api(database_url=postgres_url)


def test_a_job_goes_in_and_comes_back_whole(api: Api) -> None:
    job_id = api.submit(prompt=TEXT, metadata={TEXT: TEXT}, deadline_seconds=60)["id"]
    run_to_end(api.store, job_id, TEXT)
    job = api.client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["prompt"], job["completion"], job["metadata"]) == ("succeeded", TEXT, TEXT, {TEXT: TEXT})
    assert job["created_at"].endswith("Z")
    assert api.client.get("/v1/jobs?state=succeeded").json()["data"][0]["completion"] == TEXT


def test_a_batch_is_taken_once_listed_and_cancelled(api: Api) -> None:
    body = {"jobs": [{"prompt": str(n)} for n in range(20)]}
    first, again = (api.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "1"}) for _ in range(2))
    assert first.json() == again.json()
    batch_id = first.json()["batch_id"]
    page = api.client.get(f"/v1/jobs?batch_id={batch_id}&limit=5").json()
    assert [job["prompt"] for job in page["data"]] == ["19", "18", "17", "16", "15"]
    answer = api.client.post(f"/v1/batches/{batch_id}/cancel").json()
    assert (answer["status"], answer["counts"]["cancelled"]) == ("cancelled", 20)


def test_a_file_goes_in_and_its_results_come_back(api: Api) -> None:
    clerk = office(api)
    made = created(api, [chat_line("ä 🏒"), b"{", job_line("j")], metadata={TEXT[:5]: TEXT})
    clerk.work()
    clerk.run(made["id"])
    clerk.work()
    done = batch(api, made["id"])
    assert (done["status"], done["metadata"]) == ("completed", {TEXT[:5]: TEXT})
    assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    assert [line["custom_id"] for line in lines_of(api, done["output_file_id"])] == ["ä 🏒"]
    assert [line["error"]["line"] for line in lines_of(api, done["error_file_id"])] == [2, 3]
    events = api.client.get(f"/v1/batches/{made['id']}/events").text
    assert events.count("event: line") == 3
    assert api.store.audit() == []


def test_a_batch_is_made_once_and_listed(api: Api) -> None:
    file, headers = uploaded(api, [chat_line("a")]), {"Idempotency-Key": "k"}
    first, again = (create(api, file["id"], headers=headers) for _ in range(2))
    silent = create(api, file["id"], headers={"x-stainless-retry-count": "1"})
    other = create(api, file["id"], headers={"x-stainless-retry-count": "1"})
    assert first.json()["id"] == again.json()["id"]
    assert silent.json()["id"] == other.json()["id"]
    page = api.client.get("/v1/batches").json()
    assert [one["id"] for one in page["data"]] == [silent.json()["id"], first.json()["id"]]
    assert [one["id"] for one in api.client.get("/v1/files").json()["data"]] == [file["id"]]


@pytest.mark.parametrize("bad", [r"\u0000", r"\ud800"])
def test_text_that_postgresql_cannot_hold_is_refused_before_it_gets_there(api: Api, bad: str) -> None:
    raw = f'{{"prompt": "x", "metadata": {{"k": "{bad}"}}}}'
    reply = api.client.post("/v1/jobs", content=raw, headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "metadata.k")
    assert api.num_jobs() == 0


@pytest.mark.parametrize("path", ["/v1/jobs/job_%00", "/v1/batches/batch_%00", "/v1/files/file-%00"])
def test_an_id_that_postgresql_cannot_hold_is_not_found(api: Api, path: str) -> None:
    assert api.client.get(path).status_code == 404


def test_a_finished_job_is_streamed(start_server: Callable[..., LiveServer], postgres_url: str) -> None:
    live = start_server(database_url=postgres_url)
    job_id = live.submit()
    run_to_end(live.store, job_id, TEXT)
    with live.follow(job_id) as stream:
        assert text_of(list(stream)) == TEXT
