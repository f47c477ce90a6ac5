"""Following a batch: its lines as they end, from any cursor on, and its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tests.api.batch_stage import Office, chat_line, created
from tests.api.stage import Api, Frame, LiveServer, frames
from tests.support.services import wait_until


@pytest.fixture
def server(start_server: Callable[..., LiveServer]) -> Any:
    """A live server with what the helpers of batches need."""
    live = start_server()
    settings = live.server.app.state.services.settings
    clerk = Office(settings, live.store, live.redis)
    return SimpleNamespace(live=live, client=live.client, store=live.store, settings=settings, clerk=clerk)


@contextmanager
def follow(server: Any, batch_id: str, **request: Any) -> Iterator[Iterator[Frame]]:
    with server.client.stream("GET", f"/v1/batches/{batch_id}/events", **request) as reply:
        assert reply.status_code == 200, reply.read()
        yield frames(reply.iter_raw())


def make(server: Any, num_lines: int) -> str:
    batch_id = str(created(server, [chat_line(str(n)) for n in range(num_lines)])["id"])
    server.clerk.work()
    return batch_id


def test_lines_come_as_they_end_and_the_stream_ends_with_the_batch(server: Any) -> None:
    batch_id = make(server, 3)
    with follow(server, batch_id) as stream:
        first = next(stream)
        assert (first.event, first.data["status"], first.data["counts"]["queued"]) == ("progress", "in_progress", 3)
        server.clerk.run(batch_id, leave=2)
        line = next(stream)
        assert (line.event, line.id, line.data["custom_id"], line.data["penstock"]["state"]) == (
            "line",
            "1",
            "0",
            "succeeded",
        )
        server.clerk.run(batch_id, fail=1)
        server.clerk.work()
        rest = list(stream)
    assert [(frame.id, frame.data["custom_id"]) for frame in rest if frame.event == "line"] == [("2", "1"), ("3", "2")]
    assert [frame.event for frame in rest].count("end") == 1
    assert (rest[-1].event, rest[-1].data["status"]) == ("end", "completed")
    assert rest[-1].data == server.client.get(f"/v1/batches/{batch_id}").json() | {
        "lines_per_second": None,
        "tokens_per_second": None,
        "eta_seconds": None,
    }


def test_a_batch_that_has_ended_is_told_whole_and_as_its_files_are(server: Any) -> None:
    batch_id = make(server, 250)
    server.clerk.run(batch_id, fail=2)
    server.clerk.work()
    with follow(server, batch_id) as stream:
        told = list(stream)
    lines = [frame for frame in told if frame.event == "line"]
    assert [frame.id for frame in lines] == [str(n) for n in range(1, 251)]
    done = server.client.get(f"/v1/batches/{batch_id}").json()
    in_files = [
        json.loads(line)
        for file_id in (done["error_file_id"], done["output_file_id"])
        for line in server.client.get(f"/v1/files/{file_id}/content").text.splitlines()
    ]
    assert [frame.data for frame in lines] == in_files


@pytest.mark.parametrize("how", [{"headers": {"Last-Event-ID": "2"}}, {"params": {"after": "2"}}])
def test_a_reader_that_comes_back_goes_on_where_it_was(server: Any, how: dict[str, Any]) -> None:
    batch_id = make(server, 4)
    server.clerk.run(batch_id)
    server.clerk.work()
    with follow(server, batch_id, **how) as stream:
        assert [frame.id for frame in stream if frame.event == "line"] == ["3", "4"]


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "9" * 11])
def test_a_wrong_cursor_is_refused(api: Api, cursor: str) -> None:
    batch = created(api, [chat_line("a")])
    reply = api.client.get(f"/v1/batches/{batch['id']}/events?after={cursor}")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "after")


def test_a_batch_that_is_not_there_cannot_be_followed(api: Api) -> None:
    assert api.client.get(f"/v1/batches/batch_{'0' * 32}/events").status_code == 404


def test_a_batch_that_failed_ends_its_stream_at_once(api: Api) -> None:
    batch = created(api, [b"{"])
    told = api.client.get(f"/v1/batches/{batch['id']}/events").text
    assert [line for line in told.splitlines() if line.startswith("event")] == ["event: progress", "event: end"]


def test_lines_that_run_again_come_again_under_new_numbers(server: Any) -> None:
    batch_id = make(server, 2)
    server.clerk.run(batch_id, fail=1)
    server.clerk.work()
    server.client.post(f"/v1/batches/{batch_id}/retry")
    server.clerk.work()
    server.clerk.run(batch_id)
    server.clerk.work()
    with follow(server, batch_id) as stream:
        lines = [frame for frame in stream if frame.event == "line"]
    assert [frame.data["custom_id"] for frame in lines] == ["1", "0"]
    assert int(lines[0].id or 0) < int(lines[1].id or 0)


def test_a_hundred_readers_ask_the_database_as_often_as_one(server: Any) -> None:
    batch_id = make(server, 20)
    asked = []
    store = server.live.server.app.state.services.store
    plain = store.ended_lines
    store.ended_lines = lambda *args, **more: asked.append(args) or plain(*args, **more)

    def read(_: int) -> list[str | None]:
        with follow(server, batch_id) as stream:
            return [frame.id for frame in stream if frame.event == "line"]

    watches = server.live.server.app.state.services.watches
    with ThreadPoolExecutor(100) as pool:
        readers = [pool.submit(read, n) for n in range(100)]
        wait_until(lambda: watches.num_readers(batch_id) == 100)
        server.clerk.run(batch_id)
        server.clerk.work()
        assert all(reader.result(30) == [str(n) for n in range(1, 21)] for reader in readers)
    assert len(asked) < 25
    wait_until(lambda: watches.num_readers(batch_id) == 0)


def test_a_server_that_stops_says_so(server: Any) -> None:
    batch_id = make(server, 1)
    with follow(server, batch_id) as stream:
        assert next(stream).event == "progress"
        server.live.begin_stop()
        last = list(stream)[-1]
    assert (last.event, last.data["error"]["code"]) == ("error", "server_stopping")
