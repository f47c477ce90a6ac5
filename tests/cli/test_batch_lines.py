"""What a line of a batch file may be, and how a line that cannot run is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.batch_lines import MAX_LINE_BYTES, Fault, LineError, numbered_jobs, read_job


def line(value: Any) -> bytes:
    return json.dumps(value).encode()


def openai(body: dict[str, Any], url: str = "/v1/chat/completions", **rest: Any) -> bytes:
    return line({"custom_id": "a", "method": "POST", "url": url, "body": body} | rest)


HELLO = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("given_line", "job"),
    [
        (line("Hi"), {"messages": HELLO}),
        (line({"prompt": "Hi", "temperature": 0}), {"prompt": "Hi", "temperature": 0}),
        (line({"messages": HELLO, "seed": 3, "stop": "x"}), {"messages": HELLO, "seed": 3, "stop": "x"}),
        (line({"prompt": "Hi", "metadata": None}), {"prompt": "Hi", "metadata": None}),
        (
            openai({"model": "m", "messages": HELLO, "max_completion_tokens": 5, "n": 1, "frequency_penalty": 0}),
            {"model": "m", "messages": HELLO, "max_tokens": 5, "repeat_penalty": 1.0, "metadata": {"custom_id": "a"}},
        ),
        (
            openai({"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be"}]}, *HELLO]}),
            {
                "messages": [{"role": "system", "content": "Be"}, *HELLO],
                "repeat_penalty": 1.0,
                "metadata": {"custom_id": "a"},
            },
        ),
        (
            openai({"messages": HELLO, "logprobs": True, "top_logprobs": 3, "user": "u"}),
            {"messages": HELLO, "logprobs": 3, "repeat_penalty": 1.0, "metadata": {"custom_id": "a"}},
        ),
        (
            openai({"prompt": ["Hi"], "top_p": 0.5}, "/v1/completions"),
            {"prompt": "Hi", "top_p": 0.5, "max_tokens": 16, "repeat_penalty": 1.0, "metadata": {"custom_id": "a"}},
        ),
    ],
)
def test_a_line_becomes_a_job(given_line: bytes, job: dict[str, Any]) -> None:
    assert read_job(given_line) == job


@pytest.mark.parametrize(
    ("given_line", "named"),
    [
        (b'{"prompt": ', "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"3", "neither a JSON string"),
        (b'""', "prompt"),
        (b'{"prompt": "Hi", "temperature": NaN}', "NaN"),
        (b"[" * 200_000, "nested too deep"),
        (b'"' + b"x" * MAX_LINE_BYTES + b'"', "bytes"),
        (line({}), "exactly one"),
        (line({"prompt": "a", "messages": HELLO}), "exactly one"),
        (line({"prompt": ""}), "prompt"),
        (line({"prompt": 3}), "prompt"),
        (line({"prompt": "a\x00b"}), "NUL"),
        (line({"prompt": "Hi", "temperatur": 1}), "unknown field temperatur"),
        (line({"prompt": "Hi", "seed": 2**32 - 1}), "seed"),
        (line({"prompt": "Hi", "max_tokens": "9"}), "max_tokens"),
        (line({"prompt": "Hi", "priority": "high"}), "priority"),
        (line({"prompt": "Hi", "deadline_seconds": 0}), "deadline_seconds"),
        (line({"prompt": "Hi", "model": 3}), "model"),
        (line({"prompt": "Hi", "metadata": {"a": 1}}), "metadata"),
        (line({"prompt": "Hi", "metadata": {str(n): "" for n in range(17)}}), "metadata"),
        (line({"messages": []}), "messages"),
        (line({"messages": [{"role": "robot", "content": "x"}]}), "messages[0].role"),
        (line({"messages": [{"role": "user", "content": ""}]}), "messages[0].content"),
        (openai({"messages": HELLO}, method="GET"), "method"),
        (openai({"messages": HELLO}, url="/v1/embeddings"), "url"),
        (line({"url": [], "body": {}}), "url"),
        (openai({"messages": HELLO}, custom_id=3), "custom_id"),
        (openai({"messages": HELLO}, custom_id="x" * 600), "custom_id"),
        (openai({"messages": HELLO, "n": 2}), "body.n"),
        (openai({"messages": HELLO, "frequency_penalty": 0.5}), "body.frequency_penalty"),
        (openai({"messages": HELLO, "tools": [{}]}), "body.tools"),
        (openai({"messages": HELLO, "logprobs": 3}), "body.logprobs"),
        (openai({"messages": HELLO, "surprise": 3}), "surprise"),
        (openai({"messages": "Hi"}), "body.messages"),
        (openai({"messages": [3]}), "body.messages[0]"),
        (openai({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "only text parts"),
        (openai({"prompt": ["a", "b"]}, url="/v1/completions"), "body.prompt"),
        (line({"custom_id": "a", "url": "/v1/completions", "body": []}), "body"),
    ],
)
def test_a_line_that_cannot_run_names_its_field(given_line: bytes, named: str) -> None:
    with pytest.raises(Fault) as fault:
        read_job(given_line)
    assert named in str(fault.value)


def test_lines_keep_their_numbers_and_blank_ones_are_passed_over() -> None:
    found = list(numbered_jobs([b'"a"\n', b"\n", b"{\n", b'"b"']))
    assert [number for number, _ in found] == [1, 3, 4]
    assert isinstance(found[1][1], LineError)
    assert "line 3" in str(found[1][1])


def test_a_custom_id_may_be_used_once() -> None:
    (_, first), (_, second) = numbered_jobs([openai({"messages": HELLO}), openai({"messages": HELLO})])
    assert isinstance(first, dict)
    assert str(second) == "line 2: custom_id: the same as in line 1"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_job_or_a_named_fault(junk: bytes) -> None:
    for _, job in numbered_jobs([junk]):
        assert isinstance(job, dict | LineError)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
FIELDS = [
    "prompt",
    "messages",
    "temperature",
    "seed",
    "stop",
    "metadata",
    "priority",
    "model",
    "url",
    "body",
    "custom_id",
]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values | st.just("/v1/completions"), max_size=6))
def test_any_object_is_a_job_or_a_named_fault(value: dict[str, Any]) -> None:
    for _, job in numbered_jobs([line(value)]):
        assert isinstance(job, dict | LineError)


@given(st.text(min_size=1).filter(str.strip).filter(lambda text: "\x00" not in text))
def test_any_prompt_arrives_unchanged(prompt: str) -> None:
    assert read_job(json.dumps({"prompt": prompt}).encode()) == {"prompt": prompt}
