"""What OpenAI's own clients of three major versions stumble over: retries, pings, ends of streams, errors, resuming."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from api import errors, streaming
from api.models import ServedModel
from jobs.errors import ModelUnknown
from tests.api.player import END, FAIL, WAIT, Player
from tests.api.stage import MODEL, LiveServer
from tests.api.test_completions import PIECES, TEXT, play
from tests.support.dropping_proxy import DroppingProxy
from tests.support.openai_clients import VERSIONS, OpenAIClient, OpenAIFailed
from tests.support.services import wait_until

__all__ = ["play"]  # a fixture

CHAT: Any = [{"role": "user", "content": "Ice?"}]
DELTA = "response.output_text.delta"
Play = Callable[..., Player]
STREAMS: dict[str, dict[str, Any]] = {
    "chat.completions.create": {"messages": CHAT},
    "completions.create": {"prompt": "Ice"},
    "responses.create": {"input": "Ice?"},
}
URLS = {
    "chat.completions.create": "/v1/chat/completions",
    "completions.create": "/v1/completions",
    "responses.create": "/v1/responses",
}


class Line:
    """A client, the network between, and how often the server was asked for work."""

    def __init__(self, version: str, live: LiveServer) -> None:
        self.live = live
        self.proxy = DroppingProxy(live.server.url)
        self.client = OpenAIClient(version, self.proxy.url)
        self.num_asked = 0
        self.num_to_refuse = 0
        catalog = live.server.app.state.services.catalog
        served = catalog.served

        def counted() -> ServedModel:
            self.num_asked += 1
            if self.num_to_refuse:
                self.num_to_refuse -= 1
                raise ModelUnknown(MODEL)
            found: ServedModel = served()
            return found

        catalog.served = counted

    def ask(self, method: str, **options: Any) -> Any:
        return self.client.call(method, model=MODEL, **options)


@pytest.fixture(params=VERSIONS)
def line(request: pytest.FixtureRequest, live: LiveServer) -> Iterator[Line]:
    made = Line(request.param, live)
    yield made
    made.client.close()
    made.proxy.close()


def text_of(events: list[dict[str, Any]]) -> str:
    """The text of a stream of any of the three endpoints."""
    if any("type" in event for event in events):
        return "".join(event["delta"] for event in events if event["type"] == DELTA)
    choices = [choice for event in events for choice in event["choices"]]
    return "".join((choice["delta"]["content"] or "") if "delta" in choice else choice["text"] for choice in choices)


def test_models_are_listed_and_read(line: Line) -> None:
    (listed,) = line.client.call("models.list", every=True)
    read = line.client.call("models.retrieve", MODEL)
    assert (read["id"], read["object"]) == (MODEL, "model")
    assert read == listed
    with pytest.raises(OpenAIFailed) as missing:
        line.client.call("models.retrieve", "gpt-9")
    assert (missing.value.kind, missing.value.status) == ("NotFoundError", 404)


@pytest.mark.parametrize("method", STREAMS)
def test_answers_and_streams_have_the_same_text(line: Line, play: Play, method: str) -> None:
    play()
    whole = line.ask(method, **STREAMS[method])
    said = {
        "chat.completions.create": lambda: whole["choices"][0]["message"]["content"],
        "completions.create": lambda: whole["choices"][0]["text"],
        "responses.create": lambda: whole["output"][0]["content"][0]["text"],
    }[method]()
    events = line.ask(method, stream=True, every=True, **STREAMS[method])
    assert said == text_of(events) == TEXT


@pytest.mark.parametrize("method", STREAMS)
def test_pings_pass_unseen(line: Line, play: Play, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment with a blank line of its own would be an event without data to them, and so would a bare `retry:`."""
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.02)
    player = play([PIECES[0], WAIT, *PIECES[1:], END])
    wire = b""
    body = {"model": MODEL, "stream": True, **STREAMS[method]}
    with line.live.client.stream("POST", URLS[method], json=body) as reply:
        for chunk in reply.iter_raw():
            wire += chunk
            if wire.count(b": ping\n") >= 3:
                player.go.set()
    assert b": ping\n" in wire
    assert b": ping\n\n" not in wire
    assert not any(row.startswith((b"id:", b"retry:")) for row in wire.split(b"\n"))
    threading.Timer(0.2, player.go.set).start()
    player.go.clear()
    assert text_of(line.ask(method, stream=True, every=True, **STREAMS[method])) == TEXT


@pytest.mark.parametrize("method", STREAMS)
def test_a_stream_that_is_cut_raises(line: Line, play: Play, method: str) -> None:
    """They raise nothing for a stream that merely ends. The server stops while the text is on its way."""
    play([PIECES[0], WAIT, END])
    threading.Thread(target=stop_when_running, args=(line.live,), daemon=True).start()
    with pytest.raises(OpenAIFailed) as cut:
        raise_errors(line.ask(method, stream=True, every=True, **STREAMS[method]))
    assert "server is stopping" in cut.value.message


def raise_errors(events: list[dict[str, Any]]) -> None:
    """The events of a response have an error among them, which no version raises."""
    for event in events:
        if event.get("type") == "error":
            raise OpenAIFailed(event | {"kind": "event", "status": None, "body": None})


def stop_when_running(live: LiveServer) -> None:
    wait_until(lambda: [job for job in live.store.list_jobs()[0] if job.state == "running"])
    live.begin_stop()


def test_a_failed_stream_raises_what_went_wrong(line: Line, play: Play) -> None:
    play([PIECES[0], FAIL])
    with pytest.raises(OpenAIFailed) as failed:
        line.ask("chat.completions.create", messages=CHAT, stream=True, every=True)
    assert "engine failed" in failed.value.message


def test_a_refusal_for_the_moment_is_tried_again(line: Line, play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "RETRY_AFTER_SECONDS", 1)
    play()
    line.num_to_refuse = 1
    answer = line.ask("chat.completions.create", messages=CHAT)
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert line.num_asked == 2


def test_bad_input_is_not_tried_again_and_has_all_four_keys(line: Line) -> None:
    with pytest.raises(OpenAIFailed) as wrong:
        line.ask("chat.completions.create", messages=CHAT, temperature=9000)
    assert (wrong.value.kind, wrong.value.param) == ("BadRequestError", "temperature")
    assert set(wrong.value.body) == {"message", "type", "param", "code"}
    with pytest.raises(OpenAIFailed) as unknown:
        line.client.call("chat.completions.create", model="gpt-9", messages=CHAT)
    assert (unknown.value.kind, unknown.value.code) == ("NotFoundError", "model_not_found")
    assert line.num_asked == 1


def test_a_conflict_is_not_tried_again(line: Line, play: Play) -> None:
    play()
    headers = {"Idempotency-Key": "k"}
    line.ask("responses.create", input="Ice?", extra_headers=headers)
    with pytest.raises(OpenAIFailed) as conflict:
        line.ask("responses.create", input="Snow?", extra_headers=headers)
    assert (conflict.value.kind, conflict.value.code) == ("ConflictError", "idempotency_conflict")
    assert line.num_asked == 2


def test_a_failed_job_is_not_tried_again(line: Line, play: Play) -> None:
    play([FAIL])
    with pytest.raises(OpenAIFailed) as failed:
        line.ask("chat.completions.create", messages=CHAT)
    assert (failed.value.kind, failed.value.code, line.num_asked) == ("InternalServerError", "engine_failed", 1)


def test_a_lost_answer_makes_no_second_background_response(line: Line) -> None:
    """The client sends the identical body again by itself, without a key."""
    line.proxy.num_to_drop = 1
    answer = line.ask("responses.create", input="Ice?", background=True)
    assert (line.proxy.num_to_drop, line.num_asked) == (0, 2)
    assert [job.id for job in line.live.store.list_jobs()[0]] == [answer["id"].replace("resp_", "job_")]


def test_a_lost_live_answer_is_made_again(line: Line, play: Play) -> None:
    play()
    line.proxy.num_to_drop = 1
    answer = line.ask("chat.completions.create", messages=CHAT)
    assert answer["choices"][0]["message"]["content"] == TEXT
    assert line.proxy.num_to_drop == 0


def test_a_background_response_is_polled_and_cancelled(line: Line, play: Play) -> None:
    play([PIECES[0], WAIT, END])
    made = line.ask("responses.create", input="Ice?", background=True)
    assert made["status"] in {"queued", "in_progress"}
    line.client.call("responses.cancel", made["id"])
    wait_until(lambda: line.client.call("responses.retrieve", made["id"])["status"] == "cancelled")


def test_a_response_is_followed_from_any_event(line: Line, play: Play) -> None:
    """`retrieve` expects the server to cut."""
    play()
    made = line.ask("responses.create", input="Ice?")
    events = line.client.call("responses.retrieve", made["id"], stream=True, every=True)
    assert text_of(events) == TEXT
    for seen in (0, 3, 4, 9, events[-2]["sequence_number"]):
        rest = line.client.call("responses.retrieve", made["id"], stream=True, starting_after=seen, every=True)
        assert rest
        assert all(event["sequence_number"] > seen for event in rest)
        assert text_of(rest) == TEXT[max(0, seen - 3) :]


def test_the_helper_resumes_by_itself(line: Line, play: Play) -> None:
    """`stream` asks for all events and leaves out those it was told of."""
    play()
    made = line.ask("responses.create", input="Ice?")
    for seen in (None, 0, 3, 9):
        after = {} if seen is None else {"starting_after": seen}
        told = line.client.call("responses.stream", response_id=made["id"], **after)
        assert told["final"]["output"][0]["content"][0]["text"] == TEXT
        numbers = [event["sequence_number"] for event in told["events"]]
        assert all(number > (-1 if seen is None else seen) for number in numbers)


def test_lists_say_where_they_end(line: Line) -> None:
    for url in ("/v1/files", "/v1/batches"):
        page = line.live.client.get(url).json()
        assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
