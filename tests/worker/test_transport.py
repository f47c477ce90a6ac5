"""The worker's transport and consumer on a real Redis: no books, a wait that can be cut short, events together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Consumer, Exchange, Producer, Queue
from redis import Redis

from jobs.queue import transport_options
from jobs.settings import Settings
from tests.support.services import wait_until
from worker.consumer import MAX_EVENTS, OVERDUE_SECONDS, GatheringConsumer
from worker.transport import Transport, WorkerConnection, unblock

SINGLES = Queue("interactive", Exchange("interactive", type="direct"), routing_key="interactive")
LINES = Queue("batch", Exchange("batch", type="direct"), routing_key="batch")


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def connection(redis_url: str) -> Iterator[WorkerConnection]:
    url = Settings(redis_url=redis_url).broker_url
    with WorkerConnection(url, transport_options=transport_options()) as made:
        yield made


def receive(connection: WorkerConnection) -> Any:
    """Publish a message and take it."""
    taken: list[Any] = []
    channel = connection.channel()
    Producer(channel).publish("job_1", exchange=LINES.exchange, routing_key="batch", declare=[LINES])
    with Consumer(channel, [LINES], on_message=taken.append):
        while not taken:
            connection.drain_events(timeout=5)
    return taken[0]


def test_a_message_that_is_out_leaves_nothing_in_redis(connection: WorkerConnection, redis: Redis) -> None:
    message = receive(connection)
    assert redis.keys("unacked*") == []
    message.ack()
    assert (redis.keys("unacked*"), redis.llen("batch")) == ([], 0)


def test_a_message_given_back_is_in_its_queue_again(connection: WorkerConnection, redis: Redis) -> None:
    receive(connection).requeue()
    assert redis.llen("batch") == 1
    again: list[Any] = []
    with Consumer(connection.channel(), [LINES], on_message=again.append):
        while not again:
            connection.drain_events(timeout=5)
    assert again[0].payload == "job_1"


def test_a_message_given_back_to_a_redis_that_is_away_is_let_go(
    connection: WorkerConnection, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = receive(connection)
    monkeypatch.setattr(message.channel, "_do_restore_message", _refuse)
    message.requeue()
    assert message.acknowledged


def _refuse(*_: Any, **__: Any) -> None:
    raise ConnectionError("away")


def test_a_queue_that_is_opened_during_a_wait_is_listened_to_at_once(
    connection: WorkerConnection, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transport, "brpop_timeout", 600)
    taken: list[Any] = []
    channel = connection.channel()
    Producer(channel).publish("job_1", exchange=LINES.exchange, routing_key="batch", declare=[LINES])
    consumer = Consumer(channel, [SINGLES], on_message=taken.append)
    consumer.consume()

    def listen() -> None:
        while not taken:
            with suppress(TimeoutError):
                connection.drain_events(timeout=60)

    threading.Thread(target=listen, daemon=True).start()
    wait_until(lambda: redis.info("clients")["blocked_clients"] == 1, 60)
    consumer.add_queue(LINES)
    consumer.consume()
    unblock(consumer)
    wait_until(lambda: taken, 60)


class Hub:
    """As much of Celery's loop as the consumer sees; `turn` lets it move."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def call_later(self, _: float, call: Callable[[], None]) -> None:
        self.later.append(call)

    def turn(self) -> None:
        for calls in (self.soon, self.later):
            while calls:
                calls.pop(0)()


class Gathering(GatheringConsumer):
    def __init__(self) -> None:
        self.hub = Hub()
        self.num_flushes = 0
        self.event_dispatcher = SimpleNamespace(buffer_limit=24, flush=self._flushed)

    def _flushed(self) -> None:
        self.num_flushes += 1


def test_events_of_a_moment_are_sent_once() -> None:
    consumer = Gathering()
    for _ in range(5):
        consumer.on_send_event_buffered()
    consumer.hub.turn()
    assert (consumer.num_flushes, consumer.event_dispatcher.buffer_limit) == (1, MAX_EVENTS)
    consumer.on_send_event_buffered()
    consumer.hub.turn()
    assert consumer.num_flushes == 2


def test_a_flush_that_a_lost_connection_took_along_is_asked_for_again() -> None:
    consumer = Gathering()
    consumer.on_send_event_buffered()
    consumer.hub.soon.clear()
    consumer._flush_due_at -= 2 * OVERDUE_SECONDS
    consumer.on_send_event_buffered()
    consumer.hub.turn()
    assert consumer.num_flushes == 1
