"""Readers of streams on every wire, each on a thread: what they hold, and how their stream ended."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from typing import Any

import httpx

from ops.chaos.load import END_TOKENS
from ops.chaos.readers import Frame, frames
from tests.support.services import wait_until
from tests.support.system import System

ENDLESS = {str(token): -100 for token in END_TOKENS}
MESSAGES = [{"role": "user", "content": "Write a haiku about ice hockey"}]
LONG_TOKENS = 1500
JOIN_SECONDS = 60.0


class Reading(ABC):
    """One connection. `last` is the last frame that came, None where the connection was cut before its end."""

    def __init__(self, system: System, method: str, path: str, **request: Any) -> None:
        self.frames: list[Frame] = []
        self.cut = False
        self._system, self._request = system, (method, path, request)
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        method, path, request = self._request
        url = str(self._system.http.base_url)
        try:
            with (
                httpx.Client(base_url=url, timeout=40, trust_env=False) as client,
                client.stream(method, path, **request) as reply,
            ):
                assert reply.status_code == 200, reply.read()
                for frame in frames(reply.iter_raw()):
                    self.frames.append(frame)
                    if self._leave.is_set():
                        return
        except httpx.TransportError:
            self.cut = True

    def wait_for_text(self, length: int = 200) -> None:
        wait_until(lambda: len(self.text) >= length or not self._thread.is_alive(), 40)
        assert len(self.text) >= length, (self.kinds, self.frames[-1:])

    def join(self) -> None:
        self._thread.join(JOIN_SECONDS)
        assert not self._thread.is_alive()

    def leave(self) -> None:
        """After the next frame."""
        self._leave.set()
        self.join()

    @property
    def kinds(self) -> list[str]:
        """The events in their order; the same several times over once."""
        kinds = [frame.event for frame in list(self.frames)]
        return [kind for number, kind in enumerate(kinds) if not number or kind != kinds[number - 1]]

    @property
    def data(self) -> list[Any]:
        return [json.loads(frame.data) for frame in list(self.frames) if frame.data != "[DONE]"]

    @property
    @abstractmethod
    def text(self) -> str: ...


class Native(Reading):
    def __init__(self, system: System, job_id: str, *, after: str = "") -> None:
        headers = {"Last-Event-ID": after} if after else {}
        self._start = int(after.partition("@")[0] or 0)
        super().__init__(system, "GET", f"/v1/jobs/{job_id}/events", headers=headers)

    @property
    def text(self) -> str:
        """What came on this connection, since the last reset; fails on a gap or a repeat."""
        text, start = "", self._start
        for frame in list(self.frames):
            if frame.event == "reset":
                text, start = "", 0
            if frame.event == "text":
                told = json.loads(frame.data)
                text += told["text"]
                assert told["seq"] == start + len(text), "a gap or a repeat"
        return text

    @property
    def place(self) -> str:
        return [frame.id for frame in self.frames if frame.id][-1]


class Answer(Reading):
    """A response, made by the connection itself or followed after an event."""

    def __init__(self, system: System, response_id: str, *, after: int | None = None) -> None:
        asked = {"stream": "true"} | ({} if after is None else {"starting_after": str(after)})
        super().__init__(system, "GET", f"/v1/responses/{response_id}", params=asked)

    @property
    def text(self) -> str:
        return "".join(told["delta"] for told in self.data if told["type"] == "response.output_text.delta")

    @property
    def place(self) -> int:
        return int(self.data[-1]["sequence_number"])


class Chat(Reading):
    def __init__(self, system: System, **body: Any) -> None:
        asked = {"messages": MESSAGES, "max_tokens": LONG_TOKENS, "logit_bias": ENDLESS, "seed": 7, "stream": True}
        super().__init__(system, "POST", "/v1/chat/completions", json={**asked, **body})

    @property
    def text(self) -> str:
        choices = [choice for told in self.data for choice in told.get("choices", ())]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def job_id(self) -> str:
        return "job_" + str(self.data[0]["id"]).removeprefix("chatcmpl-")

    @property
    def done(self) -> bool:
        return bool(self.frames) and self.frames[-1].data == "[DONE]"

    @property
    def error(self) -> str | None:
        told = self.data[-1].get("error")
        return None if told is None else str(told["code"])


def post(system: System, **job: Any) -> str:
    """A job of the native wire that takes seconds; its id."""
    body = {"messages": MESSAGES, "max_tokens": LONG_TOKENS, "seed": 7, "logit_bias": ENDLESS, **job}
    reply = system.http.post("/v1/jobs", json=body)
    assert reply.status_code == 202, reply.text
    return str(reply.json()["id"])


def ask(system: System, **response: Any) -> str:
    """A response in the background; its id."""
    body = {"input": MESSAGES, "max_output_tokens": LONG_TOKENS, "seed": 7, "logit_bias": ENDLESS, "background": True}
    reply = system.http.post("/v1/responses", json={**body, **response})
    assert reply.status_code == 200, reply.text
    return str(reply.json()["id"])


def stored(system: System, job_id: str) -> tuple[str, dict[str, Any]]:
    """The text of a job that has succeeded, and how its last attempt took up what had been told."""
    system.wait_for_ends([job_id], 60)
    generation = system.store.get_generation(job_id)
    assert generation is not None
    return generation.completion, dict(generation.continuity or {})
