"""Streams over a real server and a real Redis; the test plays the worker with the real event writer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from api.streaming import JobStream
from jobs.events import TextEvent, job_channel
from jobs.records import AttemptRef, Cancelled, Interrupted, Succeeded
from jobs.states import JobState
from jobs.transcript import Kept
from tests.api.stage import NO_REDIS, Frame, LiveServer, claim, frames, generation, run_to_end, text_of
from tests.support.services import RedisServer, wait_until

TEXT = "Skates carve the ice 🏒\nPucks fly; the crowd holds its breath\n"


class Worker:
    """Plays a worker's part in one attempt: claims, sends text, finishes."""

    def __init__(self, live: LiveServer, job_id: str) -> None:
        self.live = live
        self.writer = live.writer
        self.ref: AttemptRef = claim(live.store, job_id)
        self.text = ""
        assert self.writer.state(job_id, JobState.RUNNING, self.ref.number)

    def say(self, piece: str, kept: Kept | None = None) -> None:
        self.text += piece
        event = TextEvent(self.ref.job_id, self.ref.number, len(self.text), piece, self.text, kept=kept or {})
        assert self.writer.text([event])

    def finish(self, continuity: dict[str, Any] | None = None) -> None:
        self.live.store.finish(self.ref, Succeeded(replace(generation(self.text), continuity=continuity)))

    def end(self) -> None:
        self.finish()
        assert self.writer.end(self.ref.job_id, JobState.SUCCEEDED)


def take_until(stream: Iterator[Frame], event: str) -> list[Frame]:
    taken = []
    for frame in stream:
        taken.append(frame)
        if frame.event == event:
            return taken
    raise AssertionError(f"the stream closed before {event}: {taken}")


def take_text(stream: Iterator[Frame], text: str) -> list[Frame]:
    taken: list[Frame] = []
    while text_of(taken) != text:
        taken.append(next(stream))
    return taken


def test_a_job_is_followed_from_queue_to_end(live: LiveServer) -> None:
    job_id = live.submit()
    with live.follow(job_id) as stream:
        first = next(stream)
        assert (first.event, first.data) == ("state", {"state": "queued", "attempt": 0, "queue_position": 0})
        worker = Worker(live, job_id)
        seen = take_until(stream, "state")
        assert seen[-1].data["state"] == "running"
        worker.say(TEXT[:10])
        seen += take_text(stream, TEXT[:10])
        worker.say(TEXT[10:])
        worker.end()
        seen += list(stream)
    assert text_of(seen) == TEXT
    assert [frame.id for frame in seen if frame.event == "text"][-1] == str(len(TEXT))
    assert [frame.data["state"] for frame in seen if frame.event == "state"] == ["running", "succeeded"]
    assert seen[-1].event == "end"
    assert seen[-1].data == live.client.get(f"/v1/jobs/{job_id}").json()


def test_a_late_reader_gets_all_the_text(live: LiveServer) -> None:
    job_id = live.submit()
    worker = Worker(live, job_id)
    worker.say(TEXT)
    with live.follow(job_id) as stream:
        seen = take_text(stream, TEXT)
        worker.end()
        seen += list(stream)
    assert (text_of(seen), seen[-1].event) == (TEXT, "end")


def test_a_finished_job_is_told_from_the_database(live: LiveServer) -> None:
    job_id = live.submit()
    run_to_end(live.store, job_id, TEXT)
    with live.follow(job_id) as stream:
        seen = list(stream)
    assert [frame.event for frame in seen] == ["text", "state", "end"]
    assert text_of(seen) == TEXT


@pytest.mark.parametrize("where", [{"params": {"after": "22"}}, {"headers": {"Last-Event-ID": "22"}}])
def test_a_reader_that_comes_back_gets_the_rest_and_no_more(live: LiveServer, where: dict[str, dict[str, str]]) -> None:
    job_id = live.submit()
    worker = Worker(live, job_id)
    worker.say(TEXT)
    with live.follow(job_id, **where) as stream:
        running = take_until(stream, "text")
    assert running[-1].data == {"seq": len(TEXT), "text": TEXT[22:]}
    worker.end()
    with live.follow(job_id, **where) as stream:
        ended = take_until(stream, "text")
    assert ended[-1].data == {"seq": len(TEXT), "text": TEXT[22:]}


def test_the_header_of_a_reconnect_wins_over_the_url(live: LiveServer) -> None:
    job_id = live.submit()
    run_to_end(live.store, job_id, TEXT)
    with live.follow(job_id, params={"after": "0"}, headers={"Last-Event-ID": "60"}) as stream:
        assert next(stream).data["text"] == TEXT[60:]


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "9" * 13, "٣"])
def test_a_position_that_is_none_is_refused(live: LiveServer, after: str) -> None:
    job_id = live.submit()
    reply = live.client.get(f"/v1/jobs/{job_id}/events", params={"after": after})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "after")


def test_a_position_past_the_end_of_another_text_starts_afresh(live: LiveServer) -> None:
    job_id = live.submit()
    run_to_end(live.store, job_id, "short")
    with live.follow(job_id, params={"after": "99"}) as stream:
        seen = list(stream)
    assert [frame.event for frame in seen][:2] == ["reset", "text"]
    assert text_of(seen) == "short"


def test_a_second_attempt_with_another_text_voids_the_first(live: LiveServer) -> None:
    job_id = live.submit()
    first = Worker(live, job_id)
    first.say("Pucks")
    with live.follow(job_id) as stream:
        seen = take_text(stream, "Pucks")
        live.store.finish(first.ref, Interrupted())
        second = Worker(live, job_id)
        second.say("Skates carve")
        seen += take_until(stream, "text")
        second.end()
        seen += list(stream)
    assert "reset" in [frame.event for frame in seen]
    assert text_of(seen) == "Skates carve"
    assert [frame.id for frame in seen if frame.event == "text"][-1] == "12@2"


def test_a_second_attempt_with_the_same_text_is_not_told_twice(live: LiveServer) -> None:
    job_id = live.submit()
    first = Worker(live, job_id)
    first.say("Skates")
    with live.follow(job_id) as stream:
        seen = take_text(stream, "Skates")
        live.store.finish(first.ref, Interrupted())
        second = Worker(live, job_id)
        second.text = "Skates carve"
        second.end()
        seen += list(stream)
    assert [frame.data["text"] for frame in seen if frame.event == "text"] == ["Skates", " carve"]
    assert "reset" not in [frame.event for frame in seen]


def test_a_stored_text_that_does_not_continue_what_was_told_is_told_anew(live: LiveServer) -> None:
    job_id = live.submit()
    first = Worker(live, job_id)
    first.say("Pucks")
    with live.follow(job_id) as stream:
        seen = take_text(stream, "Pucks")
        live.store.finish(first.ref, Interrupted())
        second = Worker(live, job_id)
        second.text = "Skates carve"
        second.end()
        seen += list(stream)
    assert "reset" in [frame.event for frame in seen]
    assert text_of(seen) == "Skates carve"


def test_a_reader_of_the_first_attempt_that_comes_back_after_the_second_starts_afresh(live: LiveServer) -> None:
    job_id = live.submit()
    live.store.finish(claim(live.store, job_id), Interrupted())
    run_to_end(live.store, job_id, "Skates carve")
    with live.follow(job_id, headers={"Last-Event-ID": "5"}) as stream:
        old = list(stream)
    with live.follow(job_id, headers={"Last-Event-ID": "5@2"}) as stream:
        current = list(stream)
    assert old[0].event == "reset"
    assert text_of(old) == "Skates carve"
    assert (current[0].event, current[0].data["text"]) == ("text", "s carve")


CONTINUED = {"mode": "continued", "from_attempt": 1, "tokens": 3, "kept": {"1": 6}}


def test_a_reader_of_the_first_attempt_goes_on_in_the_second_that_took_its_text_up(live: LiveServer) -> None:
    """While the second runs, and when it has ended; one that has more than was taken up starts afresh."""
    job_id = live.submit()
    live.store.finish(claim(live.store, job_id), Interrupted())
    second = Worker(live, job_id)
    second.say("Skates carve", kept={1: 6})
    seen: list[list[Frame]] = []
    for position in ("6", "7"):
        with live.follow(job_id, headers={"Last-Event-ID": position}) as stream:
            seen.append(take_until(stream, "text"))
    second.finish(CONTINUED)
    for position in ("6", "7"):
        with live.follow(job_id, params={"after": position}) as stream:
            seen.append(take_until(stream, "text"))
    within, beyond = seen[::2], seen[1::2]
    assert [frames[-1].data for frames in within] == [{"seq": 12, "text": " carve"}] * 2
    assert [frames[-1].data for frames in beyond] == [{"seq": 12, "text": "Skates carve"}] * 2
    assert [[frame.event for frame in frames if frame.event == "reset"] for frames in seen] == [[], ["reset"]] * 2
    assert {frames[-1].id for frames in seen} == {"12@2"}


def test_a_reader_whose_attempt_was_lost_with_the_snapshot_starts_afresh(live: LiveServer) -> None:
    """Nobody can know whether the next attempt says the same."""
    job_id = live.submit()
    first = Worker(live, job_id)
    first.say("Pucks")
    with live.follow(job_id) as stream:
        take_text(stream, "Pucks")
    live.redis.flushall()
    live.store.finish(first.ref, Interrupted())
    second = Worker(live, job_id)
    second.say("Skates carve")
    with live.follow(job_id, headers={"Last-Event-ID": "5"}) as stream:
        seen = take_until(stream, "text")
    assert [frame.event for frame in seen][-2:] == ["reset", "text"]
    assert seen[-1].data["text"] == "Skates carve"


def test_an_end_whose_message_was_lost_is_found_in_the_row(live: LiveServer) -> None:
    job_id = live.submit()
    worker = Worker(live, job_id)
    with live.follow(job_id) as stream:
        worker.say(TEXT)
        seen = take_text(stream, TEXT)
        worker.finish()
        seen += list(stream)
    assert seen[-1].event == "end"
    assert text_of(seen) == TEXT


def test_an_end_between_the_first_read_and_the_subscription_is_found_when_it_begins(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.streaming.FIRST_LOOKS_SECONDS", ())
    monkeypatch.setattr("api.streaming.LOOK_SECONDS", 3600.0)
    job_id = live.submit()
    listen = JobStream._live

    async def end_then_listen(stream: JobStream) -> AsyncGenerator[bytes]:
        await asyncio.to_thread(run_to_end, live.store, job_id, TEXT)
        async for piece in listen(stream):
            yield piece

    monkeypatch.setattr(JobStream, "_live", end_then_listen)
    with live.follow(job_id) as stream:
        seen = list(stream)
    assert (text_of(seen), seen[-1].event) == (TEXT, "end")


def test_a_reader_that_subscribes_between_the_commit_and_the_end_event_ends_once(live: LiveServer) -> None:
    job_id = live.submit()
    worker = Worker(live, job_id)
    worker.say(TEXT)
    worker.finish()
    with live.follow(job_id) as stream:
        seen = list(stream)
    assert live.writer.end(job_id, JobState.SUCCEEDED)
    assert (text_of(seen), [frame.event for frame in seen].count("end")) == (TEXT, 1)


def test_text_that_redis_never_told_comes_with_the_end(live: LiveServer) -> None:
    job_id = live.submit()
    worker = Worker(live, job_id)
    with live.follow(job_id) as stream:
        worker.say(TEXT[:10])
        seen = take_text(stream, TEXT[:10])
        worker.text = TEXT
        worker.end()
        seen += list(stream)
    assert text_of(seen) == TEXT


def test_a_job_that_is_cancelled_while_it_waits_ends_its_stream(live: LiveServer) -> None:
    job_id = live.submit()
    with live.follow(job_id) as stream:
        assert next(stream).data["state"] == "queued"
        live.client.post(f"/v1/jobs/{job_id}/cancel")
        seen = list(stream)
    assert (seen[-1].event, seen[-1].data["state"]) == ("end", "cancelled")


def test_a_cancelled_job_tells_the_text_it_had(live: LiveServer) -> None:
    job_id = live.submit()
    live.store.finish(claim(live.store, job_id), Cancelled(generation("Half a")))
    with live.follow(job_id) as stream:
        seen = list(stream)
    assert (text_of(seen), seen[-1].data["state"]) == ("Half a", "cancelled")


def test_many_readers_of_one_job_read_the_same(live: LiveServer) -> None:
    job_id = live.submit()
    texts: list[str] = []
    started = threading.Barrier(11)

    def read() -> None:
        with live.follow(job_id) as stream:
            first = next(stream)
            started.wait(20)
            texts.append(text_of([first, *stream]))

    threads = [threading.Thread(target=read) for _ in range(10)]
    for thread in threads:
        thread.start()
    started.wait(20)
    worker = Worker(live, job_id)
    for character in TEXT:
        worker.say(character)
    worker.end()
    for thread in threads:
        thread.join(20)
    assert texts == [TEXT] * 10


def test_readers_that_leave_free_everything(live: LiveServer) -> None:
    """Also those that leave while they are still being subscribed: a cancel can be lost there."""
    job_id = live.submit()
    for _ in range(20):
        with live.follow(job_id) as stream:
            next(stream)
    wait_until(lambda: live.redis.pubsub_numsub(job_channel(job_id)) == [(job_channel(job_id).encode(), 0)])


def test_without_redis_a_stream_ends_with_an_error_and_not_with_an_end(start_server: Callable[..., LiveServer]) -> None:
    live = start_server(redis_url=NO_REDIS)
    job_id = live.submit()
    with live.follow(job_id) as stream:
        seen = list(stream)
    assert [frame.event for frame in seen] == ["state", "error"]
    assert seen[-1].data["error"]["code"] == "queue_unavailable"
    assert set(seen[-1].data["error"]) == {"message", "type", "param", "code"}
    run_to_end(live.store, job_id, TEXT)
    with live.follow(job_id) as stream:
        assert text_of(list(stream)) == TEXT


def test_when_redis_dies_a_stream_is_cut_with_an_error_and_can_be_resumed(
    start_server: Callable[..., LiveServer], own_redis_server: RedisServer
) -> None:
    live = start_server(redis_url=own_redis_server.url)
    job_id = live.submit()
    worker = Worker(live, job_id)
    worker.say(TEXT[:10])
    with live.follow(job_id) as stream:
        seen = take_text(stream, TEXT[:10])
        own_redis_server.stop()
        seen += list(stream)
    assert seen[-1].event == "error"
    worker.text = TEXT
    worker.finish()
    with live.follow(job_id, headers={"Last-Event-ID": "10"}) as stream:
        rest = list(stream)
    assert TEXT[:10] + rest[0].data["text"] == TEXT
    assert rest[-1].event == "end"


def test_a_stopping_server_ends_its_streams_with_an_error_and_at_once(live: LiveServer) -> None:
    job_id = live.submit()
    with live.follow(job_id) as stream:
        next(stream)
        live.begin_stop()
        seen = list(stream)
    assert [frame.event for frame in seen] == ["error"]
    assert seen[-1].data["error"]["code"] == "server_stopping"
    wait_until(lambda: not live.running)


def test_a_ping_is_glued_to_the_next_frame(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.streaming.PING_SECONDS", 0.02)
    job_id = live.submit()
    worker = Worker(live, job_id)
    raw = b""
    with live.client.stream("GET", f"/v1/jobs/{job_id}/events") as reply:
        for chunk in reply.iter_raw():
            raw += chunk
            if raw.count(b": ping\n") >= 3 and not worker.text:
                worker.say("Ice")
                worker.end()
    assert raw.count(b": ping\n") >= 3
    assert b": ping\n\n" not in raw
    assert b"retry:" not in raw
    assert text_of(list(frames(iter([raw])))) == "Ice"


def test_a_stream_says_that_nobody_may_keep_or_hold_it(live: LiveServer) -> None:
    job_id = live.submit()
    run_to_end(live.store, job_id)
    headers = live.client.get(f"/v1/jobs/{job_id}/events").headers
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")


def test_a_reader_that_never_reads_does_not_hold_up_the_server(live: LiveServer) -> None:
    job_id = live.submit()
    worker = Worker(live, job_id)
    with (
        httpx.Client(base_url=live.server.url, trust_env=False) as idle,
        idle.stream("GET", f"/v1/jobs/{job_id}/events"),
    ):
        for _ in range(600):
            worker.say("x" * 1000)
        worker.end()
        with live.follow(job_id) as stream:
            assert len(text_of(list(stream))) == 600_000
