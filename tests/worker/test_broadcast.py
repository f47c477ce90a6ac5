"""The broadcaster: joined text in order, the rest before the end, and Redis away never in the way."""

from __future__ import annotations

import pytest

from jobs.events import Snapshot
from jobs.interest import LAPSE_SECONDS, Interest
from jobs.records import AttemptRef
from jobs.states import JobState
from tests.support.services import wait_until
from worker import broadcast
from worker.broadcast import REST_SECONDS, Broadcaster, TextEvent
from worker.engine.generation import TextDelta


class Channel:
    def __init__(self) -> None:
        self.writes: list[list[tuple[object, ...]]] = []
        self.states: list[tuple[str, str, int]] = []
        self.ended: list[list[tuple[str, JobState]]] = []
        self.away = False
        self.num_tries = 0

    def text(self, events: list[TextEvent]) -> bool:
        self.num_tries += 1
        if not self.away:
            self.writes.append([event[:5] for event in events])
        return not self.away

    def state(self, job_id: str, state: JobState, attempt: int) -> bool:
        self.num_tries += 1
        if not self.away:
            self.states.append((job_id, str(state), attempt))
        return not self.away

    def ends(self, ended: list[tuple[str, JobState]]) -> bool:
        self.num_tries += 1
        if not self.away:
            self.ended.append(ended)
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
def interest(clock: Clock) -> Interest:
    return Interest(clock)


@pytest.fixture
def broadcaster(channel: Channel, clock: Clock, interest: Interest) -> Broadcaster:
    made = Broadcaster(channel, 0.05, clock, interest=interest)
    made.open("line/1", AttemptRef("line", 1), on_demand=True)
    made.open("a/1", AttemptRef("a", 1))
    made.open("b/2", AttemptRef("b", 2))
    made.flush()
    assert channel.states == [("a", "running", 1), ("b", "running", 2)]
    channel.states.clear()
    channel.num_tries = 0
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


def test_that_a_job_runs_is_told_after_an_outage_and_before_its_text(
    broadcaster: Broadcaster, channel: Channel, clock: Clock
) -> None:
    channel.away = True
    broadcaster.open("c/1", AttemptRef("c", 1))
    broadcaster.flush()
    broadcaster.deltas([delta("c/1", "ice")])
    assert (channel.states, channel.writes) == ([], [])
    channel.away = False
    clock.now += REST_SECONDS
    broadcaster.flush()
    assert (channel.states, channel.writes) == ([("c", "running", 1)], [[("c", 1, 3, "ice", "ice")]])


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


def test_the_first_text_of_a_job_waits_for_no_interval(channel: Channel) -> None:
    broadcaster = Broadcaster(channel, 600.0)
    broadcaster.start()
    for number, name in enumerate("abc", 1):
        broadcaster.open(f"{name}/1", AttemptRef(name, 1))
        broadcaster.deltas([delta(f"{name}/1", "text")])
        wait_until(lambda: len(channel.writes) == number)  # noqa: B023
    broadcaster.stop()


def test_lines_that_nobody_follows_do_not_hold_up_the_first_text_of_a_job(channel: Channel) -> None:
    broadcaster = Broadcaster(channel, 600.0)
    broadcaster.start()
    broadcaster.open("line/1", AttemptRef("line", 1), on_demand=True)
    broadcaster.deltas([delta("line/1", "ice")])
    wait_until(lambda: not broadcaster._new)
    broadcaster.open("a/1", AttemptRef("a", 1))
    broadcaster.deltas([delta("line/1", "ice"), delta("a/1", "text")])
    wait_until(lambda: channel.writes)
    broadcaster.stop()


def test_a_line_that_nobody_follows_costs_redis_nothing(broadcaster: Broadcaster, channel: Channel) -> None:
    broadcaster.deltas([delta("line/1", "ice")])
    broadcaster.flush()
    broadcaster.close("line/1")
    assert channel.num_tries == 0


def test_a_line_followed_while_it_runs_tells_its_whole_text_and_goes_on(
    broadcaster: Broadcaster, channel: Channel, interest: Interest
) -> None:
    broadcaster.deltas([delta("line/1", "ice ")])
    broadcaster.flush()
    interest.hear("line")
    broadcaster.flush()
    broadcaster.deltas([delta("line/1", "hockey")])
    broadcaster.close("line/1")
    assert channel.states == [("line", "running", 1)]
    assert channel.writes == [[("line", 1, 4, "ice ", "ice ")], [("line", 1, 10, "hockey", "ice hockey")]]


def test_a_line_followed_before_it_starts_is_told_from_its_first_word(
    broadcaster: Broadcaster, channel: Channel, interest: Interest
) -> None:
    interest.hear("other")
    broadcaster.open("other/3", AttemptRef("other", 3), on_demand=True)
    broadcaster.deltas([delta("other/3", "ice")])
    broadcaster.flush()
    assert channel.states == [("other", "running", 3)]
    assert channel.writes == [[("other", 3, 3, "ice", "ice")]]


def test_a_line_whose_readers_are_gone_falls_silent_and_misses_nothing_for_the_next(
    broadcaster: Broadcaster, channel: Channel, interest: Interest, clock: Clock
) -> None:
    interest.hear("line")
    broadcaster.deltas([delta("line/1", "one ")])
    broadcaster.flush()
    clock.now += LAPSE_SECONDS
    broadcaster.deltas([delta("line/1", "two ")])
    broadcaster.flush()
    assert len(channel.writes) == 1
    interest.hear("line")
    broadcaster.flush()
    assert channel.writes[1:] == [[("line", 1, 8, "two ", "one two ")]]


def test_news_of_a_reader_wake_the_thread(channel: Channel) -> None:
    interest = Interest()
    broadcaster = Broadcaster(channel, 0.01, interest=interest)
    broadcaster.start()
    broadcaster.open("line/1", AttemptRef("line", 1), on_demand=True)
    broadcaster.deltas([delta("line/1", "text")])
    interest.hear("line")
    wait_until(lambda: channel.writes)
    broadcaster.stop()


def test_the_calm_of_lines_that_nobody_follows_ends_with_the_first_who_does(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "CALM_SECONDS", 60.0)
    interest = Interest()
    broadcaster = Broadcaster(channel, 0.05, interest=interest)
    for name in ("line", "other"):
        broadcaster.open(f"{name}/1", AttemptRef(name, 1), on_demand=True)
    broadcaster.start()
    broadcaster.deltas([TextDelta("line/1", "ice", 3)])
    wait_until(lambda: broadcaster._is_calm)
    interest.hear("line")
    wait_until(lambda: channel.writes)
    broadcaster.deltas([TextDelta("line/1", " melts", 9)])
    wait_until(lambda: len(channel.writes) == 2)
    broadcaster.close("line/1")
    broadcaster.ended("line", JobState.SUCCEEDED)
    wait_until(lambda: channel.ended)
    wait_until(lambda: broadcaster._is_calm)
    broadcaster.open("job/1", AttemptRef("job", 1))
    wait_until(lambda: channel.states[-1:] == [("job", "running", 1)])
    broadcaster.stop()


def test_a_line_waits_for_no_write_that_hangs(broadcaster: Broadcaster) -> None:
    with broadcaster._flushing:
        broadcaster.open("quick/1", AttemptRef("quick", 1), on_demand=True)
        broadcaster.ended("quick", JobState.SUCCEEDED)
        broadcaster.close("quick/1")


def test_ends_of_lines_go_in_one_write_whoever_follows(channel: Channel) -> None:
    broadcaster = Broadcaster(channel, 0.01)
    ended = [(f"line{number}", JobState.SUCCEEDED) for number in range(3)]
    for end in ended:
        broadcaster.ended(*end)
    broadcaster.start()
    broadcaster.stop()
    assert channel.ended == [ended]


def test_ends_of_an_outage_are_dropped_and_not_kept(channel: Channel) -> None:
    channel.away = True
    broadcaster = Broadcaster(channel, 0.01)
    broadcaster.start()
    broadcaster.ended("line", JobState.SUCCEEDED)
    wait_until(lambda: channel.num_tries)
    broadcaster.ended("another", JobState.SUCCEEDED)
    broadcaster.stop()
    assert (channel.num_tries, len(broadcaster._ends)) == (1, 0)


def retelling(channel: Channel, clock: Clock, told: str) -> tuple[Broadcaster, list[TextEvent]]:
    """A second attempt, and the events it sends."""
    events: list[TextEvent] = []
    channel.text = lambda sent: events.extend(sent) or True  # type: ignore[method-assign, assignment, func-returns-value]
    broadcaster = Broadcaster(channel, 0.05, clock)
    broadcaster.open("a/2", AttemptRef("a", 2), before=Snapshot(1, told, (1, 2, 3), "lone"))
    return broadcaster, events


def test_what_readers_have_is_not_told_again_and_its_snapshot_stays(channel: Channel, clock: Clock) -> None:
    broadcaster, events = retelling(channel, clock, "ice hockey")
    broadcaster.deltas([delta("a/2", "ice ")])
    broadcaster.flush()
    broadcaster.deltas([delta("a/2", "hockey")])
    broadcaster.flush()
    assert events == [], "the next attempt must find all of the longer text"
    broadcaster.deltas([delta("a/2", ", ")])
    broadcaster.deltas([delta("a/2", "pucks")])
    broadcaster.flush()
    ((_, attempt, seq, fresh, text, _, _, _, kept),) = events
    assert (attempt, seq, fresh, text) == (2, 17, "ice hockey, pucks", "ice hockey, pucks")
    assert kept == {1: 10}


def test_another_text_than_readers_have_is_told_at_once(channel: Channel, clock: Clock) -> None:
    broadcaster, events = retelling(channel, clock, "ice hockey")
    broadcaster.deltas([delta("a/2", "icy")])
    broadcaster.flush()
    assert [(event.text, event.kept) for event in events] == [("icy", {1: 2})]
