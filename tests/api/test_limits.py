"""Limits of keys: how often, how much at a time, and how a caller is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from httpx import Response

from jobs.keys import NewKey, Quota
from jobs.settings import Settings
from tests.api.batch_stage import chat_line, create, jsonl, office, upload
from tests.api.stage import NO_REDIS, Api, run_to_end

Headers = dict[str, str]
JOB = {"prompt": "x", "max_tokens": 20}
ASKED = 22
"""Tokens of that job: two of the prompt, and those it may make."""


def key(api: Api, per_minute: int | None = None, **quota: int) -> Headers:
    new = NewKey("limited", "alice", requests_per_minute=per_minute, quota=Quota(**quota))
    return {"Authorization": f"Bearer {api.store.create_key(new)[1]}"}


def submit(api: Api, headers: Headers, **more: Any) -> Response:
    return api.client.post("/v1/jobs", json=JOB, headers={**headers, **more})


def refused(reply: Response, limit: str, kind: str) -> dict[str, Any]:
    """Check a refusal's shape."""
    error = reply.json()["error"]
    assert reply.status_code == 429, reply.text
    assert (error["code"], error["param"], error["type"]) == ("rate_limit_exceeded", limit, kind)
    assert limit in error["message"]
    assert 1 <= int(reply.headers["Retry-After"]) <= 60
    return dict(error)


def test_requests_beyond_the_rate_are_refused_and_say_when_to_come_again(start_api: Callable[..., Api]) -> None:
    api = start_api()
    headers = key(api, 3)
    replies = [api.client.get("/v1/jobs", headers=headers) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
    assert [reply.headers["x-ratelimit-limit-requests"] for reply in replies] == ["3"] * 4
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == ["2", "1", "0", "0"]
    assert replies[0].headers["x-ratelimit-reset-requests"].endswith("ms")
    refused(replies[3], "requests_per_minute", "requests")
    assert int(replies[3].headers["Retry-After"]) <= 20


def test_a_bucket_fills_with_time(start_api: Callable[..., Api]) -> None:
    api = start_api()
    headers = key(api, 2)
    statuses = [api.client.get("/v1/jobs", headers=headers).status_code for _ in range(3)]
    (bucket,) = api.redis.keys("penstock:rate:*")
    api.redis.hincrbyfloat(bucket, "at", -30.0)  # as if half a minute had passed
    statuses += [api.client.get("/v1/jobs", headers=headers).status_code for _ in range(2)]
    assert statuses == [200, 200, 429, 200, 429]


def test_two_processes_share_a_bucket_and_two_keys_do_not(start_api: Callable[..., Api]) -> None:
    one, other = start_api(), start_api()
    headers = key(one, 2)
    statuses = [api.client.get("/v1/jobs", headers=headers).status_code for api in (one, other, one, other)]
    assert statuses == [200, 200, 429, 429]
    assert one.client.get("/v1/jobs", headers=key(one, 2)).status_code == 200


def test_without_redis_nobody_is_refused(start_api: Callable[..., Api]) -> None:
    api = start_api(redis_url=NO_REDIS)
    headers = key(api, 1)
    replies = [api.client.get("/v1/jobs", headers=headers) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 200]
    assert "x-ratelimit-limit-requests" not in replies[0].headers


def test_the_usual_limits_hold_for_the_operators_keys(start_api: Callable[..., Api]) -> None:
    api = start_api(api_keys="k", key_requests_per_minute=2, key_queued_tokens=ASKED)
    headers = {"Authorization": "Bearer k"}
    assert submit(api, headers).status_code == 202
    refused(submit(api, headers), "queued_tokens", "tokens")
    refused(submit(api, headers), "requests_per_minute", "requests")


def test_queued_tokens_are_limited_until_jobs_end(start_api: Callable[..., Api]) -> None:
    api = start_api()
    headers = key(api, queued_tokens=2 * ASKED)
    replies = [submit(api, headers) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [202, 202, 429]
    assert [reply.headers["x-ratelimit-remaining-tokens"] for reply in replies] == [str(ASKED), "0", "0"]
    refused(replies[2], "queued_tokens", "tokens")
    run_to_end(api.store, replies[0].json()["id"])
    assert submit(api, headers).status_code == 202
    assert api.client.get("/v1/jobs", headers=headers).json()["data"][0]["state"] == "queued"


def test_what_can_never_be_let_in_is_not_to_be_sent_again(start_api: Callable[..., Api]) -> None:
    api = start_api()
    reply = submit(api, key(api, queued_tokens=ASKED - 1))
    assert "by itself" in refused(reply, "queued_tokens", "tokens")["message"]
    assert reply.headers["x-should-retry"] == "false"
    assert api.num_jobs() == 0


def test_a_call_made_twice_is_answered_at_the_limit_too(start_api: Callable[..., Api]) -> None:
    api = start_api()
    headers = key(api, queued_tokens=ASKED) | {"Idempotency-Key": "one"}
    first, again = submit(api, headers), submit(api, headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    refused(submit(api, headers | {"Idempotency-Key": "two"}), "queued_tokens", "tokens")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 20}),
        ("/v1/completions", {"prompt": "x", "max_tokens": 20}),
        ("/v1/responses", {"input": "x", "max_output_tokens": 20, "background": True}),
    ],
)
def test_live_endpoints_know_the_limit(start_api: Callable[..., Api], path: str, body: dict[str, Any]) -> None:
    api = start_api()
    reply = api.client.post(path, json=body, headers=key(api, queued_tokens=10))
    refused(reply, "queued_tokens", "tokens")


def test_a_replay_counts_too(start_api: Callable[..., Api]) -> None:
    api = start_api()
    headers = key(api, queued_tokens=ASKED)
    job_id = submit(api, headers).json()["id"]
    run_to_end(api.store, job_id)
    assert api.client.post(f"/v1/jobs/{job_id}/replay", headers=headers).status_code == 202
    refused(api.client.post(f"/v1/jobs/{job_id}/replay", headers=headers), "queued_tokens", "tokens")


def _uploaded(api: Api, headers: Headers, num_lines: int) -> str:
    lines = jsonl([chat_line(str(number)) for number in range(num_lines)])
    return str(upload(api, lines, headers=headers).json()["id"])


def test_a_batch_counts_as_what_its_lines_ask_for_until_they_end(start_api: Callable[..., Api]) -> None:
    api = start_api()
    free = key(api)
    file_id = _uploaded(api, free, 4)
    made = create(api, file_id, headers=free).json()
    total = api.store.queued_tokens("alice")
    clerk = office(api)
    clerk.work()
    jobs = api.store.list_jobs(batch_id=made["id"])[0]
    assert total == sum(job.num_prompt_tokens + job.parameters["max_tokens"] for job in jobs)
    assert api.store.queued_tokens("alice") == total
    headers = key(api, queued_tokens=total)
    refused(create(api, file_id, headers=headers), "queued_tokens", "tokens")
    clerk.run(made["id"], leave=1)
    assert api.store.queued_tokens("alice") == -(-total // 4)
    clerk.run(made["id"])
    assert api.store.queued_tokens("alice") == 0
    assert create(api, file_id, headers=headers, metadata={"again": "1"}).status_code == 200


def test_open_batches_are_limited(start_api: Callable[..., Api]) -> None:
    api = start_api()
    headers = key(api, open_batches=1)
    many = {"jobs": [JOB]}
    first = api.client.post("/v1/jobs", json=many, headers=headers).json()
    refused(api.client.post("/v1/jobs", json=many, headers=headers), "open_batches", "batches")
    refused(create(api, _uploaded(api, headers, 1), headers=headers), "open_batches", "batches")
    more = {**many, "batch_id": first["batch_id"]}
    assert api.client.post("/v1/jobs", json=more, headers=headers).status_code == 202
    assert submit(api, headers).status_code == 202
    api.client.post(f"/v1/batches/{first['batch_id']}/cancel", headers=headers)
    assert api.client.post("/v1/jobs", json=many, headers=headers).status_code == 202


def test_lines_of_a_batch_are_limited_however_they_come(start_api: Callable[..., Api]) -> None:
    api = start_api()
    headers = key(api, batch_lines=2)
    reply = create(api, _uploaded(api, headers, 3), headers=headers)
    refused(reply, "batch_lines", "batches")
    assert reply.headers["x-should-retry"] == "false"
    refused(api.client.post("/v1/jobs", json={"jobs": [JOB] * 3}, headers=headers), "batch_lines", "batches")
    first = api.client.post("/v1/jobs", json={"jobs": [JOB] * 2}, headers=headers).json()
    more = {"jobs": [JOB], "batch_id": first["batch_id"]}
    refused(api.client.post("/v1/jobs", json=more, headers=headers), "batch_lines", "batches")
    assert create(api, _uploaded(api, headers, 2), headers=headers).status_code == 200


def test_lines_that_run_again_are_let_in_like_new_ones(start_api: Callable[..., Api]) -> None:
    api = start_api()
    free = key(api)
    made = create(api, _uploaded(api, free, 2), headers=free).json()
    clerk = office(api)
    clerk.work()
    clerk.run(made["id"], fail=2)
    retry = f"/v1/batches/{made['id']}/retry"
    refused(api.client.post(retry, headers=key(api, queued_tokens=5)), "queued_tokens", "tokens")
    assert api.client.post(retry, headers=key(api, queued_tokens=10_000)).json()["num_retried"] == 2


def test_limits_of_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="key_queued_tokens"):
        Settings(key_queued_tokens=0)
