"""OpenAI's live endpoints, driven by the real client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from jobs.states import JobState
from jobs.tables import Job
from tests.api.player import END, FAIL, LOSE, WAIT, Player, Script
from tests.api.stage import MODEL, LiveServer
from tests.support.services import wait_until

CHAT: Any = [{"role": "user", "content": "Ice?"}]
PIECES = ["Skates ", "carve the ", "ice ❄️"]
TEXT = "".join(PIECES)


@pytest.fixture
def play(live: LiveServer) -> Iterator[Callable[..., Player]]:
    players: list[Player] = []

    def start(script: Callable[[Job], Script] | Script = (*PIECES, END)) -> Player:
        asked = script if callable(script) else lambda _: script
        players.append(Player(live.store, live.writer, asked))
        return players[-1]

    yield start
    for player in players:
        player.close()


@pytest.fixture
def client(live: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{live.server.url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


def only_job(live: LiveServer) -> Job:
    (job,) = live.store.list_jobs()[0]
    return job


def test_a_chat_is_answered_whole(live: LiveServer, client: OpenAI, play: Callable[..., Player]) -> None:
    play()
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, seed=7, max_tokens=9)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (TEXT, "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, len(TEXT))
    job = only_job(live)
    assert (job.seed, job.parameters["max_tokens"], job.priority) == (7, 9, "interactive")
    assert answer.model_extra == {"penstock": {"job_ids": [job.id], "seeds": [7]}}
    assert answer.system_fingerprint == live.store.get_generation(job.id).recipe_id  # type: ignore[union-attr]


def test_a_prompt_is_answered_whole(client: OpenAI, play: Callable[..., Player]) -> None:
    play()
    answer = client.completions.create(model=MODEL, prompt="Ice", logprobs=0)
    assert (answer.object, answer.choices[0].text) == ("text_completion", TEXT)
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens == list(TEXT)


def test_a_stream_brings_every_character_once(client: OpenAI, play: Callable[..., Player]) -> None:
    play()
    chunks = list(client.chat.completions.create(model=MODEL, messages=CHAT, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_of_a_prompt(client: OpenAI, play: Callable[..., Player]) -> None:
    play()
    chunks = list(client.completions.create(model=MODEL, prompt="Ice", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_usage_comes_last_when_it_is_asked_for(client: OpenAI, play: Callable[..., Player]) -> None:
    play()
    options: Any = {"include_usage": True}
    *others, last = client.chat.completions.create(model=MODEL, messages=CHAT, stream=True, stream_options=options)
    assert (last.choices, last.usage and last.usage.completion_tokens) == ([], len(TEXT))
    assert all(chunk.usage is None for chunk in others)


def test_logprobs_of_a_stream_are_those_of_every_token(client: OpenAI, play: Callable[..., Player]) -> None:
    play()
    chunks = client.chat.completions.create(model=MODEL, messages=CHAT, stream=True, logprobs=True)
    told = [chunk.choices[0].logprobs.content for chunk in chunks if chunk.choices[0].logprobs is not None]
    assert [entry.token for part in told for entry in part or []] == list(TEXT)


def test_choices_have_seeds_in_a_row(live: LiveServer, client: OpenAI, play: Callable[..., Player]) -> None:
    play(lambda job: [f"text {job.seed}", END])
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, seed=2**32 - 2, n=3)
    assert [choice.message.content for choice in answer.choices] == [f"text {seed}" for seed in (2**32 - 2, 0, 1)]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3


def test_several_prompts_have_their_choices_one_after_another(client: OpenAI, play: Callable[..., Player]) -> None:
    play(lambda job: [f"{job.prompt} {job.seed}", END])
    asked: Any = {"model": MODEL, "prompt": ["Ice", "Snow"], "n": 2, "seed": 4}
    answer = client.completions.create(**asked)
    texts = ["Ice 4", "Ice 5", "Snow 4", "Snow 5"]
    assert [(choice.index, choice.text) for choice in answer.choices] == list(enumerate(texts))
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, len("".join(texts)))
    streamed = [""] * 4
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == texts
    assert chunk.usage is not None
    assert chunk.usage == answer.usage


def test_choices_stream_beside_each_other(client: OpenAI, play: Callable[..., Player]) -> None:
    play(lambda job: [f"text {job.seed}", END])
    texts, reasons = ["", ""], [None, None]
    for chunk in client.chat.completions.create(model=MODEL, messages=CHAT, seed=4, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert (texts, reasons) == (["text 4", "text 5"], ["stop", "stop"])


def test_a_failed_job_is_an_error_that_the_client_does_not_repeat(
    live: LiveServer, play: Callable[..., Player]
) -> None:
    play([PIECES[0], FAIL])
    eager = OpenAI(base_url=f"{live.server.url}/v1", api_key="none", max_retries=2)
    with eager as client, pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(model=MODEL, messages=CHAT)
    assert error.value.code == "engine_failed"
    assert len(live.store.list_jobs()[0]) == 1


def test_a_stream_of_a_job_that_fails_ends_in_an_error(client: OpenAI, play: Callable[..., Player]) -> None:
    play([PIECES[0], FAIL])
    with pytest.raises(openai.APIError) as error:
        list(client.chat.completions.create(model=MODEL, messages=CHAT, stream=True))
    assert "engine failed" in error.value.message


def test_a_stream_whose_text_begins_anew_ends_in_an_error(client: OpenAI, play: Callable[..., Player]) -> None:
    """A worker was lost, and the next attempt says something else: what was streamed cannot be taken back."""
    first = iter([["One text", LOSE], ["Another text", END]])
    play(lambda _: next(first))
    with pytest.raises(openai.APIError) as error:
        list(client.chat.completions.create(model=MODEL, messages=CHAT, stream=True))
    assert "began anew" in error.value.message


def test_a_stream_goes_on_where_the_next_attempt_says_the_same(client: OpenAI, play: Callable[..., Player]) -> None:
    first = iter([[PIECES[0], PIECES[1], LOSE], [*PIECES, END]])
    play(lambda _: next(first))
    chunks = client.chat.completions.create(model=MODEL, messages=CHAT, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT


def leave_after_first_text(live: LiveServer, **body: Any) -> None:
    asked = {"model": MODEL, "messages": CHAT, "stream": True, **body}
    with live.client.stream("POST", "/v1/chat/completions", json=asked) as reply:
        for line in reply.iter_lines():
            if PIECES[0].strip() in line:
                return
    raise AssertionError("no text came")


def test_a_caller_that_leaves_cancels_its_job(live: LiveServer, play: Callable[..., Player]) -> None:
    play([PIECES[0], WAIT, END])
    leave_after_first_text(live)
    wait_until(lambda: only_job(live).state == JobState.CANCELLED)


def test_a_job_that_is_to_be_stored_goes_on_without_its_caller(live: LiveServer, play: Callable[..., Player]) -> None:
    player = play([PIECES[0], WAIT, END])
    leave_after_first_text(live, store=True)
    player.go.set()
    wait_until(lambda: only_job(live).state == JobState.SUCCEEDED)


def test_a_caller_that_leaves_before_the_whole_answer_cancels_its_job(
    live: LiveServer, play: Callable[..., Player]
) -> None:
    play([PIECES[0], WAIT, END])
    caller = HTTPConnection(httpx.URL(live.server.url).netloc.decode())
    body = json.dumps({"model": MODEL, "messages": CHAT})
    caller.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    wait_until(lambda: live.store.list_jobs(state=JobState.RUNNING)[0])
    caller.close()
    wait_until(lambda: only_job(live).state == JobState.CANCELLED)


def test_the_same_key_makes_one_job(live: LiveServer, client: OpenAI, play: Callable[..., Player]) -> None:
    play()
    answers = [
        client.chat.completions.create(model=MODEL, messages=CHAT, extra_headers={"Idempotency-Key": "one"})
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert only_job(live).state == JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": CHAT, "temperature": -1}, "temperature"),
        ({"messages": CHAT, "seed": 2**32}, "seed"),
        ({"messages": CHAT, "tools": [{"type": "function"}]}, "tools"),
        ({"messages": CHAT, "n": 0}, "n"),
        ({"messages": CHAT, "nonsense": 1}, "nonsense"),
    ],
)
def test_bad_input_is_refused_by_its_field(live: LiveServer, body: dict[str, Any], param: str) -> None:
    reply = live.client.post("/v1/chat/completions", json={"model": MODEL, **body})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert live.store.list_jobs()[0] == []
