"""Lines of result files: OpenAI's shapes, the provenance beside them, and bytes that never vary."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion

from api.shapes import job_object
from jobs.ends import EndedLine
from jobs.lines import render
from jobs.states import JobState
from jobs.tables import Generation, Job

START = datetime(2030, 1, 1, tzinfo=UTC)
CHAT, TEXT, NATIVE = "/v1/chat/completions", "/v1/completions", "/v1/jobs"
ENDPOINTS = (CHAT, TEXT, NATIVE)


def token(text: str, logprob: float | None, *, top: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    entry = {"token_id": 5, "token": text, "bytes": list(text.encode()), "logprob": logprob}
    return entry if top is None else {**entry, "top": top}


LOGPROBS = [
    token("ice", -0.25, top=[token("ice", -0.25), token("fire", None)]),
    token(" hockey", -1.5, top=[]),
]


def make_line(state: JobState = JobState.SUCCEEDED, *, text: str | None = "ice hockey", **changes: Any) -> EndedLine:
    generation = None
    if text is not None:
        generation = Generation(
            completion=text,
            finish_reason="stop" if state is JobState.SUCCEEDED else None,
            num_prompt_tokens=3,
            num_completion_tokens=2,
            logprobs=changes.pop("logprobs", None),
            recipe_id="fp_0123456789abcdef",
            timings={"total": 0.5, "queued": 0.1},
        )
    row: dict[str, Any] = {
        "id": "job_0199c2a4",
        "state": state,
        "model": "demo",
        "priority": "batch",
        "prompt": None,
        "messages": [{"role": "user", "content": "about ice"}],
        "parameters": {"temperature": 1.0, "max_tokens": 9},
        "seed": 7,
        "job_metadata": {"b": "2", "a": "1"},
        "batch_id": "batch_1",
        "custom_id": "line-one",
        "line_number": 4,
        "attempt": 2,
        "max_attempts": 3,
        "created_at": START,
        "started_at": START + timedelta(seconds=1.5),
        "ended_at": START + timedelta(seconds=2.25),
    }
    return EndedLine(Job(**{**row, **changes}), generation, "worker-1", 1, None if generation is None else True)


def rendered(line: EndedLine, endpoint: str = CHAT) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(render(line, endpoint))
    return document


def test_a_chat_line_has_openais_shape_and_says_where_its_text_came_from() -> None:
    assert rendered(make_line()) == {
        "id": "batch_req_0199c2a4",
        "custom_id": "line-one",
        "response": {
            "status_code": 200,
            "request_id": "job_0199c2a4",
            "body": {
                "id": "chatcmpl-0199c2a4",
                "object": "chat.completion",
                "created": int(START.timestamp()) + 2,
                "model": "demo",
                "system_fingerprint": "fp_0123456789abcdef",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "ice hockey", "refusal": None},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            },
        },
        "error": None,
        "penstock": {
            "job_id": "job_0199c2a4",
            "line": 4,
            "state": "succeeded",
            "seed": 7,
            "attempt": 2,
            "worker": "worker-1",
            "recipe": "fp_0123456789abcdef",
            "exact": True,
            "timings": {"queued": 0.1, "total": 0.5},
        },
    }


def test_a_text_line_has_the_older_shape() -> None:
    body = rendered(make_line(logprobs=LOGPROBS), TEXT)["response"]["body"]
    assert (body["id"], body["object"]) == ("cmpl-0199c2a4", "text_completion")
    assert body["choices"] == [
        {
            "index": 0,
            "text": "ice hockey",
            "logprobs": {
                "tokens": ["ice", " hockey"],
                "token_logprobs": [-0.25, -1.5],
                "top_logprobs": [{"ice": -0.25, "fire": -9999.0}, {}],
                "text_offset": [0, 3],
            },
            "finish_reason": "stop",
        }
    ]


def logprob(token: str, data: bytes, token_id: int = 0, top: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"token_id": token_id, "token": token, "bytes": list(data), "logprob": -1.0, "top": list(top)}


def text_logprobs(text: str, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (choice,) = rendered(make_line(text=text, logprobs=entries), TEXT)["response"]["body"]["choices"]
    return dict(choice["logprobs"])


def test_offsets_are_places_in_the_text_where_a_turn_begins_without_its_space() -> None:
    entries = [logprob(" ice", b" ice"), logprob(" hockey", b" hockey")]
    assert text_logprobs("ice hockey", entries)["text_offset"] == [0, 3]
    assert text_logprobs(" ice hockey", entries)["text_offset"] == [0, 4]


def test_offsets_count_a_character_of_several_tokens_once() -> None:
    parts = [logprob("\ufffd", bytes([byte])) for byte in "❄".encode()]
    assert text_logprobs("a❄b", [logprob("a", b"a"), *parts, logprob("b", b"b")])["text_offset"] == [0, 1, 1, 1, 2]


def test_likely_tokens_without_a_text_of_their_own_stand_apart() -> None:
    """Parts of characters, and ends of a text: they would all be one key."""
    top = [logprob("a", b"a", 5), logprob("\ufffd", b"\xe2", 6), logprob("\ufffd", b"\x9d", 7), logprob("", b"", 8)]
    (told,) = text_logprobs("a", [logprob("a", b"a", 5, top)])["top_logprobs"]
    assert list(told) == ["a", "token_id:6", "token_id:7", "token_id:8"]


def test_chat_logprobs_have_openais_shape() -> None:
    (choice,) = rendered(make_line(logprobs=LOGPROBS))["response"]["body"]["choices"]
    first, second = choice["logprobs"]["content"]
    assert first["top_logprobs"][1] == {"token": "fire", "logprob": -9999.0, "bytes": list(b"fire")}
    assert second == {"token": " hockey", "logprob": -1.5, "bytes": list(b" hockey"), "top_logprobs": []}
    assert choice["logprobs"]["refusal"] is None


def test_openais_client_reads_both_shapes() -> None:
    line = make_line(logprobs=LOGPROBS)
    chat = ChatCompletion.model_validate(rendered(line)["response"]["body"], strict=True)
    text = Completion.model_validate(rendered(line, TEXT)["response"]["body"], strict=True)
    assert chat.choices[0].logprobs is not None
    assert (chat.choices[0].message.content, text.choices[0].text) == ("ice hockey", "ice hockey")


def test_a_native_line_is_what_the_api_answers_for_the_job() -> None:
    line = make_line(logprobs=LOGPROBS)
    expected = job_object(line.job, line.generation).model_dump(mode="json", exclude={"attempts"})
    assert rendered(line, NATIVE)["response"]["body"] == expected


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_failed_line_tells_its_error(endpoint: str) -> None:
    error = {"code": "attempts_spent", "message": "Three attempts failed.", "retryable": False}
    document = rendered(make_line(JobState.FAILED, text=None, error=error), endpoint)
    assert document["response"] is None
    assert document["error"] == {"code": "attempts_spent", "message": "Three attempts failed."}
    assert document["penstock"]["retryable"] is False


def test_a_line_that_could_never_run_tells_its_place() -> None:
    error = {"code": "invalid_json", "message": "line 4: no JSON", "param": None, "line": 4, "retryable": False}
    line = make_line(JobState.FAILED, text=None, error=error, custom_id=None, attempt=0)
    document = rendered(EndedLine(line.job, None, None, 1))
    assert document["custom_id"] is None
    assert document["error"] == {"code": "invalid_json", "message": "line 4: no JSON", "line": 4}
    assert (document["penstock"]["worker"], document["penstock"]["attempt"]) == (None, 0)


@pytest.mark.parametrize(
    ("state", "code"), [(JobState.CANCELLED, "batch_cancelled"), (JobState.EXPIRED, "batch_expired")]
)
def test_a_line_that_was_cut_short_keeps_the_text_it_had(state: JobState, code: str) -> None:
    document = rendered(make_line(state, text="ice hoc"))
    assert (document["response"], document["error"]["code"]) == (None, code)
    assert document["penstock"]["completion"] == "ice hoc"
    assert document["penstock"]["usage"]["completion_tokens"] == 2


def test_a_line_that_never_ran_has_no_text() -> None:
    document = rendered(make_line(JobState.EXPIRED, text=None))
    assert document["error"]["code"] == "batch_expired"
    assert "completion" not in document["penstock"]
    assert document["penstock"]["timings"] is None


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_order_in_which_a_database_gives_keys_back_changes_no_byte(endpoint: str) -> None:
    line = make_line(logprobs=LOGPROBS)
    before = render(line, endpoint)
    assert line.generation is not None
    line.job.parameters = dict(reversed(line.job.parameters.items()))
    line.job.messages = [dict(reversed(message.items())) for message in line.job.messages or ()]
    line.job.job_metadata = dict(reversed(line.job.job_metadata.items()))
    line.generation.timings = dict(reversed(line.generation.timings.items()))
    line.generation.logprobs = [dict(reversed(entry.items())) for entry in line.generation.logprobs or ()]
    assert render(line, endpoint) == before


@given(text=st.text(), custom_id=st.text(max_size=20), seed=st.integers(0, 2))
def test_whatever_the_text_a_line_is_one_line_and_comes_back_whole(text: str, custom_id: str, seed: int) -> None:
    endings = random.Random(seed).choices(["\u2028", "\u2029", "\u0085", "\n", "\r", "\x0b", "\x0c", "\x1c"], k=3)
    completion = text + "".join(endings)
    for endpoint in ENDPOINTS:
        data = render(make_line(text=completion, custom_id=custom_id), endpoint)
        assert len(data.decode().splitlines()) == 1
        assert data.endswith(b"\n")
        document = json.loads(data)
        assert document["custom_id"] == custom_id
        body = document["response"]["body"]
        choice = body.get("choices", [{}])[0]
        assert completion in {body.get("completion"), choice.get("text"), choice.get("message", {}).get("content")}
