"""What the tests of the API stand on: an application, a real server, a worker's part played with the real store."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi.testclient import TestClient
from redis import Redis

from api.server import Server
from api.services import Services
from jobs.events import EventWriter
from jobs.records import AttemptRef, GenerationRecord, Succeeded
from jobs.settings import Settings
from jobs.states import FinishReason
from jobs.store import Store
from tests.support.services import wait_until

MODEL = "phi-3-test"
CONTEXT_TOKENS = 256
RECIPE = {"model": "test", "build": "test"}
NO_REDIS = "unix:///nowhere/penstock.sock?db=0"
DEADLINE_SECONDS = 20.0


@dataclass
class Stage:
    """The parts behind an application."""

    settings: Settings
    store: Store
    redis: Redis
    writer: EventWriter


class Api:
    """An application in this process, and the parts behind it."""

    def __init__(self, stage: Stage, client: TestClient) -> None:
        self.client = client
        self.settings = stage.settings
        self.store = stage.store
        self.redis = stage.redis
        self.writer = stage.writer

    @property
    def services(self) -> Services:
        """The application's own parts, for tests that break one."""
        return self.client.app.state.services  # type: ignore[attr-defined, no-any-return]

    def submit(self, **job: Any) -> dict[str, Any]:
        reply = self.client.post("/v1/jobs", json={"prompt": "Ice"} | job)
        assert reply.status_code == 202, reply.text
        return dict(reply.json())

    def num_jobs(self) -> int:
        return len(self.store.list_jobs(limit=1000)[0])

    def queue_lengths(self) -> tuple[int, int]:
        """Messages in the queues of interactive and batch jobs."""
        return int(self.redis.llen("interactive")), int(self.redis.llen("batch"))


def claim(store: Store, job_id: str) -> AttemptRef:
    claimed = store.claim(job_id, "test-worker")
    assert claimed is not None
    return claimed.ref


def generation(completion: str) -> GenerationRecord:
    return GenerationRecord(
        completion=completion,
        finish_reason=FinishReason.STOP,
        prompt_token_ids=[1, 2, 3],
        completion_token_ids=[4, 5],
        recipe=RECIPE,
        timings={"queued": 0.1, "total": 0.2},
    )


def run_to_end(store: Store, job_id: str, completion: str = "Skates carve the ice") -> None:
    store.finish(claim(store, job_id), Succeeded(generation(completion)))


@dataclass(frozen=True)
class Frame:
    event: str
    id: str | None
    data: Any


class LiveServer:
    """uvicorn in a thread, as `python -m api` runs it."""

    def __init__(self, stage: Stage) -> None:
        self.store = stage.store
        self.redis = stage.redis
        self.writer = stage.writer
        self.server = Server(stage.settings)
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.server.started or not self._thread.is_alive())
        self.client = httpx.Client(base_url=self.server.url, timeout=DEADLINE_SECONDS, trust_env=False)

    def submit(self, **job: Any) -> str:
        reply = self.client.post("/v1/jobs", json={"prompt": "Ice"} | job)
        assert reply.status_code == 202, reply.text
        return str(reply.json()["id"])

    @contextmanager
    def follow(self, job_id: str, **request: Any) -> Iterator[Iterator[Frame]]:
        """The frames of a stream, as they come."""
        with self.client.stream("GET", f"/v1/jobs/{job_id}/events", **request) as reply:
            assert reply.status_code == 200, reply.read()
            assert reply.headers["content-type"].startswith("text/event-stream")
            yield frames(reply.iter_raw())

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def begin_stop(self) -> None:
        self.server.should_exit = True

    def stop(self) -> None:
        self.begin_stop()
        self._thread.join(DEADLINE_SECONDS)
        self.client.close()
        assert not self.running


def frames(chunks: Iterator[bytes]) -> Iterator[Frame]:
    """Parse SSE as the standard says: only LF ends a line here, comments are skipped."""
    rest = b""
    for chunk in chunks:
        *blocks, rest = (rest + chunk).split(b"\n\n")
        for block in blocks:
            yield parse_frame(block.decode())


def parse_frame(block: str) -> Frame:
    fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
    return Frame(fields["event"], fields.get("id"), json.loads(fields["data"]))


def text_of(all_frames: list[Frame]) -> str:
    """The text that a reader of these frames holds at the end."""
    text = ""
    for frame in all_frames:
        if frame.event == "reset":
            text = ""
        if frame.event == "text":
            assert frame.data["seq"] == len(text) + len(frame.data["text"]), "a gap or a repeat"
            text += frame.data["text"]
    return text
