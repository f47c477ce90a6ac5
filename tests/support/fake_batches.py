"""The part of the fake API that has files and batches. Its batches end with their first breath, newest line first.

`cuts`: (method, bytes) of bodies to break off after so many bytes; `lost_replies`: answers that are never sent, though
what they answer was done; `bad_lines`: numbers of lines that fail; `num_invalid`: of every file;
`status`: of every batch.
"""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]
TEXT = "Cold ice, swift steel blades"
COUNTED = {"output_file_id": "completed", "error_file_id": "failed"}


class FakeBatches:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Json] = {}
        self.webhooks: dict[str, Json] = {}
        self.replies: dict[str, Json] = {}
        self.cuts: list[tuple[str, int]] = []
        self.lost_replies = self.num_invalid = 0
        self.bad_lines: set[int] = set()
        self.status, self.pace, self.errors = "completed", dict[str, Any](), list[Json]()

    def once(self, key: str, make: Any, *given: Any) -> Json:
        """The same key makes the same object."""
        return self.replies.get(key) or self.replies.setdefault(key, make(*given))

    def create_file(self, content: bytes) -> Json:
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = content
        return self.file(file_id)

    def file(self, file_id: str) -> Json:
        size = len(self.files[file_id])
        known = {"bytes": size, "created_at": 1_700_000_000, "filename": "f.jsonl", "purpose": "batch"}
        return {"id": file_id, "object": "file", "lines": {"total": 9, "invalid": self.num_invalid}} | known

    def create_batch(self, body: Json) -> Json:
        lines = [
            (number, json.loads(line))
            for number, line in enumerate(self.files[body["input_file_id"]].split(b"\n"), start=1)
            if line.strip()
        ]
        batch = {"id": f"batch_{len(self.batches)}", "status": self.status, "created_at": 1_700_000_000, **body}
        counts = {"total": len(lines), "completed": 0, "failed": 0}
        for name, is_bad in (("output_file_id", False), ("error_file_id", True)):
            ended = [result(number, line, is_bad) for number, line in lines if (number in self.bad_lines) is is_bad]
            counts[COUNTED[name]] = len(ended)
            batch[name] = self.create_file(b"".join(reversed(ended)))["id"] if ended else None
        batch |= {"request_counts": counts, "errors": {"object": "list", "data": self.errors}, **self.pace}
        return self.batches.setdefault(batch["id"], batch)

    def create_webhook(self, body: Json) -> Json:
        webhook = {"id": f"webhook_{len(self.webhooks)}", "secret": "whsec_x", "disabled_at": None, **body}
        return self.webhooks.setdefault(webhook["id"], webhook)

    def change_webhook(self, webhook_id: str, body: Json) -> Json:
        webhook = self.webhooks[webhook_id]
        if "enabled" in body:
            webhook["disabled_at"] = None if body.pop("enabled") else "2026-01-01T00:00:00Z"
        webhook.update(body)
        return webhook

    def delivery(self, webhook_id: str) -> Json:
        tries = [{"at": "2026-01-01T00:00:00Z", "status": 503, "error": "http_status", "seconds": 0.1}]
        told = {"id": "delivery_0", "webhook_id": webhook_id, "type": "webhook.test", "object_id": webhook_id}
        return {**told, "status": "pending", "attempts": tries}

    def every(self, kind: str) -> list[Json]:
        """All that there are of one kind, oldest first."""
        known = {"batches": self.batches, "webhooks": self.webhooks}
        return [self.file(file_id) for file_id in self.files] if kind == "files" else list(known[kind].values())

    def page(self, rows: list[Json]) -> Json:
        return {"object": "list", "data": rows[::-1], "has_more": False}


def result(number: int, line: Json, is_bad: bool) -> bytes:
    """A line of a result file, as `jobs/lines.py` writes it for /v1/jobs."""
    usage = {"prompt_tokens": 3, "completion_tokens": 20, "total_tokens": 23}
    body = {"id": f"job_{number}", "state": "succeeded", "completion": TEXT, "finish_reason": "stop", "usage": usage}
    error = {"code": "out_of_memory", "message": "The line failed.", "line": number}
    ours = {"job_id": f"job_{number}", "line": number, "state": "failed" if is_bad else "succeeded", "seed": 7}
    value = {
        "id": f"batch_req_{number}",
        "custom_id": line["custom_id"],
        "response": None if is_bad else {"status_code": 200, "request_id": f"job_{number}", "body": body},
        "error": error if is_bad else None,
        "penstock": {**ours, "attempt": 1, "worker": "w1", "recipe": None if is_bad else "r1", "timings": {}},
    }
    return json.dumps(value).encode() + b"\n"
