"""A small honest API for the client's tests: real HTTP and SSE on loopback; its jobs have ended when they are made.

`drops`: how many streams to break off in the middle. `refusals`: replies to give before any real one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

Json = dict[str, Any]
TEXT = "Cold ice, swift steel blades\u2028\nThe puck sings on frozen breath\nA goal, the crowd roars \U0001f3d2"
PIECE, PIECES_BEFORE_DROP = 7, 2
NOT_FOUND = {"error": {"message": "No such job.", "type": "x", "param": None, "code": "not_found"}}


class FakeAPI(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.jobs: dict[str, Json] = {}
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.replies: dict[str, Json] = {}
        self.refusals: list[tuple[int, Json]] = []
        self.drops, self.end_state = 0, "succeeded"

    def make(self, body: Json, batch_id: str | None = None) -> Json:
        job: Json = {"id": f"job_{len(self.jobs)}", "state": self.end_state, "seed": body.get("seed", 7)}
        job |= {"completion": TEXT, "usage": {"completion_tokens": 20}, "timings": {"prefill": 0.5, "decode": 1.5}}
        job |= {"batch_id": batch_id, "metadata": body.get("metadata", {}), "error": None}
        return self.jobs.setdefault(job["id"], job)

    def submit(self, body: Json) -> Json:
        batch_id = body.get("batch_id", "batch_1")
        lines = body.get("jobs")
        return (
            {"batch_id": batch_id, "data": [self.make(line, batch_id) for line in lines]} if lines else self.make(body)
        )

    def batch(self, batch_id: str) -> Json:
        states = [job["state"] for job in self.jobs.values() if job["batch_id"] == batch_id]
        counts = {state: states.count(state) for state in ("succeeded", "failed")}
        requests = {"total": len(states), "completed": counts["succeeded"], "failed": counts["failed"]}
        return {"id": batch_id, "status": "completed", "request_counts": requests, "counts": counts}

    def page(self, *, limit: str, after: str = "", batch_id: str | None = None) -> Json:
        rows = [job for job in reversed(self.jobs.values()) if batch_id in (None, job["batch_id"])]
        start = [job["id"] for job in rows].index(after) + 1 if after else 0
        return {"data": rows[start : start + int(limit)], "has_more": len(rows) > start + int(limit)}


class Handler(BaseHTTPRequestHandler):
    server: FakeAPI

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        self.server.seen.append((self.path, dict(self.headers), body))
        key = self.headers.get("Idempotency-Key", "")
        if self.server.refusals:
            return self.reply(*self.server.refusals.pop(0))
        if self.path.endswith("/cancel"):
            return self.reply(200, self.server.jobs[self.path.split("/")[3]] | {"state": "running"})
        return self.reply(
            202, self.server.replies.get(key) or self.server.replies.setdefault(key, self.server.submit(body))
        )

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers), None))
        query = dict(parse_qsl(urlsplit(self.path).query))
        match urlsplit(self.path).path.strip("/").split("/"):
            case ["v1", "jobs"]:
                self.reply(200, self.server.page(**query))
            case ["v1", "batches", batch_id]:
                self.reply(200, self.server.batch(batch_id))
            case ["v1", "jobs", job_id, "events"]:
                self.stream(self.server.jobs[job_id], int(query["after"]))
            case ["v1", "jobs", job_id] if job_id in self.server.jobs:
                self.reply(200, self.server.jobs[job_id])
            case _:
                self.reply(404, NOT_FOUND)

    def stream(self, job: Json, after: int) -> None:
        self.reply(200)
        drop, self.server.drops = self.server.drops > 0, max(self.server.drops - 1, 0)
        for number, start in enumerate(range(after, len(TEXT), PIECE)):
            if drop and number == PIECES_BEFORE_DROP:
                return
            piece = TEXT[start : start + PIECE]
            self.frame("text", {"seq": start + len(piece), "text": piece})
        self.frame("end", job)

    def frame(self, event: str, data: Json) -> None:
        self.wfile.write(f": ping\nevent: {event}\nid: {data.get('seq', '')}\n".encode())
        self.wfile.write(f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode())

    def reply(self, status: int, body: Json | None = None) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"" if body is None else json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def fake_api() -> Iterator[FakeAPI]:
    """A running fake API."""
    with FakeAPI() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
