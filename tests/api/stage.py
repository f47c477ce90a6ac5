"""What the tests of the API stand on: an application, a real server, a worker's part played with the real store."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient
from redis import Redis, RedisError

from api.server import Server
from jobs.events import EventWriter
from jobs.records import AttemptRef, GenerationRecord, Succeeded
from jobs.settings import Settings
from jobs.states import FinishReason
from jobs.store import Store

MODEL = "phi-3-test"
CONTEXT_TOKENS = 256
VOCABULARY_FILE = Path(__file__).resolve().parents[2] / "ops" / "demo_model" / "phi-3-vocab.gguf"
RECIPE = {"model": "test", "build": "test"}
DEADLINE_SECONDS = 20.0


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition that another thread or process makes true; fail after DEADLINE_SECONDS."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"did not come true: {what}")
        time.sleep(0.005)


class PrivateRedis:
    """A real redis-server on a unix socket of its own."""

    def __init__(self, binary: Path) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="pk-"))
        self.binary = binary
        socket = self.home / "r.sock"
        self.url = f"unix://{socket}?db=0"
        self.client = Redis.from_url(self.url)
        self.start()

    def start(self) -> None:
        options = ["--port", "0", "--unixsocket", str(self.home / "r.sock"), "--save", "", "--dir", str(self.home)]
        self.process = subprocess.Popen([str(self.binary), *options], stdout=subprocess.DEVNULL)
        until(self._answers, "redis-server answers")

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.client.close()
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)


@dataclass
class Api:
    """An application in this process, and the parts behind it."""

    client: TestClient
    settings: Settings
    store: Store
    redis: Redis
    writer: EventWriter

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

    def __init__(self, settings: Settings, store: Store, writer: EventWriter) -> None:
        self.settings = settings
        self.store = store
        self.writer = writer
        self.server = Server(settings)
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()
        until(lambda: self.server.started or not self._thread.is_alive(), "the server listens")
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

    def begin_stop(self) -> None:
        self.server.should_exit = True

    def stop(self) -> None:
        self.begin_stop()
        self._thread.join(DEADLINE_SECONDS)
        self.client.close()
        assert not self._thread.is_alive()


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
