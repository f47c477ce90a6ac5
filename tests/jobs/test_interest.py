"""Who follows what: announced, remembered, forgotten, and asked again after every outage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from jobs import interest as interest_module
from jobs.errors import QueueUnavailable
from jobs.events import EventReader, EventWriter, open_async_redis, open_redis
from jobs.interest import FOLLOW_CHANNEL, IDS_A_MESSAGE, LAPSE_SECONDS, Interest, messages_of
from tests.support.services import RedisServer, wait_until
from worker.listener import Listener


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TestInterest:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def interest(self, clock: Clock) -> Interest:
        return Interest(clock)

    def test_what_was_announced_is_wanted_until_it_lapses(self, interest: Interest, clock: Clock) -> None:
        interest.hear("job_1 job_2")
        clock.now += LAPSE_SECONDS - 1
        interest.hear("job_2")
        assert (interest.wants("job_1"), interest.wants("job_2"), interest.wants("job_3")) == (True, True, False)
        clock.now += 2
        assert (interest.wants("job_1"), interest.wants("job_2")) == (False, True)

    def test_only_a_job_that_nobody_followed_is_news(self, interest: Interest, clock: Clock) -> None:
        news: list[float] = []
        interest.on_news = lambda: news.append(clock.now)
        interest.hear("job_1")
        interest.hear("job_1")
        clock.now += LAPSE_SECONDS + 1
        interest.hear("job_1")
        assert len(news) == 2

    def test_what_has_lapsed_takes_no_memory(self, interest: Interest, clock: Clock) -> None:
        for _ in range(50):
            interest.hear(" ".join(f"job_{clock.now}_{number}" for number in range(10)))
            clock.now += LAPSE_SECONDS
        assert len(interest._until) <= 30

    def test_any_number_of_jobs_fits_into_messages(self) -> None:
        ids = [f"job_{number}" for number in range(2 * IDS_A_MESSAGE + 1)]
        messages = list(messages_of(ids))
        assert [len(message.split()) for message in messages] == [IDS_A_MESSAGE, IDS_A_MESSAGE, 1]
        assert " ".join(messages).split() == ids


@contextmanager
def worker_side(url: str) -> Iterator[Interest]:
    """A worker's listener and memory, on a real Redis."""
    interest = Interest()
    writer = EventWriter(open_redis(url))
    listener = Listener(open_redis(url), {FOLLOW_CHANNEL: interest.hear}, writer.call_readers)
    listener.start()
    assert listener.listening.wait(20)
    yield interest
    listener.stop()


async def until(happened: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not happened():
            await asyncio.sleep(0.005)


async def follow_quietly(reader: EventReader, job_id: str) -> None:
    with suppress(QueueUnavailable):
        async for _ in reader.follow(job_id):
            pass


@contextmanager
def following(url: str, *job_ids: str) -> Iterator[asyncio.Runner]:
    """A process of readers: an event loop that stands still unless the test lets it run."""
    with asyncio.Runner() as runner:

        async def begin() -> EventReader:
            client = open_async_redis(url)
            reader = EventReader(client, patience_seconds=15.0)
            tasks.extend(asyncio.create_task(follow_quietly(reader, job_id)) for job_id in job_ids)
            return reader

        tasks: list[asyncio.Task[None]] = []  # Held here: a loop holds its tasks weakly.
        reader = runner.run(begin())
        yield runner
        runner.run(reader.aclose())


def test_a_reader_announces_itself_to_a_worker_that_listens(redis_url: str) -> None:
    with worker_side(redis_url) as interest, following(redis_url, "job_1", "job_2") as runner:
        runner.run(until(lambda: interest.wants("job_1") and interest.wants("job_2")))


def test_a_worker_that_comes_later_asks_and_is_answered(redis_url: str) -> None:
    with open_redis(redis_url) as client, following(redis_url, "job_1") as runner:
        runner.run(until(lambda: client.pubsub_numsub("penstock:job:job_1")[0][1]))
        with worker_side(redis_url) as interest:
            runner.run(until(lambda: interest.wants("job_1")))


def test_a_restart_of_redis_forgets_nobody(own_redis_server: RedisServer) -> None:
    url = own_redis_server.url
    with worker_side(url) as interest, following(url, "job_1") as runner:
        runner.run(until(lambda: interest.wants("job_1")))
        own_redis_server.stop()
        interest._until.clear()
        own_redis_server.start()
        runner.run(until(lambda: interest.wants("job_1")))


def test_readers_that_are_back_before_the_worker_answer_its_call(own_redis_server: RedisServer) -> None:
    url = own_redis_server.url
    with following(url, "job_1") as runner, open_redis(url) as client:
        runner.run(until(lambda: client.pubsub_numsub("penstock:job:job_1")[0][1]))
        own_redis_server.stop()
        own_redis_server.start()
        runner.run(until(lambda: client.pubsub_numsub("penstock:job:job_1")[0][1]))
        with worker_side(url) as interest:
            runner.run(until(lambda: interest.wants("job_1")))


def test_a_lost_announcement_is_made_up_by_the_next_one(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interest_module, "RENEW_SECONDS", 0.05)
    with worker_side(redis_url) as interest, following(redis_url, "job_1") as runner:
        runner.run(until(lambda: interest.wants("job_1")))
        interest._until.clear()
        runner.run(until(lambda: interest.wants("job_1")))


def test_who_leaves_is_not_announced_any_more(redis_url: str) -> None:
    async def scenario() -> None:
        reader = EventReader(open_async_redis(redis_url))
        task = asyncio.create_task(follow_quietly(reader, "job_1"))
        await until(lambda: reader._followed() == ["job_1"])
        task.cancel()
        await until(lambda: reader._followed() == [])
        await reader.aclose()

    asyncio.run(scenario())


def test_listeners_hear_each_channel_and_say_when_all_are_there(redis_url: str) -> None:
    heard: list[tuple[str, str]] = []
    returned: list[int] = []
    hearers = {"a": lambda text: heard.append(("a", text)), "b": lambda text: heard.append(("b", text))}
    listener = Listener(open_redis(redis_url), hearers, lambda: returned.append(1))
    listener.start()
    assert listener.listening.wait(20)
    with open_redis(redis_url) as client:
        client.publish("a", "one")
        client.publish("b", "two")
    wait_until(lambda: len(heard) == 2)
    listener.stop()
    assert (sorted(heard), returned) == ([("a", "one"), ("b", "two")], [1])
