"""The spans of one job link up, from the request through the message to the attempt, across the processes."""

from __future__ import annotations

import json

from tests.seeing.spans import Span
from tests.seeing.system import Watched
from tests.support.services import wait_until

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def spans_of(watched: Watched, job_id: str, *wanted: str) -> dict[str, Span]:
    """The spans of a job's trace, by name, once those are there."""
    wait_until(lambda: set(wanted) <= {span.name for span in watched.spans.of_job(job_id)}, 20)
    return {span.name: span for span in watched.spans.of_job(job_id)}


def test_one_job_is_one_trace(watched: Watched) -> None:
    reply = watched.http.post(
        "/v1/jobs", json={"prompt": "Ice", "max_tokens": 8}, headers={"traceparent": CALLER, "baggage": "secret=1"}
    )
    job_id = reply.json()["id"]
    watched.wait_for_ends([job_id])
    names = ("POST /v1/jobs", "publish", "attempt", "wait for a slot", "prefill", "decode", "store")
    spans = spans_of(watched, job_id, *names)
    _, trace, caller, _ = CALLER.split("-")
    assert {span.trace for span in spans.values()} == {trace}
    assert spans["POST /v1/jobs"].parent == caller
    assert spans["publish"].parent == spans["POST /v1/jobs"].id
    assert spans["attempt"].parent == spans["publish"].id
    assert {spans[name].parent for name in names[3:]} == {spans["attempt"].id}
    assert [spans[name].service for name in names[:3]] == ["penstock-api", "penstock-api", "penstock-worker"]


def test_the_attempt_says_what_it_did(watched: Watched) -> None:
    job_id = watched.post("Ice", max_tokens=8)
    watched.wait_for_ends([job_id])
    said = spans_of(watched, job_id, "attempt", "store")["attempt"].attributes
    assert said["penstock.job"] == job_id
    assert (said["penstock.attempt"], said["penstock.result"]) == ("1", "succeeded")
    assert int(said["penstock.completion_tokens"]) > 0


def test_lines_of_a_file_are_in_the_trace_of_their_batch(watched: Watched) -> None:
    body = {"messages": [{"role": "user", "content": "Ice"}], "max_tokens": 4}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    file = watched.http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", json.dumps(line))})
    asked = {"input_file_id": file.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch_id = watched.http.post("/v1/batches", json=asked).json()["id"]
    wait_until(lambda: watched.store.list_jobs(batch_id=batch_id)[0])
    (job,) = watched.store.list_jobs(batch_id=batch_id)[0]
    watched.wait_for_ends([job.id])
    spans = spans_of(watched, job.id, "POST /v1/batches", "publish", "attempt")
    assert spans["publish"].service == "penstock-dispatcher"
    assert spans["attempt"].parent == spans["publish"].id
    assert spans["publish"].parent == spans["POST /v1/batches"].id


def test_a_line_of_the_log_names_job_attempt_and_trace(watched: Watched) -> None:
    job_id = watched.post("Ice", max_tokens=4)
    watched.wait_for_ends([job_id])
    trace = spans_of(watched, job_id, "attempt")["attempt"].trace

    def lines() -> list[dict[str, object]]:
        events = [json.loads(line) for line in watched.worker.said().splitlines() if line.startswith("{")]
        return [event for event in events if event.get("event") == "attempt_over" and event.get("job") == job_id]

    wait_until(lines)
    (event,) = lines()
    assert (event["attempt"], event["trace"], event["result"], event["level"]) == (1, trace, "succeeded", "info")


def test_every_line_of_every_log_is_one_event(watched: Watched) -> None:
    watched.wait_for_ends([watched.post("Ice", max_tokens=4)])
    for role in watched.roles:
        for line in role.said().splitlines():
            event = json.loads(line)
            assert {"event", "level", "timestamp"} <= set(event), line


def test_asking_for_health_and_metrics_is_no_trace(watched: Watched) -> None:
    watched.scrape("api")
    watched.health()
    job_id = watched.post("Ice", max_tokens=4)
    watched.wait_for_ends([job_id])
    spans_of(watched, job_id, "POST /v1/jobs")
    assert not any("/metrics" in span.name or "/health" in span.name for span in watched.spans.spans)


def test_a_request_that_is_not_for_us_makes_a_trace_of_one_name(watched: Watched) -> None:
    assert watched.http.get("/no/such/page").status_code == 404
    wait_until(lambda: any(span.name == "GET none" for span in watched.spans.spans))
