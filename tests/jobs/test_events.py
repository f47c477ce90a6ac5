"""Events on a real Redis: late readers, slow readers, many readers, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis as AsyncRedis

from jobs.errors import QueueUnavailable
from jobs.events import (
    CANCEL_CHANNEL,
    END_SECONDS,
    ENDS_A_TRIP,
    EventReader,
    EventWriter,
    end_key,
    job_channel,
    open_async_redis,
    open_redis,
    snapshot_key,
)
from jobs.fanout import STALE, Mailbox
from jobs.states import JobState
from tests.support.services import RedisServer, wait_until

JOB = "job_1"

Scenario = Callable[["Stage"], Awaitable[None]]


class Stage:
    """A writer, a reader, and what readers were told."""

    def __init__(self, url: str, **reader_options: Any) -> None:
        self.url = url
        self.writer = EventWriter(open_redis(url))
        self.redis: AsyncRedis = open_async_redis(url)
        self.reader = EventReader(self.redis, **reader_options)
        self._text: dict[int, str] = {}
        self._followings: list[Following] = []

    def write(self, text: str, attempt: int = 1) -> None:
        whole = self._text.get(attempt, "") + text
        self._text[attempt] = whole
        assert self.writer.text([(JOB, attempt, len(whole), text, whole)])

    def follow(self, after: int = 0) -> Following:
        self._followings.append(Following(self.reader, after))
        return self._followings[-1]

    async def subscribed(self, number: int = 1) -> None:
        """Wait until Redis knows of our subscription, and every reader has seen what was there before."""
        for _ in range(2000):
            if (await self.redis.pubsub_numsub(job_channel(JOB)))[0][1] == number:
                break
            await asyncio.sleep(0.005)
        else:
            raise AssertionError("nobody subscribed")
        for following in self._followings:
            await following.listening.wait()


class Following:
    """One reader in a task, with all it was told so far."""

    def __init__(self, reader: EventReader, after: int) -> None:
        self.events: list[dict[str, Any]] = []
        self.listening = asyncio.Event()
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._run(reader, after))

    async def _run(self, reader: EventReader, after: int) -> None:
        async for event in reader.follow(JOB, after, tell_listening=True):
            if event["type"] == "listening":
                self.listening.set()
            else:
                self.events.append(event)
                self._news.set()

    @property
    def text(self) -> str:
        return "".join(event["text"] for event in self.events if event["type"] == "text")

    async def until(self, happened: Callable[[Following], bool]) -> None:
        async with asyncio.timeout(10):
            while not happened(self):
                self._news.clear()
                await self._news.wait()

    async def ended(self) -> None:
        async with asyncio.timeout(10):
            await self.task


def play(url: str, scenario: Scenario, **reader_options: Any) -> None:
    """Run a scenario in an event loop of its own, and close what it opened."""

    async def run() -> None:
        stage = Stage(url, **reader_options)
        try:
            await scenario(stage)
        finally:
            await stage.reader.aclose()
            await stage.redis.aclose()

    asyncio.run(run())


def test_a_reader_hears_text_states_and_the_end(redis_url: str) -> None:
    async def scenario(stage: Stage) -> None:
        following = stage.follow()
        await stage.subscribed()
        stage.writer.state(JOB, JobState.RUNNING, 1)
        stage.write("ice ")
        stage.write("🏒")
        stage.writer.end(JOB, JobState.SUCCEEDED)
        await following.ended()
        assert following.events == [
            {"type": "state", "state": "running", "attempt": 1},
            {"type": "text", "attempt": 1, "seq": 4, "text": "ice "},
            {"type": "text", "attempt": 1, "seq": 5, "text": "🏒"},
            {"type": "end", "state": "succeeded"},
        ]

    play(redis_url, scenario)


def test_a_late_reader_misses_nothing(redis_url: str) -> None:
    async def scenario(stage: Stage) -> None:
        stage.write("one ")
        stage.write("two ")
        following = stage.follow()
        await following.until(lambda f: f.text == "one two ")
        stage.write("three")
        stage.writer.end(JOB, JobState.SUCCEEDED)
        await following.ended()
        assert following.text == "one two three"

    play(redis_url, scenario)


def test_a_reader_that_comes_after_the_end_hears_it(redis_url: str) -> None:
    async def scenario(stage: Stage) -> None:
        stage.write("all of it")
        stage.writer.end(JOB, JobState.SUCCEEDED)
        following = stage.follow(after=4)
        await following.ended()
        assert (following.text, following.events[-1]["type"]) == ("of it", "end")

    play(redis_url, scenario)


def test_a_job_brought_back_from_its_end_can_be_followed_again(redis_url: str) -> None:
    async def scenario(stage: Stage) -> None:
        stage.writer.end(JOB, JobState.FAILED)
        stage.writer.state(JOB, JobState.QUEUED)
        following = stage.follow()
        await stage.subscribed()
        stage.write("text", attempt=2)
        await following.until(lambda f: f.text == "text")
        following.task.cancel()

    play(redis_url, scenario)


def test_a_lost_message_is_made_up_from_the_snapshot(redis_url: str) -> None:
    async def scenario(stage: Stage) -> None:
        following = stage.follow()
        await stage.subscribed()
        stage.write("one ")
        await following.until(lambda f: f.text == "one ")
        await stage.redis.set(snapshot_key(JOB), '{"attempt": 1, "seq": 8, "text": "one two "}')
        message = '{"type": "text", "attempt": 1, "seq": 13, "text": "three"}'
        await stage.redis.publish(job_channel(JOB), message)
        await following.until(lambda f: f.text == "one two three")
        following.task.cancel()

    play(redis_url, scenario)


def test_text_of_a_new_attempt_that_differs_starts_over(redis_url: str) -> None:
    async def scenario(stage: Stage) -> None:
        following = stage.follow()
        await stage.subscribed()
        stage.write("the puck")
        stage.write("the ", attempt=2)
        stage.write("ice", attempt=2)
        stage.writer.end(JOB, JobState.SUCCEEDED)
        await following.ended()
        kinds = [(event["type"], event.get("text")) for event in following.events]
        assert kinds == [("text", "the puck"), ("reset", None), ("text", "the ice"), ("end", None)]

    play(redis_url, scenario)


def test_a_slow_reader_loses_messages_but_no_text(redis_url: str) -> None:
    async def scenario(stage: Stage) -> None:
        heard = ""
        first = asyncio.Event()
        go_on = asyncio.Event()
        text = "".join(chr(ord("a") + number % 26) for number in range(300))

        async def read_slowly() -> None:
            nonlocal heard
            async for event in stage.reader.follow(JOB):
                heard += event.get("text", "")
                first.set()
                await go_on.wait()

        task = asyncio.create_task(read_slowly())
        await stage.subscribed()
        quick = stage.follow()
        for character in text:
            await asyncio.to_thread(stage.write, character)
        await quick.until(lambda f: f.text == text)
        await first.wait()
        go_on.set()
        await asyncio.to_thread(stage.writer.end, JOB, JobState.SUCCEEDED)
        async with asyncio.timeout(10):
            await task
        assert heard == text

    play(redis_url, scenario, mailbox_size=4)


def test_a_thousand_readers_share_one_connection(redis_url: str) -> None:
    async def scenario(stage: Stage) -> None:
        followings = [stage.follow() for _ in range(1000)]
        await stage.subscribed()
        assert len(await stage.redis.client_list(_type="pubsub")) == 1
        stage.write("one ")
        stage.write("two")
        stage.writer.end(JOB, JobState.SUCCEEDED)
        for following in followings:
            await following.ended()
        assert {following.text for following in followings} == {"one two"}
        await stage.subscribed(0)  # The last one to leave unsubscribes.

    play(redis_url, scenario)


def test_readers_go_on_after_a_restart_of_redis(own_redis_server: RedisServer) -> None:
    async def scenario(stage: Stage) -> None:
        following = stage.follow()
        await stage.subscribed()
        stage.write("before, ")
        await following.until(lambda f: f.text == "before, ")
        own_redis_server.stop()
        own_redis_server.start()
        await stage.subscribed()
        stage.write("after")
        stage.writer.end(JOB, JobState.SUCCEEDED)
        await following.ended()
        assert following.text == "before, after"

    play(own_redis_server.url, scenario, patience_seconds=10.0)


def test_readers_of_a_redis_that_stays_away_are_told(own_redis_server: RedisServer) -> None:
    async def scenario(stage: Stage) -> None:
        following = stage.follow()
        await stage.subscribed()
        own_redis_server.stop()
        with pytest.raises(QueueUnavailable):
            await following.ended()
        with pytest.raises(QueueUnavailable):
            await stage.follow().ended()
        own_redis_server.start()
        stage.write("later")
        later = stage.follow()
        await later.until(lambda f: f.text == "later")
        later.task.cancel()

    play(own_redis_server.url, scenario, patience_seconds=0.2)


def test_closing_the_reader_ends_who_waits(redis_url: str) -> None:
    async def scenario(stage: Stage) -> None:
        following = stage.follow()
        await stage.subscribed()
        await stage.reader.aclose()
        with pytest.raises(QueueUnavailable):
            await following.ended()

    play(redis_url, scenario)


def test_a_writer_without_redis_says_so_and_never_raises(own_redis_server: RedisServer) -> None:
    writer = EventWriter(open_redis(own_redis_server.url))
    own_redis_server.stop()
    assert not writer.text([(JOB, 1, 4, "text", "text")])
    assert not writer.text([(JOB, 1, 8, "more", "textmore")])  # Not even tried, for a moment.
    assert not writer.end(JOB, JobState.SUCCEEDED)
    own_redis_server.start()
    assert writer.state(JOB, JobState.RUNNING, 1)
    assert writer.text([])


def test_a_full_redis_still_passes_text_on(own_redis_server: RedisServer) -> None:
    async def scenario(stage: Stage) -> None:
        following = stage.follow()
        await stage.subscribed()
        await stage.redis.config_set("maxmemory", "1")
        assert not stage.writer.text([(JOB, 1, 4, "text", "text")])
        await following.until(lambda f: f.text == "text")
        following.task.cancel()

    play(own_redis_server.url, scenario)


def test_cancels_and_wake_ups_reach_their_channels(redis_url: str) -> None:
    client = open_redis(redis_url)
    writer = EventWriter(client)
    heard: list[tuple[bytes, bytes]] = []
    pubsub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    pubsub.subscribe(CANCEL_CHANNEL, "penstock:dispatch")
    wait_until(lambda: len(client.pubsub_channels()) == 2)

    assert writer.cancel(JOB)
    assert writer.wake_dispatcher()

    def listen() -> bool:
        message = pubsub.get_message(timeout=1)
        if message is not None:
            heard.append((message["channel"], message["data"]))
        return len(heard) == 2

    wait_until(listen)
    assert heard == [(b"penstock:cancel", b"job_1"), (b"penstock:dispatch", b"wake")]


def test_the_ends_of_many_leave_no_key_and_are_heard(redis_url: str) -> None:
    async def scenario(stage: Stage) -> None:
        following = stage.follow()
        await stage.subscribed()
        stage.write("text")
        ended = [(f"job_{number}", JobState.CANCELLED) for number in range(2 * ENDS_A_TRIP)]
        assert stage.writer.ends([*ended[1:], (JOB, JobState.CANCELLED)])
        await following.ended()
        assert (following.text, following.events[-1]) == ("text", {"type": "end", "state": "cancelled"})
        assert await stage.redis.keys() == [snapshot_key(JOB).encode()]
        assert await stage.redis.ttl(snapshot_key(JOB)) <= END_SECONDS

    play(redis_url, scenario)


def test_an_end_leaves_what_a_reader_on_its_way_needs_and_not_for_long(redis_url: str) -> None:
    async def scenario(stage: Stage) -> None:
        stage.write("text")
        stage.writer.end(JOB, JobState.SUCCEEDED)
        for key in (snapshot_key(JOB), end_key(JOB)):
            assert 0 < await stage.redis.ttl(key) <= END_SECONDS

    play(redis_url, scenario)


def test_ends_of_an_outage_are_given_up_with_the_first_trip(own_redis_server: RedisServer) -> None:
    writer = EventWriter(open_redis(own_redis_server.url))
    own_redis_server.stop()
    assert not writer.ends([(JOB, JobState.CANCELLED)] * (2 * ENDS_A_TRIP))


def test_a_mailbox_that_overflows_says_so_first() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(2)
        for message in (b"1", b"2", b"3"):
            mailbox.put(message)
        assert await mailbox.get() == STALE
        mailbox.put(b"4")
        assert await mailbox.get() == b"4"

    asyncio.run(scenario())
