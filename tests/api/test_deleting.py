"""DELETE /v1/jobs/{id}: what goes, what is refused, and what is told of it afterwards."""

from __future__ import annotations

import json

from jobs.records import Cancelled
from tests.api.batch_stage import chat_line, created, office
from tests.api.stage import Api, claim, run_to_end
from tests.support.services import wait_until

TEXT = "Skates carve the ice"


def ended(api: Api, **job: object) -> str:
    job_id = str(api.submit(**job)["id"])
    run_to_end(api.store, job_id, TEXT)
    return job_id


def test_a_deleted_job_is_gone_with_all_that_hangs_on_it(api: Api) -> None:
    job_id = ended(api)
    path = f"/v1/jobs/{job_id}"
    told = {"id": job_id, "object": "job", "deleted": True}
    assert [api.client.delete(path).json() for _ in range(2)] == [told, told]
    calls = [("GET", path), ("GET", f"{path}/events"), ("POST", f"{path}/cancel"), ("POST", f"{path}/replay")]
    for method, call in calls:
        reply = api.client.request(method, call)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (404, "deleted"), call
        assert "was deleted" in error["message"]
    assert api.client.get("/v1/jobs").json()["data"] == []
    assert api.client.get(f"/v1/responses/{job_id.replace('job_', 'resp_')}").status_code == 404
    assert api.store.audit() == []


def test_a_job_that_has_not_ended_is_refused_and_stays(api: Api) -> None:
    job_id = api.submit()["id"]
    for state in ("queued", "running"):
        reply = api.client.delete(f"/v1/jobs/{job_id}")
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (409, "job_not_ended", "id")
        assert state in error["message"]
        assert reply.headers["x-should-retry"] == "false"
        if state == "queued":
            claim(api.store, job_id)
    assert api.client.get(f"/v1/jobs/{job_id}").json()["prompt"] == "Ice"


def test_what_is_no_id_and_what_nobody_made_are_not_found(api: Api) -> None:
    for job_id in ("job_" + "0" * 32, "x", "%00"):
        reply = api.client.delete(f"/v1/jobs/{job_id}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


def test_the_text_that_readers_missed_goes_from_redis_too(api: Api) -> None:
    job_id = api.submit()["id"]
    ref = claim(api.store, job_id)
    api.writer.text([(job_id, ref.number, len(TEXT), TEXT, TEXT)])
    assert TEXT.encode() in b"".join(filter(None, api.redis.mget(api.redis.keys("penstock:job:*"))))
    api.client.post(f"/v1/jobs/{job_id}/cancel")
    api.store.finish(ref, Cancelled())
    api.client.delete(f"/v1/jobs/{job_id}")
    wait_until(lambda: not [key for key in api.redis.keys("penstock:job:*") if job_id.encode() in key])


def test_a_page_can_be_deleted_and_the_next_one_asked_for(api: Api) -> None:
    ids = [ended(api) for _ in range(3)][::-1]
    page = api.client.get("/v1/jobs?limit=2").json()
    for job in page["data"]:
        assert api.client.delete(f"/v1/jobs/{job['id']}").status_code == 200
    rest = api.client.get(f"/v1/jobs?limit=2&after={page['last_id']}").json()
    assert [job["id"] for job in rest["data"]] == ids[2:]


def test_a_call_that_is_repeated_makes_no_second_job_in_place_of_a_deleted_one(api: Api) -> None:
    headers = {"Idempotency-Key": "once"}
    first = api.client.post("/v1/jobs", json={"prompt": "Ice"}, headers=headers).json()
    run_to_end(api.store, first["id"])
    api.client.delete(f"/v1/jobs/{first['id']}")
    reply = api.client.post("/v1/jobs", json={"prompt": "Ice"}, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "deleted")
    assert api.num_jobs() == 0


def test_a_batch_keeps_its_counts_and_the_line_in_its_file(api: Api) -> None:
    batch_id = created(api, [chat_line("a"), chat_line("b")])["id"]
    clerk = office(api)
    clerk.work()
    lines = api.client.get("/v1/jobs", params={"batch_id": batch_id}).json()["data"]
    for line in lines:
        run_to_end(api.store, line["id"], TEXT)
    clerk.work()
    before = api.client.get(f"/v1/batches/{batch_id}").json()
    content = api.client.get(f"/v1/files/{before['output_file_id']}/content").text
    assert api.client.delete(f"/v1/jobs/{lines[0]['id']}").status_code == 200
    assert api.client.get(f"/v1/batches/{batch_id}").json() == before
    assert api.client.get(f"/v1/files/{before['output_file_id']}/content").text == content
    assert {json.loads(line)["custom_id"] for line in content.splitlines()} == {"a", "b"}
    assert len(api.client.get("/v1/jobs", params={"batch_id": batch_id}).json()["data"]) == 1
    assert api.store.audit() == []


def test_a_replay_of_a_deleted_job_says_that_there_is_nothing_to_compare_with(api: Api) -> None:
    job_id = ended(api)
    again = api.client.post(f"/v1/jobs/{job_id}/replay").json()["id"]
    run_to_end(api.store, again, TEXT)
    api.client.delete(f"/v1/jobs/{job_id}")
    assert api.client.get(f"/v1/jobs/{again}").json()["replay"] == {
        "of": job_id,
        "result": "original_deleted",
        **dict.fromkeys(("first_difference", "tokens", "texts", "fields", "tokens_match")),
    }
