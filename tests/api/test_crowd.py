"""More requests than the API answers at once: refused at the door, told when to come back, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from api.crowd import Crowd
from tests.api.stage import Api, LiveServer
from tests.support.services import wait_until

Messages = list[dict[str, Any]]


class Waiting:
    """An application that answers when it is told to."""

    def __init__(self, content_type: bytes = b"application/json") -> None:
        self.go = asyncio.Event()
        self.num_inside = 0
        self.most_inside = 0
        self._content_type = content_type

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.num_inside += 1
        self.most_inside = max(self.most_inside, self.num_inside)
        try:
            await receive()
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", self._content_type)]}
            )
            await self.go.wait()
            await send({"type": "http.response.body"})
        finally:
            self.num_inside -= 1


async def call(crowd: Crowd, path: str = "/v1/jobs", method: str = "POST", body: bytes = b"x" * 10) -> Messages:
    sent: Messages = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        sent.append(message)

    await crowd({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
    return sent


async def several(crowd: Crowd, inside: Waiting, number: int, **request: Any) -> list[Messages]:
    """Calls at once; the application lets go when it has all that it gets."""
    calls = [asyncio.create_task(call(crowd, **request)) for _ in range(number)]
    for _ in range(number):
        await asyncio.sleep(0)
    inside.go.set()
    return await asyncio.gather(*calls)


def statuses(answers: list[Messages]) -> list[int]:
    return sorted(answer[0]["status"] for answer in answers)


def test_what_is_one_too_many_is_told_to_come_back() -> None:
    async def run() -> None:
        inside = Waiting()
        crowd = Crowd(inside, max_requests=3, max_body_bytes=1000)
        answers = await several(crowd, inside, 5)
        assert statuses(answers) == [200, 200, 200, 503, 503]
        refused = next(answer for answer in answers if answer[0]["status"] == 503)
        assert dict(refused[0]["headers"])[b"retry-after"] == b"2"
        assert json.loads(refused[1]["body"])["error"]["code"] == "overloaded"
        assert statuses(await several(crowd, inside, 3)) == [200, 200, 200]

    asyncio.run(run())


def test_live_completions_leave_room_for_other_requests_and_health_checks_always_have_some() -> None:
    async def run() -> None:
        inside = Waiting()
        crowd = Crowd(inside, max_requests=1, max_body_bytes=1000)
        held = asyncio.create_task(call(crowd, path="/v1/chat/completions"))
        await asyncio.sleep(0)
        others = [("/v1/responses", 503), ("/v1/jobs", 200), ("/health/live", 200)]
        calls = [(asyncio.create_task(call(crowd, path=path)), status) for path, status in others]
        await asyncio.sleep(0)
        inside.go.set()
        assert [(await answer)[0]["status"] for answer, _ in calls] == [status for _, status in calls]
        await held

    asyncio.run(run())


def test_readers_of_streams_are_not_counted_once_their_stream_has_begun() -> None:
    async def run() -> None:
        inside = Waiting(b"text/event-stream; charset=utf-8")
        crowd = Crowd(inside, max_requests=1, max_body_bytes=1000)
        readers = []
        for _ in range(5):
            readers.append(asyncio.create_task(call(crowd, path="/v1/jobs/x/events", method="GET", body=b"")))
            await asyncio.sleep(0)
        assert inside.num_inside == 5
        inside.go.set()
        assert statuses(await asyncio.gather(*readers)) == [200] * 5

    asyncio.run(run())


def test_bodies_together_are_bounded_and_given_back() -> None:
    async def run() -> None:
        inside = Waiting()
        crowd = Crowd(_refusing(inside), max_requests=100, max_body_bytes=25)
        assert statuses(await several(crowd, inside, 4)) == [200, 200, 503, 503]
        assert statuses(await several(crowd, inside, 2)) == [200, 200]
        assert statuses(await several(crowd, inside, 4, path="/v1/files")) == [200] * 4

    asyncio.run(run())


def _refusing(app: Waiting) -> Any:
    """What FastAPI's handlers do with a refusal."""
    from api.errors import Refusal, answer_for

    async def handled(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except Refusal as refusal:
            await answer_for(refusal)(scope, receive, send)

    return handled


def test_a_crowd_at_a_real_server_gets_answers_or_refusals_and_every_answer_is_stored(
    start_server: Callable[..., LiveServer],
) -> None:
    live = start_server(max_requests=2)
    replies: list[tuple[int, Any]] = []

    def post() -> None:
        reply = live.client.post("/v1/jobs", json={"prompt": "Ice"})
        replies.append((reply.status_code, reply.json()))

    threads = [threading.Thread(target=post) for _ in range(24)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(replies) == 24, 30)
    assert {status for status, _ in replies} <= {202, 503}
    taken = {body["id"] for status, body in replies if status == 202}
    assert taken == {job.id for job in live.store.list_jobs(limit=100)[0]}


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "x-unknown"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/chat/completions", "/v1/batches", "/v1/webhooks", "/v1/responses"])
def test_a_compressed_body_is_refused_by_its_name(api: Api, path: str, encoding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    reply = api.client.post(path, content=b"\x1f\x8b\x08", headers=headers)
    assert (reply.status_code, reply.json()["error"]["param"]) == (415, "Content-Encoding")
