"""Batch lines cost nothing while nobody listens, and lose nothing when somebody does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jobs.events import open_redis
from jobs.interest import FOLLOW_CHANNEL, Interest
from jobs.records import Succeeded
from jobs.states import JobState
from tests.api.stage import Frame, LiveServer, claim, generation, text_of
from tests.api.test_streams import take_text, take_until
from tests.support.services import RedisServer, wait_until
from worker.broadcast import Broadcaster
from worker.engine.generation import TextDelta
from worker.listener import Listener

TEXT = "Skates carve the ice 🏒\nPucks fly\n"


class LineWorker:
    """A worker's listener and broadcaster, and one batch line at a time."""

    def __init__(self, live: LiveServer, url: str) -> None:
        self.live = live
        interest = Interest()
        self.interest = interest
        self.broadcaster = Broadcaster(live.writer, 0.01, interest=interest)
        self.listener = Listener(open_redis(url), {FOLLOW_CHANNEL: interest.hear}, live.writer.call_readers)
        self.broadcaster.start()
        self.listener.start()
        assert self.listener.listening.wait(20)

    def take(self, job_id: str) -> None:
        self.ref, self.text = claim(self.live.store, job_id), ""
        self.broadcaster.open(job_id, self.ref, on_demand=True)

    def say(self, piece: str) -> None:
        self.text += piece
        self.broadcaster.deltas([TextDelta(self.ref.job_id, piece, len(self.text))])

    def close(self) -> None:
        self.broadcaster.close(self.ref.job_id)

    def commit(self) -> None:
        self.live.store.finish(self.ref, Succeeded(generation(self.text)))

    def tell_end(self) -> None:
        self.broadcaster.ended(self.ref.job_id, JobState.SUCCEEDED)

    def end(self) -> None:
        self.close()
        self.commit()
        self.tell_end()

    def stop(self) -> None:
        self.listener.stop()
        self.broadcaster.stop()


@pytest.fixture(autouse=True)
def _only_events_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look at the row by the clock: what these tests see was told, or found when the subscription began."""
    monkeypatch.setattr("api.streaming.FIRST_LOOKS_SECONDS", ())
    monkeypatch.setattr("api.streaming.LOOK_SECONDS", 3600.0)


@pytest.fixture
def hire() -> Iterator[Callable[..., LineWorker]]:
    hired: list[LineWorker] = []

    def make(live: LiveServer, url: str) -> LineWorker:
        hired.append(LineWorker(live, url))
        return hired[-1]

    yield make
    for worker in hired:
        worker.stop()


@pytest.fixture
def worker(live: LiveServer, redis_url: str, hire: Callable[..., LineWorker]) -> LineWorker:
    return hire(live, redis_url)


def submit_line(live: LiveServer) -> str:
    reply = live.client.post("/v1/jobs", json={"jobs": [{"prompt": "Ice"}]})
    return str(reply.json()["data"][0]["id"])


def read_on(stream: Iterator[Frame], seen: list[Frame], text: str) -> None:
    while text_of(seen) != text:
        seen.append(next(stream))


def keys(live: LiveServer) -> list[Any]:
    return list(live.redis.keys("penstock:job:*"))


def test_lines_that_nobody_follows_leave_no_key(live: LiveServer, worker: LineWorker) -> None:
    for _ in range(20):
        worker.take(submit_line(live))
        worker.say(TEXT)
        worker.end()
    worker.stop()
    assert keys(live) == []


def test_a_line_followed_in_the_middle_has_no_gap_and_no_repeat(live: LiveServer, worker: LineWorker) -> None:
    job_id = submit_line(live)
    worker.take(job_id)
    worker.say(TEXT[:10])
    with live.follow(job_id) as stream:
        seen = take_text(stream, TEXT[:10])
        for character in TEXT[10:]:
            worker.say(character)
        read_on(stream, seen, TEXT)
        worker.end()
        seen += list(stream)
    assert (text_of(seen), seen[-1].event) == (TEXT, "end")


def test_a_line_followed_while_it_waits_is_told_from_its_start(live: LiveServer, worker: LineWorker) -> None:
    job_id = submit_line(live)
    with live.follow(job_id) as stream:
        assert next(stream).data["state"] == "queued"
        wait_until(lambda: worker.interest.wants(job_id))
        worker.take(job_id)
        seen = take_until(stream, "state")
        assert seen[-1].data == {"state": "running", "attempt": 1}
        worker.say(TEXT)
        seen += take_text(stream, TEXT)
        worker.end()
        seen += list(stream)
    assert (text_of(seen), seen[-1].event) == (TEXT, "end")


def test_a_line_claimed_after_the_look_and_before_the_worker_heard_still_tells_that_it_runs(
    live: LiveServer, worker: LineWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The announcement is on its way while the claim happens."""
    job_id = submit_line(live)
    late: list[str] = []
    heard = worker.interest.hear
    monkeypatch.setitem(worker.listener._hearers, FOLLOW_CHANNEL, late.append)
    with live.follow(job_id) as stream:
        assert next(stream).data["state"] == "queued"
        wait_until(lambda: late)
        worker.take(job_id)
        worker.say("Ice")
        worker.broadcaster.flush()
        heard(late[0])
        seen = take_text(stream, "Ice")
        assert "running" in [frame.data["state"] for frame in seen if frame.event == "state"]
        worker.end()
        assert list(stream)[-1].event == "end"


def test_a_line_that_ends_before_its_worker_heard_of_the_reader_is_told_to_end(
    live: LiveServer, worker: LineWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit_line(live)
    deaf: list[str] = []
    monkeypatch.setitem(worker.listener._hearers, FOLLOW_CHANNEL, deaf.append)
    worker.take(job_id)
    worker.say(TEXT)
    with live.follow(job_id) as stream:
        assert next(stream).data["state"] == "running"
        wait_until(lambda: deaf)
        worker.end()
        seen = list(stream)
    assert (text_of(seen), seen[-1].event) == (TEXT, "end")


def test_a_reader_that_comes_between_the_last_text_and_the_commit_gets_all(
    live: LiveServer, worker: LineWorker
) -> None:
    job_id = submit_line(live)
    worker.take(job_id)
    worker.say(TEXT)
    worker.close()
    with live.follow(job_id) as stream:
        assert next(stream).data["state"] == "running"
        wait_until(lambda: worker.interest.wants(job_id))
        worker.commit()
        worker.tell_end()
        seen = list(stream)
    assert (text_of(seen), seen[-1].event) == (TEXT, "end")


def test_a_reader_that_comes_between_the_commit_and_the_end_event_gets_all(
    live: LiveServer, worker: LineWorker
) -> None:
    job_id = submit_line(live)
    worker.take(job_id)
    worker.say(TEXT)
    worker.close()
    worker.commit()
    with live.follow(job_id) as stream:
        seen = list(stream)
    worker.tell_end()
    assert (text_of(seen), seen[-1].event) == (TEXT, "end")


def test_a_second_reader_of_a_followed_line_gets_what_the_first_has(live: LiveServer, worker: LineWorker) -> None:
    job_id = submit_line(live)
    worker.take(job_id)
    worker.say(TEXT[:10])
    with live.follow(job_id) as first:
        seen = take_text(first, TEXT[:10])
        with live.follow(job_id) as second:
            other = take_text(second, TEXT[:10])
            worker.say(TEXT[10:])
            worker.end()
            seen += list(first)
            other += list(second)
    assert (text_of(seen), text_of(other)) == (TEXT, TEXT)


def test_what_a_followed_line_leaves_is_gone_soon(live: LiveServer, worker: LineWorker) -> None:
    job_id = submit_line(live)
    worker.take(job_id)
    worker.say(TEXT)
    with live.follow(job_id) as stream:
        take_text(stream, TEXT)
        worker.end()
        list(stream)
    assert all(0 < live.redis.ttl(key) <= 60 for key in keys(live))


def test_a_followed_line_goes_on_after_a_restart_of_redis(
    start_server: Callable[..., LiveServer], own_redis_server: RedisServer, hire: Callable[..., LineWorker]
) -> None:
    live = start_server(redis_url=own_redis_server.url)
    worker = hire(live, own_redis_server.url)
    job_id = submit_line(live)
    worker.take(job_id)
    with live.follow(job_id) as stream:
        wait_until(lambda: worker.interest.wants(job_id))
        worker.say(TEXT[:10])
        seen = take_text(stream, TEXT[:10])
        own_redis_server.stop()
        worker.interest._until.clear()
        own_redis_server.start()
        wait_until(lambda: worker.interest.wants(job_id))
        worker.say(TEXT[10:])
        read_on(stream, seen, TEXT)
        worker.end()
        seen += list(stream)
    assert (text_of(seen), seen[-1].event) == (TEXT, "end")
