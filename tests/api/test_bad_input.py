"""Every wrong request is refused with its field named, and leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.stage import CONTEXT_TOKENS, MODEL, Api

PROMPT = {"prompt": "Ice"}


@pytest.fixture
def refused(api: Api) -> Iterator[Api]:
    """The application; afterwards, nothing may have been stored or published."""
    yield api
    assert api.num_jobs() == 0
    assert api.queue_lengths() == (0, 0)


def error_of(reply: Any) -> dict[str, Any]:
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return dict(body["error"])


def assert_refused(api: Api, body: dict[str, Any], param: str | None, code: str | None = None) -> None:
    reply = api.client.post("/v1/jobs", json=body)
    assert reply.status_code == 400, reply.text
    error = error_of(reply)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert param is None or param in error["message"]
    if code is not None:
        assert error["code"] == code


def assert_raw_refused(api: Api, raw: bytes, param: str | None, code: str) -> None:
    reply = api.client.post("/v1/jobs", content=raw, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400, reply.text
    error = error_of(reply)
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "10"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": [1]}, "temperature"),
        ({"temperature": 1e400}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": -1}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"repeat_last_n": -1}, "repeat_last_n"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32 - 1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": [7]}, "stop[0]"),
        ({"stop": "x" * 257}, "stop"),
        ({"logit_bias": {"12": 101}}, "logit_bias.12"),
        ({"logit_bias": {"twelve": 1}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias.99999"),
        ({"logprobs": 21}, "logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"type": 7}}}, "response_format.json_schema"),
        ({"priority": "urgent"}, "priority"),
        ({"deadline_seconds": 0}, "deadline_seconds"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 101}, "max_attempts"),
        ({"deadline_seconds": 30 * 24 * 3600 + 1}, "deadline_seconds"),
        ({"metadata": {"": "x"}}, "metadata."),
        ({"metadata": {"k": 7}}, "metadata.k"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {str(n): "v" for n in range(17)}}, "metadata"),
        ({"metadata": []}, "metadata"),
        ({"model": 7}, "model"),
        ({"prompt": 7}, "prompt"),
        ({"tempreature": 0.5}, "tempreature"),
    ],
)
def test_a_wrong_field_is_named(refused: Api, change: dict[str, Any], param: str) -> None:
    raw = json.dumps(PROMPT | change).replace("Infinity", "1e400")
    reply = refused.client.post("/v1/jobs", content=raw, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400, reply.text
    assert error_of(reply)["param"] == param


def test_the_field_of_one_job_among_many_is_named_with_its_place(refused: Api) -> None:
    jobs = [PROMPT, PROMPT, PROMPT, PROMPT | {"temperature": -1}]
    assert_refused(refused, {"jobs": jobs}, "jobs[3].temperature")


@pytest.mark.parametrize("extra", [{"prompt": "x"}, {"colour": 1}])
def test_a_field_beside_the_list_of_jobs_is_refused(refused: Api, extra: dict[str, Any]) -> None:
    assert_refused(refused, {"jobs": [PROMPT]} | extra, next(iter(extra)), "unknown_field")


@pytest.mark.parametrize("jobs", [[], {}, None, "x", [7]])
def test_a_list_of_jobs_that_is_none_is_refused(refused: Api, jobs: Any) -> None:
    assert_refused(refused, {"jobs": jobs}, "jobs[0]" if jobs == [7] else "jobs")


def test_more_jobs_than_the_limit_are_refused(refused: Api) -> None:
    assert_refused(refused, {"jobs": [PROMPT] * 1001}, "jobs")


def test_an_empty_prompt_is_refused(refused: Api) -> None:
    assert_refused(refused, {"prompt": ""}, "prompt", "empty_prompt")


def test_a_request_without_prompt_and_messages_is_refused(refused: Api) -> None:
    assert_refused(refused, {"seed": 1}, "prompt", "missing_field")


def test_prompt_and_messages_together_are_refused(refused: Api) -> None:
    assert_refused(refused, PROMPT | {"messages": [{"role": "user", "content": "x"}]}, "prompt")


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(refused: Api) -> None:
    reply = refused.client.post("/v1/jobs", json={"prompt": "ice " * 300, "max_tokens": 1})
    error = error_of(reply)
    assert (reply.status_code, error["param"], error["code"]) == (400, "prompt", "context_length_exceeded")
    assert str(CONTEXT_TOKENS) in error["message"]


def test_a_prompt_far_longer_than_the_context_is_refused_without_counting(refused: Api) -> None:
    assert_refused(refused, {"prompt": "ice " * 50_000}, "prompt", "context_length_exceeded")


def test_messages_longer_than_the_context_are_refused(refused: Api) -> None:
    messages = [{"role": "user", "content": "ice " * 300}]
    assert_refused(refused, {"messages": messages}, "messages", "context_length_exceeded")


def test_max_tokens_past_the_context_is_refused_with_the_most_there_is_room_for(refused: Api) -> None:
    reply = refused.client.post("/v1/jobs", json={"prompt": "ice", "max_tokens": CONTEXT_TOKENS})
    error = error_of(reply)
    assert (error["param"], error["code"]) == ("max_tokens", "context_length_exceeded")
    assert f"max_tokens can be {CONTEXT_TOKENS - 2} at most" in error["message"]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("hello", "messages"),
        ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "messages[1].role"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": ""}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": "x", "name": "y"}], "messages[0].name"),
        (["x"], "messages[0]"),
    ],
)
def test_wrong_messages_are_named(refused: Api, messages: Any, param: str) -> None:
    assert_refused(refused, {"messages": messages}, param)


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity"])
def test_a_number_that_json_does_not_have_is_named(refused: Api, literal: bytes) -> None:
    assert_raw_refused(refused, b'{"prompt": "x", "temperature": ' + literal + b"}", "temperature", "invalid_json")


@pytest.mark.parametrize("raw", [b"", b"{", b'{"prompt": }', b"\xef\xbb\xbf{}", b'{"seed": ' + b"9" * 5000 + b"}"])
def test_what_is_not_json_is_refused(refused: Api, raw: bytes) -> None:
    assert_raw_refused(refused, raw, None, "invalid_json")


@pytest.mark.parametrize("raw", [b"[]", b"7", b"null", b'"x"'])
def test_json_that_is_no_object_is_refused(refused: Api, raw: bytes) -> None:
    assert_raw_refused(refused, raw, None, "invalid_type")


@pytest.mark.parametrize("raw", [b'{"prompt": "\xff"}', b'{"prompt": "\xed\xa0\x80"}', b"\xfe\xff\x00{"])
def test_invalid_utf8_is_refused(refused: Api, raw: bytes) -> None:
    assert_raw_refused(refused, raw, None, "invalid_utf8")


@pytest.mark.parametrize("bad", [r"\u0000", r"\ud800", r"\udc00\ud800"])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"prompt": "a%sb"}', "prompt"),
        ('{"messages": [{"role": "user", "content": "%s"}]}', "messages[0].content"),
        ('{"prompt": "x", "metadata": {"k": "%s"}}', "metadata.k"),
        ('{"prompt": "x", "metadata": {"k%s": "v"}}', "metadata"),
        ('{"prompt": "x", "stop": ["%s"]}', "stop[0]"),
        ('{"jobs": [{"prompt": "x"}, {"prompt": "%s"}]}', "jobs[1].prompt"),
    ],
)
def test_text_that_cannot_be_stored_is_named(refused: Api, bad: str, body: str, param: str) -> None:
    assert_raw_refused(refused, (body % bad).encode(), param, "invalid_text")


@pytest.mark.parametrize("depth", [100, 100_000])
def test_deep_nesting_is_refused(refused: Api, depth: int) -> None:
    raw = b'{"prompt": "x", "metadata": ' + b"[" * depth + b"]" * depth + b"}"
    assert_raw_refused(refused, raw, None, "invalid_json")


def test_a_body_over_the_limit_is_refused_by_its_announced_length(refused: Api) -> None:
    reply = refused.client.post("/v1/jobs", json={"prompt": "x" * 300_000})
    assert (reply.status_code, error_of(reply)["code"]) == (413, "body_too_large")


def test_a_body_over_the_limit_is_refused_while_it_arrives(refused: Api) -> None:
    chunks = (b"x" * 10_000 for _ in range(40))
    reply = refused.client.post("/v1/jobs", content=chunks, headers={"Content-Type": "application/json"})
    assert (reply.status_code, error_of(reply)["code"]) == (413, "body_too_large")


def test_a_body_that_is_not_declared_as_json_is_refused(refused: Api) -> None:
    reply = refused.client.post("/v1/jobs", content=b'{"prompt": "x"}', headers={"Content-Type": "text/plain"})
    assert (reply.status_code, error_of(reply)["param"]) == (415, "Content-Type")


def test_another_model_than_the_served_one_is_not_found(refused: Api) -> None:
    reply = refused.client.post("/v1/jobs", json=PROMPT | {"model": "gpt-4"})
    error = error_of(reply)
    assert (reply.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")


@pytest.mark.parametrize("key", ["", "two words", "x" * 256])
def test_a_wrong_idempotency_key_is_refused(refused: Api, key: str) -> None:
    reply = refused.client.post("/v1/jobs", json=PROMPT, headers={"Idempotency-Key": key})
    assert (reply.status_code, error_of(reply)["param"]) == (400, "Idempotency-Key")


def test_a_batch_that_does_not_exist_takes_no_jobs(refused: Api) -> None:
    reply = refused.client.post("/v1/jobs", json={"jobs": [PROMPT], "batch_id": "batch_" + "0" * 32})
    assert reply.status_code == 404


@pytest.mark.parametrize(
    "id", ["job_" + "0" * 32, "job_x", "x", "batch_" + "0" * 32, "job_%00", "job_" + "0" * 500, "%ff"]
)
@pytest.mark.parametrize("call", [("GET", ""), ("POST", "/cancel"), ("GET", "/events")])
def test_an_id_that_does_not_exist_is_not_found(refused: Api, id: str, call: tuple[str, str]) -> None:  # noqa: A002
    reply = refused.client.request(call[0], f"/v1/jobs/{id}{call[1]}")
    assert (reply.status_code, error_of(reply)["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("state=done", "state"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=many", "limit"),
        ("after=job_" + "0" * 32, "after"),
        ("after=%00", "after"),
        ("colour=blue", "colour"),
    ],
)
def test_a_wrong_filter_is_named(refused: Api, query: str, param: str) -> None:
    reply = refused.client.get(f"/v1/jobs?{query}")
    assert (reply.status_code, error_of(reply)["param"]) == (400, param)


def test_unknown_urls_and_methods_answer_in_the_same_shape(refused: Api) -> None:
    assert error_of(refused.client.get("/v1/jobz"))["code"] == "unknown_url"
    assert error_of(refused.client.delete("/v1/jobs"))["code"] == "method_not_allowed"


def test_no_refusal_repeats_what_was_sent(refused: Api) -> None:
    secret = "a-very-secret-prompt"
    for body in ({"prompt": [secret]}, {"messages": secret}, {"prompt": secret, "seed": secret}, {"stop": {secret: 1}}):
        assert secret not in refused.client.post("/v1/jobs", json=body).text


def test_an_exact_job_is_refused_where_no_worker_can_keep_it(refused: Api, vocabulary_bytes: bytes) -> None:
    details = {"exact": {"tile": False, "lone": False}}
    refused.store.announce_model(MODEL, "0" * 64, CONTEXT_TOKENS, vocabulary_bytes, details=details)
    assert_refused(refused, PROMPT | {"exact": True}, "exact", "exact_unavailable")
    refused.store.heartbeat("here", MODEL, 16, 0, 0.0, details={"exact": {"tile": False}})
    assert_refused(refused, PROMPT | {"exact": True}, "exact", "exact_unavailable")


def test_an_exact_job_is_taken_as_long_as_one_living_worker_can_keep_it(api: Api, vocabulary_bytes: bytes) -> None:
    """Whichever of them announced the model last."""
    details = {"exact": {"tile": False, "lone": False}}
    api.store.heartbeat("there", MODEL, 16, 0, 0.0, details={"exact": {"tile": True, "lone": False}})
    api.store.heartbeat("here", MODEL, 16, 0, 0.0, details=details)
    api.store.heartbeat("elsewhere", "another model", 16, 0, 0.0, details={"exact": {"tile": True, "lone": True}})
    api.store.announce_model(MODEL, "0" * 64, CONTEXT_TOKENS, vocabulary_bytes, details=details)
    assert api.client.get(f"/v1/models/{MODEL}").json()["exact"] == {"tile": True, "lone": False}
    assert api.client.post("/v1/jobs", json=PROMPT | {"exact": True}).status_code == 202
