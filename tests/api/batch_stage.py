"""What the tests of files and batches stand on: lines, uploads, and the parts of the clerk and the worker played."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from httpx import Response

from jobs.clerk import Clerk
from jobs.files import Vault
from jobs.records import Failed
from jobs.settings import Settings
from jobs.states import JobState
from jobs.store import Store
from tests.api.stage import Api, claim, run_to_end

CHAT = "/v1/chat/completions"
Json = dict[str, Any]


def chat_line(custom_id: str, *, url: str = CHAT, **body: Any) -> Json:
    """A line that can run, unless `body` says otherwise."""
    messages = [{"role": "user", "content": f"Write a haiku about {custom_id}"}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": url,
        "body": {"messages": messages, "max_tokens": 8} | body,
    }


def job_line(custom_id: str, **body: Any) -> Json:
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/jobs", "body": {"prompt": "Ice"} | body}


def jsonl(lines: Iterable[Any]) -> bytes:
    """Lines as a file; bytes are put in as they are."""
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def upload(api: Api, data: bytes, *, headers: dict[str, str] | None = None, **fields: str) -> Response:
    form = {"purpose": "batch"} | fields
    return api.client.post(
        "/v1/files", files={"file": ("in.jsonl", data, "application/jsonl")}, data=form, headers=headers
    )


def uploaded(api: Api, lines: Iterable[Any]) -> Json:
    reply = upload(api, jsonl(lines))
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def create(api: Api, file_id: str, *, headers: dict[str, str] | None = None, **body: Any) -> Response:
    asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"} | body
    return api.client.post("/v1/batches", json=asked, headers=headers)


def created(api: Api, lines: Iterable[Any], **body: Any) -> Json:
    reply = create(api, uploaded(api, lines)["id"], **body)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def batch(api: Api, batch_id: str) -> Json:
    return dict(api.client.get(f"/v1/batches/{batch_id}").json())


def lines_of(api: Api, file_id: str) -> list[Json]:
    reply = api.client.get(f"/v1/files/{file_id}/content")
    assert reply.status_code == 200, reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


class Office:
    """A clerk whose rounds a test asks for, and a worker that it plays."""

    def __init__(self, settings: Settings, store: Store, redis: Any) -> None:
        self._store = store
        self._now = 0.0
        self._clerk = Clerk(store, Vault.open(settings), redis, settings, monotonic=lambda: self._now)

    def work(self) -> None:
        """Take in and write out all there is."""
        more = True
        while more:
            self._now += 10.0
            more = self._clerk.step().more
        self._now += 10.0
        self._clerk.step()

    def queued(self, batch_id: str) -> list[str]:
        """Ids of the lines that wait, in their order."""
        rows, _ = self._store.list_jobs(batch_id=batch_id, state=JobState.QUEUED, limit=1000)
        return [row.id for row in rows][::-1]

    def run(self, batch_id: str, *, fail: int = 0, leave: int = 0) -> None:
        """Run the lines that wait: the first `fail` of them fail for good, the last `leave` are left."""
        ids = self.queued(batch_id)
        for job_id in ids[:fail]:
            self._store.finish(claim(self._store, job_id), Failed("engine_failed", "It stopped.", retryable=False))
        for job_id in ids[fail : len(ids) - leave]:
            run_to_end(self._store, job_id, f"Skates carve the ice of {job_id}")


def office(api: Api) -> Office:
    return Office(api.settings, api.store, api.redis)
