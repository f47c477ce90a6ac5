"""Files and batches through OpenAI's own clients, of three major versions, unchanged but for their base URL."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.batch_stage import CHAT, Office, chat_line, jsonl
from tests.api.stage import LiveServer
from tests.support.dropping_proxy import DroppingProxy
from tests.support.openai_clients import VERSIONS, OpenAIClient, OpenAIFailed


class Desk:
    """A client, the server it talks to through a network that may fail, and the clerk behind that."""

    def __init__(self, version: str, live: LiveServer) -> None:
        self.live = live
        self.proxy = DroppingProxy(live.server.url)
        self.client = OpenAIClient(version, self.proxy.url)
        self.clerk = Office(live.server.app.state.services.settings, live.store, live.redis)

    def upload(self, path: Path, lines: list[Any]) -> dict[str, Any]:
        path.write_bytes(jsonl(lines))
        return dict(self.client.call("files.create", path=str(path), purpose="batch"))

    def create(self, file_id: str, **options: Any) -> dict[str, Any]:
        asked = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"} | options
        return dict(self.client.call("batches.create", **asked))


@pytest.fixture(params=VERSIONS)
def desk(request: pytest.FixtureRequest, start_server: Callable[..., LiveServer]) -> Iterator[Desk]:
    made = Desk(request.param, start_server())
    assert made.client.call("version") == request.param
    yield made
    made.client.close()
    made.proxy.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


def test_a_batch_from_the_upload_to_the_results(desk: Desk, path: Path) -> None:
    file = desk.upload(path, [chat_line("a"), chat_line("b", max_tokens=-1), chat_line("c")])
    assert (file["object"], file["purpose"], file["filename"], file["status"]) == (
        "file",
        "batch",
        "in.jsonl",
        "processed",
    )
    made = desk.create(file["id"], metadata={"run": "1"})
    assert (made["object"], made["status"], made["metadata"]) == ("batch", "validating", {"run": "1"})
    desk.clerk.work()
    assert desk.client.call("batches.retrieve", made["id"])["status"] == "in_progress"
    desk.clerk.run(made["id"])
    desk.clerk.work()
    done = desk.client.call("batches.retrieve", made["id"])
    assert (done["status"], done["request_counts"]) == ("completed", {"total": 3, "completed": 2, "failed": 1})
    lines = [json.loads(line) for line in desk.client.call("files.content", done["output_file_id"]).splitlines()]
    assert [line["custom_id"] for line in lines] == ["a", "c"]
    body = lines[0]["response"]["body"]
    assert (body["object"], body["choices"][0]["message"]["role"]) == ("chat.completion", "assistant")
    (error,) = [json.loads(line) for line in desk.client.call("files.content", done["error_file_id"]).splitlines()]
    assert (error["custom_id"], error["error"]["code"]) == ("b", "invalid_value")


def test_lists_page_by_themselves(desk: Desk, path: Path) -> None:
    file_ids = [desk.upload(path, [chat_line(str(n))])["id"] for n in range(5)]
    batch_ids = [desk.create(file_id)["id"] for file_id in file_ids]
    assert [file["id"] for file in desk.client.call("files.list", every=True, limit=2)] == file_ids[::-1]
    assert [file["id"] for file in desk.client.call("files.list", every=True, limit=2, order="asc")] == file_ids
    assert [batch["id"] for batch in desk.client.call("batches.list", every=True, limit=2)] == batch_ids[::-1]


def test_cancel_and_delete(desk: Desk, path: Path) -> None:
    file = desk.upload(path, [chat_line("a"), chat_line("b")])
    made = desk.create(file["id"])
    desk.clerk.work()
    assert desk.client.call("batches.cancel", made["id"])["status"] in {"cancelling", "cancelled"}
    desk.clerk.work()
    done = desk.client.call("batches.retrieve", made["id"])
    assert (done["status"], done["output_file_id"]) == ("cancelled", None)
    lines = [json.loads(line) for line in desk.client.call("files.content", done["error_file_id"]).splitlines()]
    assert [(line["custom_id"], line["response"], line["error"]["code"]) for line in lines] == [
        ("a", None, "batch_cancelled"),
        ("b", None, "batch_cancelled"),
    ]
    assert desk.client.call("files.delete", file["id"]) == {"id": file["id"], "object": "file", "deleted": True}
    with pytest.raises(OpenAIFailed) as gone:
        desk.client.call("files.retrieve", file["id"])
    assert (gone.value.kind, gone.value.status) == ("NotFoundError", 404)


def test_errors_are_the_clients_own(desk: Desk, path: Path) -> None:
    file = desk.upload(path, [chat_line("a")])
    with pytest.raises(OpenAIFailed) as wrong:
        desk.create(file["id"], completion_window="soon")
    assert (wrong.value.kind, wrong.value.status, wrong.value.param) == ("BadRequestError", 400, "completion_window")
    with pytest.raises(OpenAIFailed) as missing:
        desk.create("file-" + "0" * 32)
    assert (missing.value.kind, missing.value.code) == ("NotFoundError", "not_found")
    path.write_bytes(b"")
    with pytest.raises(OpenAIFailed) as empty:
        desk.client.call("files.create", path=str(path), purpose="batch")
    assert (empty.value.kind, empty.value.code) == ("BadRequestError", "empty_file")


def test_a_conflict_is_not_repeated(desk: Desk, path: Path) -> None:
    file = desk.upload(path, [chat_line("a")])
    headers = {"Idempotency-Key": "k"}
    first = desk.create(file["id"], extra_headers=headers)
    assert desk.create(file["id"], extra_headers=headers)["id"] == first["id"]
    with pytest.raises(OpenAIFailed) as conflict:
        desk.create(file["id"], completion_window="1h", extra_headers=headers)
    assert (conflict.value.kind, conflict.value.code) == ("ConflictError", "idempotency_conflict")


def test_an_answer_that_is_lost_makes_no_second_object(desk: Desk, path: Path) -> None:
    """The client sends the same again by itself, with no key."""
    desk.proxy.num_to_drop = 1
    file = desk.upload(path, [chat_line("a")])
    desk.proxy.num_to_drop = 2
    made = desk.create(file["id"])
    assert desk.proxy.num_to_drop == 0
    assert [one.id for one in desk.live.store.list_files()[0]] == [file["id"]]
    assert [one.id for one in desk.live.store.list_batches()[0]] == [made["id"]]


def test_an_expiry_is_asked_for_as_the_client_does(desk: Desk, path: Path) -> None:
    path.write_bytes(jsonl([chat_line("a")]))
    options = {"expires_after": {"anchor": "created_at", "seconds": 3600}}
    file = desk.client.call("files.create", path=str(path), purpose="batch", **options)
    assert file["expires_at"] - file["created_at"] == 3600
    made = desk.create(file["id"], output_expires_after={"anchor": "created_at", "seconds": 7200})
    desk.clerk.work()
    desk.clerk.run(made["id"])
    desk.clerk.work()
    output = desk.client.call("files.retrieve", desk.client.call("batches.retrieve", made["id"])["output_file_id"])
    assert output["expires_at"] - output["created_at"] == 7200
