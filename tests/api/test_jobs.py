"""Submitting, reading, listing and cancelling jobs and batches."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from redis.client import PubSub

from api.reading import accepted
from api.routes import jobs as jobs_routes
from jobs.events import CANCEL_CHANNEL, DISPATCH_CHANNEL, job_channel
from jobs.records import Failed
from jobs.states import JobState
from tests.api.stage import MODEL, Api, claim, run_to_end
from tests.support.services import wait_until

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Ice?"}]


def listen(api: Api, channel: str) -> PubSub:
    ear = api.redis.pubsub()
    ear.subscribe(channel)
    wait_until(lambda: ear.get_message(timeout=0.05))
    return ear


def heard(ear: PubSub) -> bytes:
    message = ear.get_message(timeout=10)
    assert message is not None
    return bytes(message["data"])


def test_a_job_is_accepted_stored_and_published(api: Api) -> None:
    reply = api.client.post("/v1/jobs", json={"prompt": "Ice", "temperature": 0, "seed": 7, "metadata": {"k": "v"}})
    job = reply.json()
    assert reply.status_code == 202
    assert (job["object"], job["state"], job["model"], job["priority"]) == ("job", "queued", MODEL, "interactive")
    assert (job["prompt"], job["messages"], job["seed"], job["metadata"]) == ("Ice", None, 7, {"k": "v"})
    assert (job["parameters"]["temperature"], job["parameters"]["max_tokens"]) == (0, 100)
    assert (job["status_url"], job["events_url"]) == (f"/v1/jobs/{job['id']}", f"/v1/jobs/{job['id']}/events")
    assert datetime.fromisoformat(job["created_at"]).utcoffset() == timedelta(0)
    wait_until(lambda: api.store.get(job["id"]).published_at is not None)
    assert api.queue_lengths() == (1, 0)


def test_the_message_goes_out_while_the_reply_is_put_together(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def accepted_late(*given: Any) -> Any:
        wait_until(lambda: api.queue_lengths() == (1, 0))
        return accepted(*given)

    monkeypatch.setattr(jobs_routes, "accepted", accepted_late)
    assert api.client.post("/v1/jobs", json={"prompt": "Ice"}).status_code == 202


def test_the_message_in_the_queue_holds_no_prompt(api: Api) -> None:
    api.submit(prompt="a-very-secret-prompt")
    wait_until(lambda: api.queue_lengths() == (1, 0))
    (message,) = api.redis.lrange("interactive", 0, -1)
    assert b"secret" not in message


def test_a_seed_is_drawn_and_told_when_none_is_given(api: Api) -> None:
    seeds = {api.submit()["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= seed <= 2**32 - 2 for seed in seeds)


@pytest.mark.parametrize("seed", [0, 2**32 - 2])
def test_the_seeds_at_the_borders_are_taken(api: Api, seed: int) -> None:
    assert api.submit(seed=seed)["seed"] == seed


def test_a_chat_is_stored_as_it_was_sent(api: Api) -> None:
    reply = api.client.post("/v1/jobs", json={"messages": CHAT, "model": MODEL})
    assert reply.json()["messages"] == CHAT
    assert api.store.get(reply.json()["id"]).num_prompt_tokens > 5


def test_every_parameter_is_kept(api: Api) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    parameters = {
        "temperature": 0.5,
        "max_tokens": 10,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repeat_penalty": 1.0,
        "repeat_last_n": 0,
        "stop": ["x", "y"],
        "logit_bias": {"12": -100},
        "logprobs": 5,
        "response_format": {"type": "json_schema", "json_schema": schema},
        "exact": True,
        "reuse": True,
    }
    assert api.submit(**parameters)["parameters"] == parameters


def test_one_stop_string_may_stand_alone(api: Api) -> None:
    assert api.submit(stop="x")["parameters"]["stop"] == ["x"]


def test_a_job_brings_its_own_number_of_tries(api: Api) -> None:
    assert api.submit(max_attempts=7)["max_attempts"] == 7
    assert api.submit()["max_attempts"] == api.settings.max_attempts


def test_a_deadline_is_kept_on_the_databases_clock(api: Api) -> None:
    row = api.store.get(api.submit(deadline_seconds=60)["id"])
    assert row.deadline_at is not None
    assert row.deadline_at - row.created_at == timedelta(seconds=60)


def test_several_jobs_make_a_batch_and_wake_the_dispatcher(api: Api) -> None:
    ear = listen(api, DISPATCH_CHANNEL)
    body = {"jobs": [{"prompt": f"line {n}"} for n in range(5)], "metadata": {"run": "1"}}
    reply = api.client.post("/v1/jobs", json=body)
    answer = reply.json()
    assert (reply.status_code, answer["object"]) == (202, "list")
    assert [job["prompt"] for job in answer["data"]] == [f"line {n}" for n in range(5)]
    assert {(job["priority"], job["batch_id"]) for job in answer["data"]} == {("batch", answer["batch_id"])}
    assert api.queue_lengths() == (0, 0)
    assert heard(ear)
    batch = api.client.get(f"/v1/batches/{answer['batch_id']}").json()
    assert batch["request_counts"] == {"total": 5, "completed": 0, "failed": 0}
    assert (batch["status"], batch["metadata"], batch["counts"]["queued"]) == ("in_progress", {"run": "1"}, 5)


def test_a_batch_takes_more_lines(api: Api) -> None:
    first = api.client.post("/v1/jobs", json={"jobs": [{"prompt": "1"}, {"prompt": "2"}]}).json()
    more = api.client.post("/v1/jobs", json={"jobs": [{"prompt": "3"}], "batch_id": first["batch_id"]}).json()
    assert more["batch_id"] == first["batch_id"]
    assert [job["prompt"] for job in more["data"]] == ["3"]
    assert api.client.get(f"/v1/batches/{first['batch_id']}").json()["request_counts"]["total"] == 3


def test_one_bad_line_and_none_of_the_jobs_is_stored(api: Api) -> None:
    assert api.client.post("/v1/jobs", json={"jobs": [{"prompt": "x"}, {"prompt": ""}]}).status_code == 400
    assert api.num_jobs() == 0


def test_a_thousand_jobs_are_taken_at_once(start_api: Callable[..., Api]) -> None:
    api = start_api(max_body_bytes=8 * 1024 * 1024)
    answer = api.client.post("/v1/jobs", json={"jobs": [{"prompt": f"line {n}"} for n in range(1000)]}).json()
    assert [job["prompt"] for job in answer["data"]] == [f"line {n}" for n in range(1000)]


def test_an_interactive_job_in_a_list_is_published_at_once(api: Api) -> None:
    api.client.post("/v1/jobs", json={"jobs": [{"prompt": "x", "priority": "interactive"}, {"prompt": "y"}]})
    wait_until(lambda: api.queue_lengths() == (1, 0))


@pytest.mark.parametrize("body", [{"prompt": "x"}, {"jobs": [{"prompt": "x"}, {"prompt": "y"}]}])
def test_the_same_idempotency_key_and_body_make_jobs_once(api: Api, body: dict[str, Any]) -> None:
    headers = {"Idempotency-Key": "key-1"}
    first = api.client.post("/v1/jobs", json=body, headers=headers)
    again = api.client.post("/v1/jobs", json=body, headers=headers)
    assert "Idempotent-Replayed" not in first.headers
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (202, "true")
    assert again.json() == first.json()
    assert api.num_jobs() == len(body.get("jobs", [body]))
    assert api.queue_lengths()[0] <= 1


def test_the_order_of_fields_does_not_make_another_body(api: Api) -> None:
    headers = {"Idempotency-Key": "key-1", "Content-Type": "application/json"}
    one = api.client.post("/v1/jobs", content=b'{"prompt": "x", "seed": 1}', headers=headers)
    two = api.client.post("/v1/jobs", content=b'{"seed":1,"prompt":"x"}', headers=headers)
    assert one.json()["id"] == two.json()["id"]


def test_the_same_idempotency_key_with_another_body_is_a_conflict_that_no_client_repeats(api: Api) -> None:
    headers = {"Idempotency-Key": "key-1"}
    api.client.post("/v1/jobs", json={"prompt": "x"}, headers=headers)
    reply = api.client.post("/v1/jobs", json={"prompt": "y"}, headers=headers)
    assert (reply.status_code, reply.headers["x-should-retry"]) == (409, "false")
    assert reply.json()["error"]["param"] == "Idempotency-Key"
    assert api.num_jobs() == 1


def test_a_replayed_submit_answers_with_the_job_as_it_stands(api: Api) -> None:
    headers = {"Idempotency-Key": "key-1"}
    job_id = api.client.post("/v1/jobs", json={"prompt": "x"}, headers=headers).json()["id"]
    run_to_end(api.store, job_id, "done")
    again = api.client.post("/v1/jobs", json={"prompt": "x"}, headers=headers).json()
    assert (again["state"], again["completion"]) == ("succeeded", "done")


def test_a_finished_job_is_told_whole(api: Api) -> None:
    job_id = api.submit()["id"]
    run_to_end(api.store, job_id, "Skates carve the ice")
    job = api.client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["completion"], job["finish_reason"]) == ("succeeded", "Skates carve the ice", "stop")
    assert job["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    assert job["recipe"].startswith("fp_")
    assert job["timings"]["total"] == 0.2
    (attempt,) = job["attempts"]
    assert (attempt["number"], attempt["worker"], attempt["outcome"]) == (1, "test-worker", "succeeded")
    assert job["created_at"] <= job["started_at"] <= job["ended_at"]


def test_a_failed_job_tells_why(api: Api) -> None:
    job_id = api.submit()["id"]
    api.store.finish(claim(api.store, job_id), Failed("engine_failed", "The engine stopped.", retryable=False))
    job = api.client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["completion"], job["error"]["code"]) == ("failed", None, "engine_failed")


def test_a_queued_job_tells_its_place(api: Api) -> None:
    ids = [api.submit()["id"] for _ in range(3)]
    assert [api.client.get(f"/v1/jobs/{id}").json()["queue_position"] for id in ids] == [0, 1, 2]  # noqa: A001


def test_jobs_are_listed_newest_first_page_by_page(api: Api) -> None:
    ids = [api.submit()["id"] for _ in range(5)]
    first = api.client.get("/v1/jobs?limit=3").json()
    assert [job["id"] for job in first["data"]] == ids[:1:-1]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[4], ids[2], True)
    second = api.client.get(f"/v1/jobs?limit=3&after={first['last_id']}").json()
    assert [job["id"] for job in second["data"]] == ids[1::-1]
    assert second["has_more"] is False


def test_an_empty_list_has_no_first_and_no_last(api: Api) -> None:
    page = api.client.get("/v1/jobs").json()
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_jobs_are_listed_by_state_and_batch_with_their_text(api: Api) -> None:
    api.submit()
    batch = api.client.post("/v1/jobs", json={"jobs": [{"prompt": "1"}, {"prompt": "2"}]}).json()
    run_to_end(api.store, batch["data"][0]["id"], "done")
    query = f"/v1/jobs?batch_id={batch['batch_id']}"
    assert [job["prompt"] for job in api.client.get(query).json()["data"]] == ["2", "1"]
    (ended,) = api.client.get(f"{query}&state=succeeded").json()["data"]
    assert (ended["completion"], ended["attempts"]) == ("done", None)


def test_the_cursor_of_another_batch_is_refused(api: Api) -> None:
    job = api.submit()
    batch = api.client.post("/v1/jobs", json={"jobs": [{"prompt": "1"}]}).json()
    reply = api.client.get(f"/v1/jobs?batch_id={batch['batch_id']}&after={job['id']}")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "after")


def test_listing_a_batch_that_does_not_exist_is_not_found(api: Api) -> None:
    assert api.client.get("/v1/jobs?batch_id=batch_" + "0" * 32).status_code == 404


def test_cancelling_a_queued_job_ends_it_and_tells_its_streams(api: Api) -> None:
    job_id = api.submit()["id"]
    ear = listen(api, job_channel(job_id))
    reply = api.client.post(f"/v1/jobs/{job_id}/cancel")
    assert (reply.status_code, reply.json()["state"]) == (200, "cancelled")
    assert b"cancelled" in heard(ear)


def test_cancelling_a_running_job_tells_its_worker(api: Api) -> None:
    job_id = api.submit()["id"]
    claim(api.store, job_id)
    ear = listen(api, CANCEL_CHANNEL)
    job = api.client.post(f"/v1/jobs/{job_id}/cancel").json()
    assert job["state"] == "running"
    assert job["cancel_requested_at"] is not None
    assert heard(ear).decode() == job_id


def test_cancelling_a_finished_job_changes_nothing(api: Api) -> None:
    job_id = api.submit()["id"]
    run_to_end(api.store, job_id)
    before = api.client.get(f"/v1/jobs/{job_id}").json()
    reply = api.client.post(f"/v1/jobs/{job_id}/cancel")
    assert (reply.status_code, reply.json()) == (200, before)


def test_cancelling_a_batch_ends_its_queued_lines_and_tells_the_workers_of_the_running(api: Api) -> None:
    batch = api.client.post("/v1/jobs", json={"jobs": [{"prompt": str(n)} for n in range(3)]}).json()
    running = batch["data"][0]["id"]
    claim(api.store, running)
    ear = listen(api, CANCEL_CHANNEL)
    answer = api.client.post(f"/v1/batches/{batch['batch_id']}/cancel").json()
    assert (answer["status"], answer["counts"]["cancelled"], answer["counts"]["running"]) == ("cancelling", 2, 1)
    assert answer["cancelling_at"] is not None
    assert heard(ear).decode() == running


def test_a_cancelled_batch_takes_no_more_lines(api: Api) -> None:
    batch = api.client.post("/v1/jobs", json={"jobs": [{"prompt": "1"}, {"prompt": "2"}]}).json()
    claim(api.store, batch["data"][0]["id"])
    api.client.post(f"/v1/batches/{batch['batch_id']}/cancel")
    reply = api.client.post("/v1/jobs", json={"jobs": [{"prompt": "3"}], "batch_id": batch["batch_id"]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "batch_id")


def test_a_batch_whose_lines_have_all_ended_is_completed(api: Api) -> None:
    batch = api.client.post("/v1/jobs", json={"jobs": [{"prompt": "1"}, {"prompt": "2"}]}).json()
    run_to_end(api.store, batch["data"][0]["id"])
    api.store.finish(claim(api.store, batch["data"][1]["id"]), Failed("x", "y", retryable=False))
    answer = api.client.get(f"/v1/batches/{batch['batch_id']}").json()
    assert (answer["status"], answer["object"]) == ("completed", "batch")
    assert answer["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert answer["completed_at"] >= answer["created_at"]


def test_cancelling_an_ended_batch_changes_nothing(api: Api) -> None:
    batch = api.client.post("/v1/jobs", json={"jobs": [{"prompt": "1"}]}).json()
    run_to_end(api.store, batch["data"][0]["id"])
    answer = api.client.post(f"/v1/batches/{batch['batch_id']}/cancel").json()
    assert (answer["status"], answer["counts"][JobState.SUCCEEDED]) == ("completed", 1)


@pytest.mark.parametrize("call", [("GET", ""), ("POST", "/cancel")])
def test_a_batch_that_does_not_exist_is_not_found(api: Api, call: tuple[str, str]) -> None:
    reply = api.client.request(call[0], f"/v1/batches/batch_{'0' * 32}{call[1]}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


def test_announced_models_are_listed(api: Api) -> None:
    (model,) = api.client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["owned_by"]) == (MODEL, "model", "penstock")
