"""A job's event stream (SSE), read so that a broken connection leaves no gap and no repeat.

A text event's `seq` is the length, in code points, of all the text so far. So an event with text of length n covers
[seq - n, seq): the reader trims what it already has, and asks again with `?after=` when something is missing.
Knows no screen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from cli.client import Client, Json, backoff_seconds, raise_for_error, reason_of
from cli.errors import ApiRefused, ApiUnreachable

MAX_FAILURES = 10
"""Connections in a row that bring nothing new before a reader gives up: about half a minute."""
LASTING_PATIENCE = frozenset({429, 500, 502, 503, 504})
"""Refusals that may pass."""
QUIET_SECONDS = 60.0
"""A stream that says nothing for so long, not even a ping, is opened again."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One SSE frame: its `event` name, the JSON of its `data`, and its `id`: where to resume after it."""

    event: str
    data: Json
    id: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class StateChanged:
    state: str


@dataclass(frozen=True, slots=True)
class Reset:
    """A later attempt started with another text: what was shown so far is void."""


@dataclass(frozen=True, slots=True)
class Ended:
    """`job` is the whole job object, completion included."""

    job: Json


Event = Text | StateChanged | Reset | Ended


class Gap(Exception):
    """An event started after the text we have: read again from there."""


def frames(lines: Iterable[str]) -> Iterator[Frame]:
    """Parse SSE lines. Comments (pings) and `retry` say nothing to us."""
    event, data, position = "message", list[str](), ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line and data:
            yield Frame(event, _object("\n".join(data)), position)
        if not line:
            event, data, position = "message", [], ""
        elif name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            position = value


def _object(text: str) -> Json:
    try:
        data: Any = json.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


@dataclass
class Reader:
    """What has been received of one job's text. Turns frames into events that neither repeat nor skip."""

    received: int = 0
    state: str = ""
    position: str = ""

    @property
    def after(self) -> str:
        """Where to resume: the server's own word for it, which also names the attempt, or the number of code points."""
        return self.position or str(self.received)

    def take(self, frame: Frame) -> Iterator[Event]:
        """Events of one frame; raises Gap when text is missing in between, ApiRefused for an error frame."""
        data = frame.data
        if frame.event == "text":
            yield from self._text(str(data.get("text", "")), int(data.get("seq", 0)), frame.id)
        elif frame.event == "reset":
            self.received, self.position = 0, frame.id
            yield Reset()
        elif frame.event == "state" and data.get("state") != self.state:
            self.state = str(data.get("state"))
            yield StateChanged(self.state)
        elif frame.event == "end":
            yield Ended(data)
        elif frame.event == "error" or "error" in data:
            raise _refusal(data)

    def _text(self, text: str, seq: int, position: str) -> Iterator[Event]:
        start = seq - len(text)
        if start > self.received:
            raise Gap
        fresh = text[self.received - start :]
        if fresh:
            self.received, self.position = seq, position
            yield Text(fresh)


def _refusal(data: Json) -> ApiRefused:
    error = data.get("error")
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message", "the stream ended with an error."))
    return ApiRefused(503, message, code=error.get("code"), param=error.get("param"))


def follow(client: Client, job_id: str, *, after: int = 0) -> Iterator[Event]:
    """Every event of a job from code point `after` to its end, across broken connections.

    Gives up after MAX_FAILURES connections in a row that brought nothing new.
    """
    reader = Reader(received=after)
    failures = 0
    while True:
        reason = "the stream ended early"
        try:
            for event in _events(client, job_id, reader):
                failures = 0
                yield event
                if isinstance(event, Ended):
                    return
        except httpx.ReadTimeout:
            continue  # quiet, not broken: the job waits its turn
        except (Gap, httpx.TransportError, ApiRefused) as error:
            reason = _reason(error)
        failures += 1
        if failures == MAX_FAILURES:
            raise ApiUnreachable(client.url, f"{reason}; the job goes on: `penstock watch {job_id}`")
        client.pause(backoff_seconds(failures))


def _reason(error: Exception) -> str:
    """Why a connection ended, if another can help; a refusal that will stand is raised again."""
    if isinstance(error, ApiRefused) and error.status not in LASTING_PATIENCE:
        raise error
    return "a piece of the text is missing" if isinstance(error, Gap) else reason_of(error)


def _events(client: Client, job_id: str, reader: Reader) -> Iterator[Event]:
    for frame in _connection(client, job_id, reader.after):
        yield from reader.take(frame)


def _connection(client: Client, job_id: str, after: str) -> Iterator[Frame]:
    timeout = httpx.Timeout(QUIET_SECONDS, connect=5.0)
    path = f"/v1/jobs/{job_id}/events"
    with client.http.stream("GET", path, params={"after": after}, timeout=timeout) as reply:
        if not reply.is_success:
            reply.read()
            raise_for_error(reply)
        yield from frames(_lines(reply))


def _lines(reply: httpx.Response) -> Iterator[str]:
    """Lines as SSE means them: only CR and LF end one (httpx's `iter_lines` would also cut at U+2028)."""
    rest = ""
    for piece in reply.iter_text():
        *whole, rest = (rest + piece).split("\n")
        yield from (line.removesuffix("\r") for line in whole)
