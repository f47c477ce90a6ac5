"""OpenAI's requests as drafts of jobs: names, defaults, what changes nothing, and what is refused by its name."""

from __future__ import annotations

from typing import Any

import pytest

from api.fitting import KNOBS, Fitted, fit
from api.models import ServedModel
from api.openai.mapping import read_chat, read_completion
from api.openai.requests import IGNORED
from jobs.errors import InvalidRequest
from jobs.parameters import Parameters
from tests.api.stage import CONTEXT_TOKENS, MODEL
from worker.engine.vocabulary import Vocabulary

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.fixture(scope="module")
def model(vocabulary_bytes: bytes) -> ServedModel:
    return ServedModel(MODEL, CONTEXT_TOKENS, Vocabulary.from_bytes(vocabulary_bytes))


def ask(**body: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Ice"}]} | body


def chat(served: ServedModel, /, **body: Any) -> Fitted:
    return fit(read_chat(ask(**body)).draft, served)


def test_the_defaults_of_a_chat_are_openais(model: ServedModel) -> None:
    fitted = chat(model)
    assert fitted.parameters["temperature"] == 1.0
    assert fitted.parameters["repeat_penalty"] == 1.0
    assert fitted.parameters["top_p"] is None
    assert fitted.parameters["logprobs"] is None
    assert fitted.parameters["max_tokens"] == CONTEXT_TOKENS - len(fitted.token_ids)
    assert (fitted.seed, fitted.draft.metadata) == (None, {})


def test_the_defaults_of_a_completion_are_openais(model: ServedModel) -> None:
    fitted = fit(read_completion({"prompt": "Ice"}).draft, model)
    assert (fitted.parameters["max_tokens"], fitted.parameters["repeat_penalty"]) == (16, 1.0)
    assert fitted.draft.prompt == "Ice"


def test_every_field_finds_its_place(model: ServedModel) -> None:
    fitted = chat(
        model,
        model=MODEL,
        temperature=0.5,
        top_p=0.9,
        max_completion_tokens=7,
        stop="x",
        seed=3,
        logit_bias={"12": -1},
        logprobs=True,
        top_logprobs=4,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        metadata={"k": "v"},
        top_k=5,
        min_p=0.1,
        repeat_penalty=1.1,
        repeat_last_n=9,
        exact=True,
        reuse=True,
        max_attempts=2,
        deadline_seconds=60,
    )
    assert fitted.parameters == {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 7,
        "stop": ["x"],
        "logit_bias": {"12": -1},
        "logprobs": 4,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        "top_k": 5,
        "min_p": 0.1,
        "repeat_penalty": 1.1,
        "repeat_last_n": 9,
        "exact": True,
        "reuse": True,
    }
    assert (fitted.seed, fitted.draft.metadata, fitted.draft.max_attempts) == (3, {"k": "v"}, 2)
    assert fitted.draft.deadline_seconds == 60


def test_the_parameters_are_those_of_a_native_job(model: ServedModel) -> None:
    parameters = dict(chat(model, temperature=0, stop=["a"]).parameters)
    assert Parameters.model_validate(parameters).model_dump(mode="json", include=KNOBS) == parameters


@pytest.mark.parametrize("name", ["temperature", "top_p", "max_tokens", "stop", "seed", "n", "logprobs", "metadata"])
def test_null_means_the_default(model: ServedModel, name: str) -> None:
    assert chat(model, **{name: None}).parameters == chat(model).parameters


def test_max_tokens_is_the_older_name(model: ServedModel) -> None:
    assert chat(model, max_tokens=5).parameters["max_tokens"] == 5
    assert chat(model, max_tokens=5, max_completion_tokens=6).parameters["max_tokens"] == 6


@pytest.mark.parametrize("logprobs", [None, False])
def test_log_probabilities_only_where_asked_for(model: ServedModel, logprobs: bool | None) -> None:
    assert chat(model, logprobs=logprobs).parameters["logprobs"] is None
    assert chat(model, logprobs=True).parameters["logprobs"] == 0


def test_the_developer_is_the_system(model: ServedModel) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Ice"}]
    fitted = chat(model, messages=messages)
    assert fitted.draft.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Ice"}]


def test_parts_of_text_are_one_text(model: ServedModel) -> None:
    content = [{"type": "text", "text": "Ice"}, {"type": "text", "text": "hockey"}]
    assert chat(model, messages=[{"role": "user", "content": content}]).draft.messages == [
        {"role": "user", "content": "Ice\nhockey"}
    ]


def test_an_answer_may_be_sent_back_as_the_client_prints_it(model: ServedModel) -> None:
    answer = {"role": "assistant", "content": "Puck.", "refusal": None, "tool_calls": None, "annotations": []}
    messages = [{"role": "user", "content": "Ice", "name": "ann"}, answer, {"role": "user", "content": "More"}]
    assert [m["content"] for m in chat(model, messages=messages).draft.messages or ()] == ["Ice", "Puck.", "More"]


def test_one_prompt_may_stand_in_a_list(model: ServedModel) -> None:
    assert fit(read_completion({"prompt": ["Ice"], "logprobs": 2}).draft, model).parameters["logprobs"] == 2


def test_several_prompts_are_as_many_drafts() -> None:
    asked = read_completion({"prompt": ["Ice", "Snow"], "n": 2})
    assert ([draft.prompt for draft in asked.drafts], asked.num_choices) == (["Ice", "Snow"], 2)


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_changes_nothing_is_taken(model: ServedModel, name: str) -> None:
    assert chat(model, **{name: "anything"}).parameters == chat(model).parameters


@pytest.mark.parametrize(
    "inert",
    [
        {"frequency_penalty": 0, "presence_penalty": 0.0},
        {"tools": [], "tool_choice": "none"},
        {"tools": None, "functions": None, "function_call": "auto"},
        {"modalities": ["text"]},
        {"stream_options": {"include_usage": True}},
    ],
)
def test_what_is_off_is_taken(model: ServedModel, inert: dict[str, Any]) -> None:
    assert chat(model, **inert).parameters == chat(model).parameters


TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"frequency_penalty": 1}, "frequency_penalty", "unsupported_value"),
        ({"presence_penalty": -0.5}, "presence_penalty", "unsupported_value"),
        ({"tools": [TOOL]}, "tools", "unsupported_value"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported_value"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_value"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_value"),
        ({"audio": {"voice": "x"}}, "audio", "unknown_field"),
        ({"colour": "red"}, "colour", "unknown_field"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": ["text"]}, "messages[0]", None),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "unsupported_value"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_field"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].type", "unsupported_value"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "messages[1].role",
            None,
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [TOOL]}]},
            "messages[0].tool_calls",
            "unsupported_value",
        ),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"seed": -1}, "seed", "invalid_value"),
        ({"seed": 2**32 - 1}, "seed", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
        ({"max_completion_tokens": 9999}, "max_completion_tokens", "context_length_exceeded"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {"99999": 1}}, "logit_bias.99999", "invalid_value"),
        ({"logit_bias": {"12": 101}}, "logit_bias.12", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_field"),
        ({"metadata": {"k": 1}}, "metadata.k", "invalid_type"),
        ({"messages": [{"role": "user", "content": "ice " * 300}]}, "messages", "context_length_exceeded"),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_name(
    model: ServedModel, body: dict[str, Any], param: str, code: str | None
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(model, **body)
    assert refused.value.param == param
    assert code in (None, refused.value.code)
    assert param in refused.value.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a"] * 43, "n": 3}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": "x", "best_of": 2}, "best_of"),
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "logprobs": True}, "logprobs"),
    ],
)
def test_a_completion_that_cannot_be_served_is_refused_by_its_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_completion(body)
    assert refused.value.param == param


def test_fields_are_named_from_where_the_body_lies(model: ServedModel) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_chat(ask(max_completion_tokens=0), "body")
    assert refused.value.param == "body.max_completion_tokens"
    with pytest.raises(InvalidRequest) as unknown:
        read_chat(ask(colour=1), "body")
    assert unknown.value.message == "body.colour: there is no such field."
