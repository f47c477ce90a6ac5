"""A small honest API for the client's tests: real HTTP on loopback, real SSE, jobs that end when they are asked to.

`drops` is how many event streams break off in the middle; `refusals` are replies to give before any real one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TEXT = "Cold ice, swift steel blades\u2028\nThe puck sings on frozen breath\nA goal, the crowd roars \U0001f3d2"
PIECE = 7


class FakeAPI(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.keys: dict[str, Any] = {}
        self.refusals: list[tuple[int, dict[str, Any]]] = []
        self.drops, self.end_state = 0, "succeeded"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def make(self, body: dict[str, Any], batch_id: str | None = None) -> dict[str, Any]:
        job = {"id": f"job_{len(self.jobs)}", "object": "job", "state": self.end_state, "seed": body.get("seed", 7)}
        job |= {"completion": TEXT, "usage": {"completion_tokens": 20}, "timings": {"prefill": 0.5, "decode": 1.5}}
        job |= {"batch_id": batch_id, "metadata": body.get("metadata", {}), "error": None}
        self.jobs[str(job["id"])] = job
        return job

    def batch(self, batch_id: str) -> dict[str, Any]:
        jobs = [job for job in self.jobs.values() if job["batch_id"] == batch_id]
        good = sum(job["state"] == "succeeded" for job in jobs)
        counts = {"total": len(jobs), "completed": good, "failed": len(jobs) - good}
        states = {state: sum(job["state"] == state for job in jobs) for state in ("succeeded", "failed")}
        return {"id": batch_id, "status": "completed", "request_counts": counts, "counts": states}


class Handler(BaseHTTPRequestHandler):
    server: FakeAPI

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        self.server.seen.append((self.path, dict(self.headers), body))
        key = self.headers.get("Idempotency-Key", "")
        if self.server.refusals:
            self.reply(*self.server.refusals.pop(0))
        elif self.path.endswith("/cancel"):
            self.reply(200, self.server.jobs[self.path.split("/")[3]] | {"state": "running"})
        else:
            self.server.keys[key] = self.server.keys.get(key) or self.submit(body)
            self.reply(202, self.server.keys[key])

    def submit(self, body: dict[str, Any]) -> dict[str, Any]:
        if "jobs" not in body:
            return self.server.make(body)
        batch_id = body.get("batch_id") or "batch_1"
        return {
            "object": "list",
            "batch_id": batch_id,
            "data": [self.server.make(job, batch_id) for job in body["jobs"]],
        }

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.seen.append((self.path, dict(self.headers), None))
        words = parts.path.strip("/").split("/")
        job = self.server.jobs.get(words[2]) if len(words) > 2 else None
        if words[:2] == ["v1", "batches"]:
            self.reply(200, self.server.batch(words[2]))
        elif words == ["v1", "jobs"]:
            self.reply(200, self.page(query))
        elif job is None:
            self.reply(404, {"error": {"message": "No such job.", "type": "x", "param": None, "code": "not_found"}})
        elif words[-1] == "events":
            self.stream(job, int(query.get("after", 0)))
        else:
            self.reply(200, job)

    def page(self, query: dict[str, str]) -> dict[str, Any]:
        rows = [job for job in reversed(self.server.jobs.values()) if query.get("batch_id") in (None, job["batch_id"])]
        ids = [job["id"] for job in rows]
        start = ids.index(query["after"]) + 1 if "after" in query else 0
        limit = int(query["limit"])
        return {"object": "list", "data": rows[start : start + limit], "has_more": len(rows) > start + limit}

    def stream(self, job: dict[str, Any], after: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        drop, self.server.drops = self.server.drops > 0, max(self.server.drops - 1, 0)
        for sent, end in enumerate([*range(after + PIECE, len(TEXT), PIECE), len(TEXT)] if after < len(TEXT) else []):
            if drop and sent == 2:
                return
            start = max(end - PIECE, after) if end < len(TEXT) else after + sent * PIECE
            self.frame("text", {"seq": end, "text": TEXT[start:end]}, end)
        self.wfile.write(b": ping\n")
        self.frame("end", job)

    def frame(self, event: str, data: dict[str, Any], id: int | None = None) -> None:  # noqa: A002
        head = "" if id is None else f"id: {id}\n"
        self.wfile.write(f"event: {event}\n{head}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode())

    def reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def fake_api() -> Iterator[FakeAPI]:
    """A running fake API."""
    with FakeAPI() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
