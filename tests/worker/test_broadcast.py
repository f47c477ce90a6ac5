"""The broadcaster: joined text in order, the rest before the end, and Redis away never in the way."""

from __future__ import annotations

import pytest

from jobs.records import AttemptRef
from tests.support.services import wait_until
from worker.broadcast import REST_SECONDS, Broadcaster, TextEvent
from worker.engine.generation import TextDelta


class Channel:
    def __init__(self) -> None:
        self.writes: list[list[TextEvent]] = []
        self.away = False
        self.num_tries = 0

    def text(self, events: list[TextEvent]) -> bool:
        self.num_tries += 1
        if not self.away:
            self.writes.append(events)
        return not self.away


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broadcaster(channel: Channel, clock: Clock) -> Broadcaster:
    made = Broadcaster(channel, 0.05, clock)
    made.open("a/1", AttemptRef("a", 1))
    made.open("b/2", AttemptRef("b", 2))
    return made


def delta(request_id: str, text: str) -> TextDelta:
    return TextDelta(request_id, text, 0)


def test_deltas_of_a_job_are_joined_and_all_jobs_go_in_one_write(broadcaster: Broadcaster, channel: Channel) -> None:
    broadcaster.deltas([delta("a/1", "ice"), delta("b/2", "x")])
    broadcaster.deltas([delta("a/1", " höckey")])
    broadcaster.flush()
    assert channel.writes == [[("a", 1, 10, "ice höckey", "ice höckey"), ("b", 2, 1, "x", "x")]]


def test_seq_counts_code_points_of_all_the_text(broadcaster: Broadcaster, channel: Channel) -> None:
    broadcaster.deltas([delta("a/1", "🏒é")])
    broadcaster.flush()
    broadcaster.deltas([delta("a/1", "x")])
    broadcaster.flush()
    assert [write[0][2:] for write in channel.writes] == [(2, "🏒é", "🏒é"), (3, "x", "🏒éx")]


def test_nothing_new_writes_nothing(broadcaster: Broadcaster, channel: Channel) -> None:
    broadcaster.flush()
    assert channel.num_tries == 0


def test_closing_a_stream_writes_what_is_left(broadcaster: Broadcaster, channel: Channel) -> None:
    broadcaster.deltas([delta("a/1", "last")])
    broadcaster.close("a/1")
    assert channel.writes == [[("a", 1, 4, "last", "last")]]
    broadcaster.deltas([delta("a/1", "after the end")])
    broadcaster.flush()
    assert len(channel.writes) == 1


def test_text_of_an_outage_goes_out_with_the_first_write_after_it(
    broadcaster: Broadcaster, channel: Channel, clock: Clock
) -> None:
    channel.away = True
    broadcaster.deltas([delta("a/1", "one ")])
    broadcaster.flush()
    broadcaster.deltas([delta("a/1", "two")])
    broadcaster.flush()
    assert channel.num_tries == 1, "while it rests, nothing is tried, so nobody waits for Redis"
    channel.away = False
    clock.now += REST_SECONDS
    broadcaster.flush()
    assert channel.writes == [[("a", 1, 7, "one two", "one two")]]


def test_the_thread_writes_by_itself(channel: Channel) -> None:
    broadcaster = Broadcaster(channel, 0.01)
    broadcaster.start()
    broadcaster.open("a/1", AttemptRef("a", 1))
    broadcaster.deltas([delta("a/1", "text")])
    wait_until(lambda: channel.writes)
    broadcaster.stop()
