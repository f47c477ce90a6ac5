"""Readers of streams that leave and come back at random, on three wires, and note everything that cannot be true.

    native      `/v1/jobs/{id}/events`, resumed with `Last-Event-ID`
    response    `/v1/responses/{id}?stream=true`, resumed with `starting_after`
    chat        `/v1/chat/completions`, stored; its wire cannot resume, so the same key brings all of it again

A reader holds what it was told, as an application would. It never looks at the stored text: that is compared when all
is over. Each is a thread.
"""

from __future__ import annotations

import json
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import httpx

BACK_SECONDS = 0.2
"""Between two connections, on average."""
FRAMES_A_VISIT = 30
"""Frames after which a restless reader leaves, on average."""
SILENCE_SECONDS = 40.0
"""Longer than the server's pings are apart: nothing at all for so long is a problem."""

Wire = Literal["native", "response", "chat"]
Going = Literal["on", "over", "broken"]
"""After a frame: more will come; the job is over; the stream is, and says so."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One job to read. `body` and `key`: what a chat is asked with, each time; its `job_id` comes with its text."""

    number: int
    wire: Wire
    exact: bool
    job_id: str = ""
    body: Mapping[str, Any] | None = None
    key: str = ""


class Frame(NamedTuple):
    """A server-sent event. Empty: the field is not there."""

    event: str
    id: str
    data: str


@dataclass
class Counts:
    """What happened to a reader."""

    connections: int = 0
    left: int = 0
    cut: int = 0
    told_errors: int = 0
    refused: int = 0
    resets: int = 0


class Reader(threading.Thread, ABC):
    """Reads one stream to its end, over as many connections as it takes. `text` is what it holds."""

    def __init__(self, url: str, stream: Stream, dice: random.Random, stopping: threading.Event) -> None:
        super().__init__(name=f"reader-{stream.number}", daemon=True)
        self.stream = stream
        self.job_id = stream.job_id
        self.text = ""
        self.voided: list[str] = []
        """Texts that a reset made void."""
        self.told_text: str | None = None
        """The whole text as the last frame told it, where it does."""
        self.finished = False
        self.problems: list[str] = []
        self.counts = Counts()
        self._url, self._dice, self._stopping = url, dice, stopping

    def run(self) -> None:
        timeout = httpx.Timeout(SILENCE_SECONDS)
        with httpx.Client(base_url=self._url, timeout=timeout, trust_env=False) as client:
            while not self.finished and not self._stopping.is_set():
                self._visit(client)
                self._stopping.wait(self._dice.expovariate(1 / BACK_SECONDS))

    def _visit(self, client: httpx.Client) -> None:
        """One connection: to the end of the job, of the stream, or of patience."""
        self.counts.connections += 1
        try:
            with self._open(client) as reply:
                if reply.status_code != 200:
                    self._refused(reply)
                else:
                    self._read(reply)
        except httpx.ReadTimeout:
            self.problems.append("a stream was silent, without so much as a ping")
        except httpx.TransportError:
            self.counts.cut += 1

    def _refused(self, reply: httpx.Response) -> None:
        self.counts.refused += 1
        if reply.status_code not in (429, 503):
            self.problems.append(f"refused with status {reply.status_code}")
            self.finished = True

    def _read(self, reply: httpx.Response) -> None:
        patience = self._dice.expovariate(1 / FRAMES_A_VISIT)
        for number, frame in enumerate(frames(reply.iter_raw())):
            going = self._take(frame)
            if going == "over":
                self.finished = True
            if going == "broken":
                self.counts.told_errors += 1
            if going != "on":
                return
            if number >= patience:
                self.counts.left += 1
                return
        self.problems.append("a stream closed as if it were whole, without an end and without an error")

    def _void(self) -> None:
        self.counts.resets += 1
        self.voided.append(self.text)
        self.text = ""

    @abstractmethod
    def _open(self, client: httpx.Client) -> AbstractContextManager[httpx.Response]: ...

    @abstractmethod
    def _take(self, frame: Frame) -> Going: ...


class NativeReader(Reader):
    """Comes back with the `id` of the last frame that had one, as a browser does."""

    _last_id = ""

    def _open(self, client: httpx.Client) -> AbstractContextManager[httpx.Response]:
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        return client.stream("GET", f"/v1/jobs/{self.job_id}/events", headers=headers)

    def _take(self, frame: Frame) -> Going:
        event, told = frame.event, json.loads(frame.data)
        self._last_id = frame.id or self._last_id
        if event == "reset":
            self._void()
        if event == "text":
            self.text += told["text"]
            if told["seq"] != len(self.text):
                self.problems.append(f"a piece ends at {told['seq']} where {len(self.text)} code points are held")
        if event == "end":
            self.told_text = told["completion"]
        return {"end": "over", "error": "broken"}.get(event, "on")  # type: ignore[return-value]


class ResponseReader(Reader):
    """Comes back with the number of the last event, an error's too. Where the text began anew it starts over."""

    _number = -1

    def _open(self, client: httpx.Client) -> AbstractContextManager[httpx.Response]:
        asked = {"stream": "true"} | ({"starting_after": str(self._number)} if self._number >= 0 else {})
        return client.stream("GET", f"/v1/responses/{self.job_id.replace('job_', 'resp_', 1)}", params=asked)

    def _take(self, frame: Frame) -> Going:
        event, told = frame.event, json.loads(frame.data)
        if event == "error" and told["code"] == "stream_reset":
            self._void()
            self._number = -1
            return "broken"
        if event != "error" and told["sequence_number"] <= self._number:
            self.problems.append(f"event {told['sequence_number']} after {self._number}")
        self._number = told["sequence_number"]
        if event == "response.output_text.delta":
            self.text += told["delta"]
        if event == "response.output_text.done":
            self.told_text = told["text"]
        over = event in ("response.completed", "response.incomplete", "response.failed")
        return "broken" if event == "error" else "over" if over else "on"


class ChatReader(Reader):
    """Asks again with the same key, and reads all of it from the start."""

    _reason: str | None = None

    def _open(self, client: httpx.Client) -> AbstractContextManager[httpx.Response]:
        self.text, self._reason = "", None
        return client.stream(
            "POST", "/v1/chat/completions", json=self.stream.body, headers={"Idempotency-Key": self.stream.key}
        )

    def _take(self, frame: Frame) -> Going:
        if frame.data == "[DONE]":
            if self._reason is None:
                self.problems.append("[DONE] without a finish_reason")
            return "over"
        told = json.loads(frame.data)
        if "error" in told:
            self.counts.resets += told["error"]["code"] == "stream_reset"
            return "broken"
        self.job_id = "job_" + told["id"].removeprefix("chatcmpl-")
        for choice in told["choices"]:
            self.text += choice["delta"].get("content") or ""
            self._reason = choice["finish_reason"] or self._reason
        return "on"


READERS: Mapping[Wire, type[Reader]] = {"native": NativeReader, "response": ResponseReader, "chat": ChatReader}


def frames(chunks: Iterator[bytes]) -> Iterator[Frame]:
    """Each whole frame. Only LF ends a line; one that was cut off is dropped."""
    rest = b""
    for chunk in chunks:
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            lines = [line for line in block.decode().split("\n") if not line.startswith(":")]
            fields = dict(line.split(": ", 1) for line in lines if line)
            if "data" in fields:
                yield Frame(fields.get("event", ""), fields.get("id", ""), fields["data"])
