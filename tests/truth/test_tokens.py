"""Token-level truth through the API: usage counts the tokens that were decoded, logprobs are the model's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import OpenAI

from jobs.tables import Generation
from tests.support.direct import direct_logprobs
from tests.support.models import VOCABULARY
from worker.engine.vocabulary import Vocabulary

CHAT: Any = [{"role": "user", "content": "Write a haiku about ice hockey"}]
PROMPT = "<|user|>\nWrite a haiku about the winter moon.<|end|>\n<|assistant|>\n"
NUM_TOP = 3
TOLERANCE = 0.05
"""Natural log. A tile and a prompt in blocks go through other kernels than one row does, which round otherwise."""

Stored = Callable[[Any], list[Generation]]
Run = Callable[..., Generation]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.from_gguf(VOCABULARY)


def counted(generations: Sequence[Generation]) -> tuple[int, int]:
    """Tokens of the prompt, and tokens decoded for all choices."""
    return len(generations[0].prompt_token_ids), sum(len(each.completion_token_ids) for each in generations)


def told(usage: Any) -> tuple[int, int]:
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    return usage.prompt_tokens, usage.completion_tokens


# -- usage


@pytest.mark.parametrize(
    "options", [{}, {"n": 3}, {"max_tokens": 5}, {"stop": "e"}, {"n": 2, "stop": ["a", "\n"]}], ids=str
)
def test_usage_of_a_chat_counts_the_tokens_decoded(
    client: OpenAI, stored: Stored, vocabulary: Vocabulary, options: dict[str, Any]
) -> None:
    answer = client.chat.completions.create(model="demo", messages=CHAT, seed=5, **options)
    generations = stored(answer)
    assert told(answer.usage) == counted(generations)
    assert len(generations) == options.get("n", 1)
    for choice, generation in zip(answer.choices, generations, strict=True):
        assert tuple(generation.prompt_token_ids) == vocabulary.encode_chat(CHAT).token_ids
        text = b"".join(vocabulary.piece(token) for token in generation.completion_token_ids).decode().removeprefix(" ")
        said = choice.message.content or ""
        assert text.startswith(said)
        assert (text == said) or "stop" in options


def test_a_stop_string_is_counted_and_not_told(client: OpenAI, stored: Stored) -> None:
    """The tokens that made it were decoded; the text ends before it."""
    whole = client.chat.completions.create(model="demo", messages=CHAT, seed=5)
    text = whole.choices[0].message.content or ""
    cut = client.chat.completions.create(model="demo", messages=CHAT, seed=5, stop=text[5:9])
    said = cut.choices[0].message.content or ""
    assert said == text[: text.index(text[5:9])]
    (generation,) = stored(cut)
    assert told(cut.usage) == counted([generation])
    decoded = list(generation.completion_token_ids)
    assert decoded == list(stored(whole)[0].completion_token_ids)[: len(decoded)]


@pytest.mark.parametrize("options", [{}, {"n": 2}, {"max_tokens": 4}, {"stop": "e"}], ids=str)
def test_usage_of_a_stream_is_that_of_its_tokens(client: OpenAI, stored: Stored, options: dict[str, Any]) -> None:
    wanted: Any = {"include_usage": True}
    *chunks, last = client.chat.completions.create(
        model="demo", messages=CHAT, seed=6, stream=True, stream_options=wanted, **options
    )
    endings = [chunk for chunk in chunks if chunk.choices[0].finish_reason]
    endings.sort(key=lambda chunk: chunk.choices[0].index)
    assert told(last.usage) == counted([generation for chunk in endings for generation in stored(chunk)])


def test_usage_of_a_completion_and_of_a_response(client: OpenAI, stored: Stored, system: Any) -> None:
    answer = client.completions.create(model="demo", prompt=PROMPT, n=2, seed=1)
    assert told(answer.usage) == counted(stored(answer))
    response: Any = client.responses.create(model="demo", input=PROMPT, max_output_tokens=9)
    generation = system.store.get_generation(response.penstock["job_id"])
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens) == counted([generation])
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


def test_usage_of_a_native_job(run: Run, system: Any) -> None:
    generation = run(prompt=PROMPT, max_tokens=7, seed=3)
    job = system.http.get(f"/v1/jobs/{generation.job_id}").json()
    assert (job["usage"]["prompt_tokens"], job["usage"]["completion_tokens"]) == counted([generation])


# -- logprobs


@pytest.fixture(scope="module")
def expected(demo_model_path: Path) -> Callable[[Generation], Any]:
    def computed(generation: Generation) -> Any:
        return direct_logprobs(demo_model_path, generation.prompt_token_ids, generation.completion_token_ids)

    return computed


def check(generation: Generation, logprobs: Sequence[float], tops: Sequence[Sequence[float]], rows: Any) -> None:
    """Each token's own logprob and those of the likeliest ones, beside a direct computation."""
    tokens = list(generation.completion_token_ids)
    assert len(logprobs) == len(tops) == len(tokens) > 3
    own = rows[np.arange(len(tokens)), tokens]
    assert np.allclose(logprobs, own, atol=TOLERANCE), np.abs(np.array(logprobs) - own).max()
    likeliest = -np.sort(-rows, axis=1)[:, :NUM_TOP]
    assert np.allclose(np.array(tops), likeliest, atol=TOLERANCE)


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logprobs_of_a_chat_are_those_of_a_direct_computation(
    client: OpenAI, stored: Stored, expected: Any, vocabulary: Vocabulary, temperature: float
) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=CHAT, seed=8, temperature=temperature, logprobs=True, top_logprobs=NUM_TOP
    )
    (generation,) = stored(answer)
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content or []
    tops = [[top.logprob for top in entry.top_logprobs] for entry in content]
    check(generation, [entry.logprob for entry in content], tops, expected(generation))
    pieces = [list(vocabulary.piece(token)) for token in generation.completion_token_ids]
    assert [entry.bytes for entry in content] == pieces


def test_logprobs_of_a_stream_are_those_of_a_direct_computation(client: OpenAI, stored: Stored, expected: Any) -> None:
    chunks = client.chat.completions.create(
        model="demo", messages=CHAT, seed=9, stream=True, logprobs=True, top_logprobs=NUM_TOP
    )
    *_, last = chunks
    (generation,) = stored(last)
    assert last.choices[0].logprobs is not None
    content = last.choices[0].logprobs.content or []
    tops = [[top.logprob for top in entry.top_logprobs] for entry in content]
    check(generation, [entry.logprob for entry in content], tops, expected(generation))


def test_logprobs_of_a_completion_are_those_of_a_direct_computation(
    client: OpenAI, stored: Stored, expected: Any
) -> None:
    answer = client.completions.create(model="demo", prompt=PROMPT, seed=2, logprobs=NUM_TOP)
    (generation,) = stored(answer)
    told_of = answer.choices[0].logprobs
    assert told_of is not None
    tops = [sorted(entry.values(), reverse=True) for entry in told_of.top_logprobs or []]
    text, offsets = answer.choices[0].text, told_of.text_offset or []
    ends = [*offsets[1:], len(text)]
    assert [text[start:end] for start, end in zip(offsets, ends, strict=True)] == [
        token.removeprefix(" ") if number == 0 else token for number, token in enumerate(told_of.tokens or [])
    ]
    check(generation, told_of.token_logprobs or [], tops, expected(generation))


def test_logprobs_of_a_response_are_those_of_a_direct_computation(client: OpenAI, system: Any, expected: Any) -> None:
    response: Any = client.responses.create(
        model="demo", input=PROMPT, top_logprobs=NUM_TOP, include=["message.output_text.logprobs"]
    )
    generation = system.store.get_generation(response.penstock["job_id"])
    content = response.output[0].content[0].logprobs
    tops = [[top.logprob for top in entry.top_logprobs] for entry in content]
    check(generation, [entry.logprob for entry in content], tops, expected(generation))


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_logprobs_of_a_native_job_are_those_of_a_direct_computation(run: Run, expected: Any, priority: str) -> None:
    """In both row classes, whatever penalty and bias did to the choice."""
    options = {"logprobs": NUM_TOP, "repeat_penalty": 1.3, "logit_bias": {"300": 2.0}, "priority": priority}
    generation = run(messages=CHAT, seed=4, **options)
    entries = generation.logprobs or []
    tops = [[top["logprob"] for top in entry["top"]] for entry in entries]
    check(generation, [entry["logprob"] for entry in entries], tops, expected(generation))
