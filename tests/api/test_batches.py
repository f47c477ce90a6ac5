"""Batches made from files: made, run, read, cancelled, retried, listed; once however often they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jobs.events import DISPATCH_CHANNEL
from tests.api.batch_stage import (
    CHAT,
    batch,
    chat_line,
    create,
    created,
    job_line,
    jsonl,
    lines_of,
    office,
    upload,
    uploaded,
)
from tests.api.stage import MODEL, Api, claim
from tests.api.test_jobs import heard, listen

OPENAI_FIELDS = {
    "id",
    "object",
    "endpoint",
    "model",
    "errors",
    "input_file_id",
    "completion_window",
    "status",
    "output_file_id",
    "error_file_id",
    "created_at",
    "in_progress_at",
    "expires_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
    "request_counts",
    "usage",
    "metadata",
}


def test_a_batch_runs_from_validating_to_completed(api: Api) -> None:
    clerk, ear = office(api), listen(api, DISPATCH_CHANNEL)
    made = created(api, [chat_line("a"), chat_line("b", temperature=9000), chat_line("c")], metadata={"run": "1"})
    assert heard(ear)
    assert set(made) >= OPENAI_FIELDS
    assert (made["status"], made["endpoint"], made["model"], made["completion_window"]) == (
        "validating",
        CHAT,
        MODEL,
        "24h",
    )
    assert (made["expires_at"] - made["created_at"], made["metadata"]) == (24 * 3600, {"run": "1"})
    assert made["request_counts"] == {"total": 3, "completed": 0, "failed": 0}
    clerk.work()
    running = batch(api, made["id"])
    assert (running["status"], running["counts"]["queued"], running["counts"]["failed"]) == ("in_progress", 2, 1)
    clerk.run(made["id"])
    assert batch(api, made["id"])["status"] == "finalizing"
    clerk.work()
    done = batch(api, made["id"])
    assert (done["status"], done["request_counts"]) == ("completed", {"total": 3, "completed": 2, "failed": 1})
    assert done["created_at"] <= done["in_progress_at"] <= done["finalizing_at"] <= done["completed_at"]
    assert (done["usage"]["input_tokens"], done["usage"]["output_tokens"], done["usage"]["total_tokens"]) == (6, 4, 10)
    assert [line["custom_id"] for line in lines_of(api, done["output_file_id"])] == ["a", "c"]
    (error,) = lines_of(api, done["error_file_id"])
    assert (error["custom_id"], error["response"], error["error"]["line"]) == ("b", None, 2)
    assert error["error"]["param"] == "body.temperature"
    assert api.store.audit() == []


def test_lines_of_every_endpoint_run(api: Api) -> None:
    clerk = office(api)
    text = {"custom_id": "t", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Ice"}}
    file = uploaded(api, [job_line("j"), text, chat_line("c")])
    for endpoint, custom_id in (("/v1/jobs", "j"), ("/v1/completions", "t"), (CHAT, "c")):
        made = create(api, file["id"], endpoint=endpoint).json()
        clerk.work()
        clerk.run(made["id"])
        clerk.work()
        done = batch(api, made["id"])
        assert done["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
        assert [line["custom_id"] for line in lines_of(api, done["output_file_id"])] == [custom_id]
        assert {line["error"]["code"] for line in lines_of(api, done["error_file_id"])} == {"url_mismatch"}


def test_one_bad_line_fails_a_batch_that_asks_for_it_with_every_error_listed(api: Api) -> None:
    lines = [chat_line("a"), b"{", job_line("j")]
    made = created(api, lines, metadata={"on_invalid": "reject"})
    assert (made["status"], made["in_progress_at"], made["failed_at"] >= made["created_at"]) == ("failed", None, True)
    whole, *each = made["errors"]["data"]
    assert (made["errors"]["object"], whole["line"], whole["code"]) == ("list", None, "invalid_lines")
    assert [(error["line"], error["code"]) for error in each] == [(2, "invalid_json"), (3, "url_mismatch")]
    assert "2 of 3 lines" in whole["message"]
    assert batch(api, made["id"]) == made


def test_a_batch_without_a_line_that_can_run_has_failed(api: Api) -> None:
    made = created(api, [b"{", b"["])
    assert (made["status"], made["errors"]["data"][0]["code"]) == ("failed", "no_valid_line")
    assert [error["line"] for error in made["errors"]["data"]] == [None, 1, 2]


def test_at_most_a_thousand_errors_are_listed_and_all_are_counted(api: Api) -> None:
    made = created(api, [b"{"] * 1200)
    assert len(made["errors"]["data"]) == 1001
    assert "1200" in made["errors"]["data"][0]["message"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"input_file_id": None}, "input_file_id", "invalid_type"),
        ({"endpoint": "/v1/embeddings"}, "endpoint", "invalid_value"),
        ({"completion_window": "soon"}, "completion_window", None),
        ({"completion_window": "0h"}, "completion_window", None),
        ({"completion_window": "31d"}, "completion_window", None),
        ({"completion_window": 24}, "completion_window", "invalid_type"),
        ({"colour": "red"}, "colour", "unknown_field"),
        ({"metadata": {"weight": "heavy"}}, "metadata.weight", None),
        ({"metadata": {"weight": "11"}}, "metadata.weight", None),
        ({"metadata": {"weight": "nan"}}, "metadata.weight", None),
        ({"metadata": {"on_invalid": "explode"}}, "metadata.on_invalid", None),
        ({"metadata": {"output_order": "random"}}, "metadata.output_order", None),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", None),
        ({"output_expires_after": {"anchor": "now", "seconds": 1}}, "output_expires_after.anchor", None),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 0}}, "output_expires_after.seconds", None),
    ],
)
def test_a_wrong_request_names_its_field_and_makes_nothing(
    api: Api, body: dict[str, Any], param: str, code: str | None
) -> None:
    reply = create(api, uploaded(api, [chat_line("a")])["id"], **body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert code in (None, error["code"])
    assert api.client.get("/v1/batches").json()["data"] == []


@pytest.mark.parametrize("file_id", ["file-" + "0" * 32, "nonsense"])
def test_a_batch_of_a_file_that_is_not_there_is_refused(api: Api, file_id: str) -> None:
    reply = create(api, file_id)
    assert (reply.status_code, reply.json()["error"]["param"]) == (404, "input_file_id")


def test_results_are_no_input(api: Api) -> None:
    clerk = office(api)
    made = created(api, [chat_line("a")])
    clerk.work()
    clerk.run(made["id"])
    clerk.work()
    reply = create(api, batch(api, made["id"])["output_file_id"])
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input_file_id")


@pytest.mark.parametrize(("window", "seconds"), [("90m", 5400), ("1.5h", 5400), ("7d", 604_800), ("45s", 45)])
def test_a_window_may_have_any_length(api: Api, window: str, seconds: int) -> None:
    made = created(api, [chat_line("a")], completion_window=window)
    assert made["expires_at"] - made["created_at"] == seconds


def test_without_a_window_a_batch_has_no_end(api: Api) -> None:
    assert created(api, [chat_line("a")], completion_window=None)["expires_at"] is None


def test_weight_and_order_are_read_from_the_metadata(api: Api) -> None:
    made = created(api, [chat_line("a")], metadata={"weight": "0.5", "output_order": "input"})
    row, _ = api.store.get_batch(made["id"])
    assert (made["weight"], row.output_order) == (0.5, "input")


def test_two_batches_of_one_file_draw_their_own_seeds(api: Api) -> None:
    clerk, file = office(api), uploaded(api, [chat_line("a")])
    seeds = set()
    for _ in range(3):
        made = create(api, file["id"]).json()
        clerk.work()
        seeds |= {api.store.get(job_id).seed for job_id in clerk.queued(made["id"])}
    assert len(seeds) == 3


# Ends


def test_cancelling_ends_what_waits_and_tells_it_in_the_error_file(api: Api) -> None:
    clerk = office(api)
    made = created(api, [chat_line(str(n)) for n in range(4)])
    clerk.work()
    clerk.run(made["id"], leave=3)
    attempt = claim(api.store, clerk.queued(made["id"])[0])
    reply = api.client.post(f"/v1/batches/{made['id']}/cancel")
    assert (reply.status_code, reply.json()["status"], reply.json()["counts"]["running"]) == (200, "cancelling", 1)
    assert api.store.get(attempt.job_id).cancel_requested_at is not None


def test_failed_lines_run_again_and_the_output_goes_on(api: Api) -> None:
    clerk = office(api)
    made = created(api, [chat_line("a"), chat_line("b"), b"{"])
    clerk.work()
    clerk.run(made["id"], fail=1)
    clerk.work()
    first = batch(api, made["id"])
    output = lines_of(api, first["output_file_id"])
    again = api.client.post(f"/v1/batches/{made['id']}/retry").json()
    assert (again["num_retried"], again["status"], again["error_file_id"]) == (1, "in_progress", None)
    clerk.work()
    clerk.run(made["id"])
    clerk.work()
    done = batch(api, made["id"])
    assert done["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert lines_of(api, done["output_file_id"])[: len(output)] == output
    assert [line["error"]["line"] for line in lines_of(api, done["error_file_id"])] == [3]
    assert api.client.post(f"/v1/batches/{made['id']}/retry").json()["num_retried"] == 0


def test_until_its_end_a_poll_is_told_when_to_come_again(api: Api) -> None:
    clerk = office(api)
    made = created(api, [chat_line("a")])
    url = f"/v1/batches/{made['id']}"
    assert int(api.client.get(url).headers["Retry-After"]) >= 1
    clerk.work()
    (job_id,) = clerk.queued(made["id"])
    assert int(api.client.get(f"/v1/jobs/{job_id}").headers["Retry-After"]) >= 1
    clerk.run(made["id"])
    assert api.client.get(url).headers["Retry-After"] == "1"
    clerk.work()
    assert "Retry-After" not in api.client.get(url).headers
    assert "Retry-After" not in api.client.get(f"/v1/jobs/{job_id}").headers


# Lists, and twice


def test_batches_are_listed_newest_first_page_by_page(api: Api) -> None:
    file = uploaded(api, [chat_line("a")])
    ids = [create(api, file["id"]).json()["id"] for _ in range(3)]
    native = api.client.post("/v1/jobs", json={"jobs": [{"prompt": "x"}]}).json()["batch_id"]
    page = api.client.get("/v1/batches?limit=3").json()
    assert [one["id"] for one in page["data"]] == [native, ids[2], ids[1]]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (native, ids[1], True)
    rest = api.client.get(f"/v1/batches?after={page['last_id']}").json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    assert api.client.get("/v1/batches?after=batch_x").json()["error"]["param"] == "after"
    assert api.client.get("/v1/batches?limit=0").status_code == 400


def test_another_keys_batches_are_not_there(start_api: Callable[..., Api]) -> None:
    api = start_api(api_keys=("one", "two"))
    api.client.headers["Authorization"] = "Bearer one"
    made = created(api, [chat_line("a")])
    api.client.headers["Authorization"] = "Bearer two"
    assert api.client.get("/v1/batches").json()["data"] == []
    assert create(api, made["input_file_id"]).status_code == 404
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry"), ("GET", "/events")):
        assert api.client.request(method, f"/v1/batches/{made['id']}{path}").status_code == 404


def test_the_same_key_and_body_make_one_batch(api: Api) -> None:
    file, headers = uploaded(api, [chat_line("a")]), {"Idempotency-Key": "k"}
    first, again = (create(api, file["id"], headers=headers) for _ in range(2))
    assert again.json() == first.json()
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    other = create(api, file["id"], headers=headers, completion_window="1h")
    assert (other.status_code, other.headers["x-should-retry"]) == (409, "false")
    assert len(api.client.get("/v1/batches").json()["data"]) == 1


def test_one_key_may_stand_for_a_file_a_batch_and_jobs(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    file = upload(api, jsonl([chat_line("a")]), headers=headers).json()
    assert create(api, file["id"], headers=headers).status_code == 200
    assert api.client.post("/v1/jobs", json={"prompt": "x"}, headers=headers).status_code == 202


def test_a_clients_own_retry_makes_no_second_batch_and_an_honest_second_call_does(api: Api) -> None:
    file = uploaded(api, [chat_line("a")])
    first = create(api, file["id"], headers={"x-stainless-retry-count": "0"}).json()["id"]
    silent = create(api, file["id"], headers={"x-stainless-retry-count": "2"})
    assert (silent.json()["id"], silent.headers["Idempotent-Replayed"]) == (first, "true")
    assert create(api, file["id"], headers={"x-stainless-retry-count": "0"}).json()["id"] != first


def test_a_clients_own_retry_makes_no_second_job(api: Api) -> None:
    job_id = api.submit()["id"]
    again = api.client.post("/v1/jobs", json={"prompt": "Ice"}, headers={"x-stainless-retry-count": "1"})
    assert (again.json()["id"], api.num_jobs()) == (job_id, 1)
