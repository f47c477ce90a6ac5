"""A small honest API for the client's tests: real HTTP and SSE on loopback; its jobs have ended when they are made.

`drops`: how many streams to break off in the middle. `refusals`: replies to give before any real one.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.support.fake_batches import FakeBatches

Json = dict[str, Any]
TEXT = "Cold ice, swift steel blades\u2028\nThe puck sings on frozen breath\nA goal, the crowd roars \U0001f3d2"
PIECE, PIECES_BEFORE_DROP = 7, 2
VERBS = {"cancel": "cancelling", "retry": "in_progress"}
NOT_FOUND = {"error": {"message": "No such job.", "type": "x", "param": None, "code": "not_found"}}


class FakeAPI(FakeBatches, ThreadingHTTPServer):
    def __init__(self) -> None:
        ThreadingHTTPServer.__init__(self, ("127.0.0.1", 0), Handler)
        FakeBatches.__init__(self)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.jobs: dict[str, Json] = {}
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.refusals: list[tuple[int, Json]] = []
        self.drops, self.end_state = 0, "succeeded"

    @property
    def makers(self) -> dict[str, Callable[..., Json]]:
        files = {"files": self.create_file, "batches": self.create_batch}
        return {"jobs": self.make, "webhooks": self.create_webhook, **files}

    def make(self, body: Json, batch_id: str | None = None) -> Json:
        job: Json = {"id": f"job_{len(self.jobs)}", "state": self.end_state, "seed": body.get("seed", 7)}
        job |= {"completion": TEXT, "usage": {"completion_tokens": 20}, "timings": {"prefill": 0.5, "decode": 1.5}}
        job |= {"batch_id": batch_id, "metadata": body.get("metadata", {}), "error": None}
        return self.jobs.setdefault(job["id"], job)

    def native_batch(self, batch_id: str) -> Json:
        """A batch that was not made from a file."""
        states = [job["state"] for job in self.jobs.values() if job["batch_id"] == batch_id]
        counts = {state: states.count(state) for state in ("succeeded", "failed")}
        requests = {"total": len(states), "completed": counts["succeeded"], "failed": counts["failed"]}
        return {"id": batch_id, "status": "completed", "request_counts": requests, "counts": counts}

    def jobs_page(self, *, limit: str, after: str = "", batch_id: str | None = None) -> Json:
        rows = [job for job in reversed(self.jobs.values()) if batch_id in (None, job["batch_id"])]
        start = [job["id"] for job in rows].index(after) + 1 if after else 0
        return {"data": rows[start : start + int(limit)], "has_more": len(rows) > start + int(limit)}


class Handler(BaseHTTPRequestHandler):
    server: FakeAPI

    def do_POST(self) -> None:
        raw = self.body()
        is_form = self.headers.get("Content-Type", "").startswith("multipart/")
        body = raw.split(b"\r\n\r\n", 2)[2].rpartition(b"\r\n--")[0] if is_form else json.loads(raw or b"null")
        self.server.seen.append((self.path, dict(self.headers), body))
        key = self.headers.get("Idempotency-Key", "")
        match self.path.strip("/").split("/"):
            case _ if self.server.refusals:
                self.reply(*self.server.refusals.pop(0))
            case ["v1", "jobs", job_id, "cancel"]:
                self.reply(200, self.server.jobs[job_id] | {"state": "running"})
            case ["v1", "batches", batch_id, "cancel" | "retry" as verb]:
                self.reply(200, self.server.batches[batch_id] | {"status": VERBS[verb]})
            case ["v1", "webhooks", webhook_id, "test"]:
                self.reply(202, self.server.delivery(webhook_id))
            case ["v1", "webhooks", webhook_id]:
                self.reply(200, self.server.change_webhook(webhook_id, body))
            case ["v1", kind]:
                made = self.server.once(key, self.server.makers[kind], body)
                self.reply_unless_lost(202 if kind == "jobs" else 200, made)

    def reply_unless_lost(self, status: int, made: Json) -> None:
        if self.server.lost_replies:
            self.server.lost_replies -= 1
            self.hang_up()
        else:
            self.reply(status, made)

    def body(self) -> bytes:
        """What was sent, chunked or not; as much as `cuts` lets through."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        limit, pieces = self.cut("POST"), list[bytes]()
        while size := int(self.rfile.readline() or b"-1", 16):
            if size < 0:
                raise ConnectionAbortedError  # the client gave it up
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
            if limit is not None and sum(map(len, pieces)) >= limit:
                self.hang_up()
                raise ConnectionAbortedError
        self.rfile.readline()
        return b"".join(pieces)

    def cut(self, method: str) -> int | None:
        cuts = self.server.cuts
        return cuts.pop(0)[1] if cuts and cuts[0][0] == method else None

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def do_DELETE(self) -> None:
        self.server.seen.append((self.path, dict(self.headers), None))
        if self.server.refusals:
            self.reply(*self.server.refusals.pop(0))
        else:
            self.reply(200, {"id": self.path.rpartition("/")[2], "deleted": True})

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers), None))
        query = dict(parse_qsl(urlsplit(self.path).query))
        server = self.server
        match urlsplit(self.path).path.strip("/").split("/"):
            case _ if server.refusals:
                self.reply(*server.refusals.pop(0))
            case ["v1", "jobs"]:
                self.reply(200, server.jobs_page(**query))
            case ["v1", "webhooks", webhook_id, "deliveries"]:
                self.reply(200, server.page([server.delivery(webhook_id)]))
            case ["v1", "batches" | "files" | "webhooks" as kind]:
                self.reply(200, server.page(server.every(kind)))
            case ["v1", "batches", batch_id]:
                self.reply(200, server.batches.get(batch_id) or server.native_batch(batch_id))
            case ["v1", "files", file_id, "content"] if file_id in server.files:
                self.content(server.files[file_id])
            case ["v1", "files", file_id] if file_id in server.files:
                self.reply(200, server.file(file_id))
            case ["v1", "jobs", job_id, "events"]:
                self.stream(server.jobs[job_id], int(query["after"]))
            case ["v1", "jobs", job_id] if job_id in server.jobs:
                self.reply(200, server.jobs[job_id])
            case _:
                self.reply(404, NOT_FOUND)

    def content(self, content: bytes) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        limit = self.cut("GET")
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : None if limit is None else start + limit])

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

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # cut off on purpose, or the client has gone
            super().handle()

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
