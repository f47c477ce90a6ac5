"""OpenAI's responses, driven by the real client: live, in the background, followed from any event on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import OpenAI

from jobs.states import JobState
from tests.api.player import END, FAIL, LOSE, WAIT, Player
from tests.api.stage import MODEL, LiveServer
from tests.api.test_completions import PIECES, TEXT, client, only_job, play
from tests.support.services import wait_until

__all__ = ["client", "play"]  # fixtures

DELTA = "response.output_text.delta"


def deltas(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == DELTA)


def test_a_response_is_answered_whole(live: LiveServer, client: OpenAI, play: Callable[..., Player]) -> None:
    play()
    answer = client.responses.create(model=MODEL, input="Ice?", instructions="Be brief.", metadata={"k": "v"})
    assert (answer.status, answer.output_text, answer.error) == ("completed", TEXT, None)
    assert (answer.instructions, answer.metadata, answer.background) == ("Be brief.", {"k": "v"}, False)
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (3, len(TEXT))
    messages = only_job(live).messages or []
    assert [message["role"] for message in messages] == ["system", "user"]


def test_a_background_response_is_polled(client: OpenAI, play: Callable[..., Player]) -> None:
    answer = client.responses.create(model=MODEL, input="Ice?", background=True)
    assert (answer.status, answer.background, answer.output) == ("queued", True, [])
    play()
    wait_until(lambda: client.responses.retrieve(answer.id).status == "completed")
    assert client.responses.retrieve(answer.id).output_text == TEXT


def test_a_background_response_is_cancelled(client: OpenAI, play: Callable[..., Player]) -> None:
    play([PIECES[0], WAIT, END])
    answer = client.responses.create(model=MODEL, input="Ice?", background=True)
    client.responses.cancel(answer.id)
    wait_until(lambda: client.responses.retrieve(answer.id).status == "cancelled")


def test_the_events_of_a_stream_are_numbered_in_order(client: OpenAI, play: Callable[..., Player]) -> None:
    play()
    events = list(client.responses.create(model=MODEL, input="Ice?", stream=True))
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    assert deltas(events) == TEXT
    assert [event.type for event in events if event.type != DELTA] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_a_stream_is_resumed_after_any_event(client: OpenAI, play: Callable[..., Player]) -> None:
    """Whatever event was the last, those that follow complete the text: none is missing, none comes twice."""
    play()
    answer = client.responses.create(model=MODEL, input="Ice?")
    whole = list(client.responses.retrieve(answer.id, stream=True))
    last = whole[-1].sequence_number
    for number in range(-1, last + 1):
        rest = list(client.responses.retrieve(answer.id, stream=True, starting_after=number))
        assert all(event.sequence_number > number for event in rest)
        seen = max(0, min(number - 3, len(TEXT)))
        assert deltas(rest) == TEXT[seen:]
        assert [event.type for event in rest][-1:] == (["response.completed"] if number < last else [])


def test_a_running_response_is_followed_from_the_middle(client: OpenAI, play: Callable[..., Player]) -> None:
    player = play([PIECES[0], WAIT, *PIECES[1:], END])
    first = client.responses.create(model=MODEL, input="Ice?", background=True, stream=True)
    number, answer_id = -1, ""
    for event in first:
        number = event.sequence_number
        if event.type == "response.created":
            answer_id = event.response.id
        if event.type == DELTA:
            break
    first.close()
    player.go.set()
    rest = list(client.responses.retrieve(answer_id, stream=True, starting_after=number))
    assert deltas(rest) == "".join(PIECES[1:])


def test_a_reader_of_an_attempt_that_was_lost_is_not_given_the_next_ones_text(
    live: LiveServer, client: OpenAI, play: Callable[..., Player]
) -> None:
    """Neither while that runs, nor when it has ended: an error says so, and the text can be read from its start."""
    scripts = iter([["Snow ", WAIT, LOSE], ["Ice is ", WAIT, "cold", END]])
    player = play(lambda _: next(scripts))
    answer = client.responses.create(model=MODEL, input="Ice?", background=True)
    stream = client.responses.retrieve(answer.id, stream=True)
    number = next(event for event in stream if event.type == DELTA).sequence_number
    player.go.set()
    wait_until(lambda: only_job(live).state == JobState.QUEUED)
    player.go.clear()
    wait_until(lambda: only_job(live).attempt == 2)
    for ended in (False, True):
        rest = list(client.responses.retrieve(answer.id, stream=True, starting_after=number))
        assert [(event.type, getattr(event, "code", "")) for event in rest] == [("error", "stream_reset")]
        assert rest[0].sequence_number == number, "whoever takes the error for its place does not skip text"
        if not ended:
            player.go.set()
            wait_until(lambda: client.responses.retrieve(answer.id).status == "completed")
    whole = list(client.responses.retrieve(answer.id, stream=True))
    numbers = [event.sequence_number for event in whole]
    assert (deltas(whole), whole[-1].type) == ("Ice is cold", "response.completed")
    assert numbers == sorted(set(numbers))
    assert min(event.sequence_number for event in whole if event.type == DELTA) > number


def test_a_response_that_fails_behind_some_text_says_so(client: OpenAI, play: Callable[..., Player]) -> None:
    """In its stream, and to whoever comes back with the number of the last text."""
    player = play([PIECES[0], WAIT, FAIL])
    answer = client.responses.create(model=MODEL, input="Ice?", background=True)
    number, kinds = -1, []
    for event in client.responses.retrieve(answer.id, stream=True):
        kinds.append(event.type)
        if event.type == DELTA:
            number = event.sequence_number
            player.go.set()
    assert kinds[-1] == "response.failed"
    (last,) = client.responses.retrieve(answer.id, stream=True, starting_after=number)
    assert last.type == "response.failed"
    assert list(client.responses.retrieve(answer.id, stream=True, starting_after=last.sequence_number)) == []


def test_the_helper_of_the_client_puts_the_stream_together(client: OpenAI, play: Callable[..., Player]) -> None:
    play()
    with client.responses.stream(model=MODEL, input="Ice?") as stream:
        assert stream.get_final_response().output_text == TEXT


def test_a_response_goes_on_from_an_earlier_one(live: LiveServer, client: OpenAI, play: Callable[..., Player]) -> None:
    play()
    first = client.responses.create(model=MODEL, input="Ice?", instructions="Be brief.")
    second = client.responses.create(model=MODEL, input="Snow?", previous_response_id=first.id)
    messages = live.store.get(second.id.replace("resp_", "job_")).messages or []
    assert [(message["role"], message["content"]) for message in messages] == [
        ("user", "Ice?"),
        ("assistant", TEXT),
        ("user", "Snow?"),
    ]
    assert second.previous_response_id == first.id


def test_an_earlier_response_that_is_not_there_is_named(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model=MODEL, input="Snow?", previous_response_id="resp_" + "0" * 32)
    assert error.value.param == "previous_response_id"


def test_a_response_outlives_its_caller_unless_it_is_not_stored(live: LiveServer, play: Callable[..., Player]) -> None:
    play([PIECES[0], WAIT, END])
    for store, state in ((False, JobState.CANCELLED), (True, JobState.RUNNING)):
        body = {"model": MODEL, "input": "Ice?", "stream": True, "store": store}
        with live.client.stream("POST", "/v1/responses", json=body) as reply:
            next(line for line in reply.iter_lines() if PIECES[0].strip() in line)
        newest = live.store.list_jobs(limit=1)[0][0]
        wait_until(lambda newest=newest, state=state: live.store.get(newest.id).state == state)


def test_a_failed_response_says_so_as_object_and_as_event(client: OpenAI, play: Callable[..., Player]) -> None:
    play([FAIL])
    answer = client.responses.create(model=MODEL, input="Ice?")
    assert answer.status == "failed"
    assert answer.error is not None
    assert answer.error.code == "engine_failed"
    events = list(client.responses.retrieve(answer.id, stream=True))
    assert events[-1].type == "response.failed"


def test_the_input_can_be_read_again(client: OpenAI, play: Callable[..., Player]) -> None:
    play()
    asked: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Ice?"}]}]
    answer = client.responses.create(model=MODEL, input=asked, instructions="Be brief.")
    (item,) = client.responses.input_items.list(answer.id).data
    assert item.type == "message"
    assert item.content[0].type == "input_text"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": "Ice?", "tools": [{"type": "web_search"}]}, "tools"),
        ({"input": "Ice?", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].type"),
        ({"input": "Ice?", "background": True, "store": False}, "store"),
        ({"input": "Ice?", "nonsense": 1}, "nonsense"),
    ],
)
def test_bad_input_is_refused_by_its_field(live: LiveServer, body: dict[str, Any], param: str) -> None:
    reply = live.client.post("/v1/responses", json={"model": MODEL, **body})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text


def test_an_unknown_response_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_nothing")
