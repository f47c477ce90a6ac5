"""The dispatcher's rounds, on a real Redis and a real database; and the role as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from jobs.database import open_engine
from jobs.dispatcher import OFFICE, RETURN_SECONDS, Dispatcher, Pace, Round, rest_seconds
from jobs.errors import QueueUnavailable, StoreUnavailable
from jobs.events import SENTINEL_KEY, EventWriter, job_of, open_redis
from jobs.queue import Publisher, make_app
from jobs.records import Publishable, SweepReport
from jobs.states import JobState, Priority
from jobs.store import Store
from tests.jobs.support import Clock, claim, make_line, make_settings, submit_one, success
from tests.support.services import RedisServer, wait_until

ROOT = Path(__file__).resolve().parents[2]


class Local:
    """The dispatcher's own clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with open_redis(redis_url) as client:
        yield client


@pytest.fixture
def local() -> Local:
    return Local()


@pytest.fixture
def dispatcher(store: Store, redis: Redis, redis_url: str, local: Local) -> Dispatcher:
    return make_dispatcher(store, redis, redis_url, "first", local)


def make_dispatcher(store: Store, redis: Redis, url: str, name: str, local: Local) -> Dispatcher:
    settings = make_settings(redis_url=url, dispatch_window=8, dispatch_interval_seconds=0.02)
    store.settings = settings
    return Dispatcher(store, Publisher(make_app(settings)), redis, settings, holder=name, monotonic=local)


def test_a_round_publishes_what_waits(dispatcher: Dispatcher, store: Store, redis: Redis) -> None:
    submit_one(store)
    store.submit([make_line() for _ in range(20)], new_batch=True)
    done = dispatcher.step()
    assert (done.leads, len(done.published.interactive), len(done.published.batch)) == (True, 1, 8)
    assert (redis.llen("interactive"), redis.llen("batch")) == (1, 8)
    assert not dispatcher.step().published


def test_an_emptied_redis_is_noticed_and_refilled(dispatcher: Dispatcher, store: Store, redis: Redis) -> None:
    store.submit([make_line() for _ in range(20)], new_batch=True)
    assert dispatcher.step().refilled
    assert not dispatcher.step().refilled
    redis.flushall()
    done = dispatcher.step()
    assert (done.refilled, len(done.published.batch)) == (True, 8)
    assert redis.llen("batch") == 8
    assert redis.exists(SENTINEL_KEY)


def test_only_the_holder_of_the_office_acts(
    dispatcher: Dispatcher, store: Store, redis: Redis, redis_url: str, local: Local, clock: Clock
) -> None:
    second = make_dispatcher(store, redis, redis_url, "second", local)
    assert dispatcher.step().leads
    submit_one(store)
    assert not second.step().leads
    clock.move(7)
    local.now += 7
    assert len(second.step().published.interactive) == 1
    assert not dispatcher.step().leads


def test_a_dispatcher_that_leaves_hands_over_at_once(
    dispatcher: Dispatcher, store: Store, redis: Redis, redis_url: str, local: Local
) -> None:
    dispatcher.step()
    dispatcher.resign()
    assert make_dispatcher(store, redis, redis_url, "second", local).step().leads


def test_jobs_of_a_dead_worker_are_swept_and_published_in_one_round(
    dispatcher: Dispatcher, store: Store, clock: Clock, redis: Redis
) -> None:
    job_id = submit_one(store)
    claim(store, job_id)
    clock.move(31)
    done = dispatcher.step()
    assert (done.swept.requeued, done.published.interactive) == ([job_id], [job_id])


def test_lines_of_a_dead_worker_go_before_those_that_wait(
    dispatcher: Dispatcher, store: Store, clock: Clock, redis: Redis
) -> None:
    made = store.submit([make_line() for _ in range(20)], new_batch=True)
    dispatcher.step()
    taken = made.ids[:3]
    for job_id in taken:
        claim(store, job_id)
        redis.rpop("batch")
    clock.move(31)
    assert list(dispatcher.step().published.again) == taken
    in_turn = [json.loads(raw)["headers"]["argsrepr"] for raw in reversed(redis.lrange("batch", 0, -1))]
    assert in_turn == made.ids[:8]


def test_ends_that_the_sweep_brings_are_announced(
    dispatcher: Dispatcher, store: Store, clock: Clock, redis: Redis
) -> None:
    expired = submit_one(store, deadline_seconds=5)
    spent = submit_one(store, max_attempts=1)
    cancelled = submit_one(store)
    claim(store, spent)
    claim(store, cancelled)
    store.cancel(cancelled)
    clock.move(31)
    states = {expired: "expired", spent: "failed", cancelled: "cancelled"}
    with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.psubscribe("penstock:job:*")
        wait_until(lambda: redis.pubsub_numpat() == 1)
        dispatcher.step()
        told = {}

        def heard_all() -> bool:
            if message := pubsub.get_message(timeout=1):
                told[job_of(message["channel"].decode())] = json.loads(message["data"])
            return len(told) == 3

        wait_until(heard_all)
    assert told == {job_id: {"type": "end", "state": state} for job_id, state in states.items()}
    assert redis.keys("penstock:job:*") == []


def test_without_redis_the_sweep_goes_on_and_with_it_the_rest(
    store: Store, clock: Clock, own_redis_server: RedisServer, local: Local
) -> None:
    job_id = submit_one(store, deadline_seconds=5)
    waiting = submit_one(store)
    with open_redis(own_redis_server.url) as client:
        dispatcher = make_dispatcher(store, client, own_redis_server.url, "first", local)
        own_redis_server.stop()
        clock.move(10)
        with pytest.raises(QueueUnavailable):
            dispatcher.step()
        assert store.get(job_id).state == JobState.EXPIRED
        own_redis_server.start()
        assert list(dispatcher.step().published.interactive) == [waiting]


def test_a_database_that_is_gone_is_said_and_the_office_is_asked_for_again(redis: Redis, redis_url: str) -> None:
    store = Store(open_engine("postgresql://nobody@127.0.0.1:1/none"), settings=make_settings())
    dispatcher = make_dispatcher(store, redis, redis_url, "first", Local())
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            dispatcher.step()


def test_leases_that_ran_out_during_an_outage_are_spared_until_workers_could_answer(
    dispatcher: Dispatcher, store: Store, clock: Clock, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit_one(store)
    ref = claim(store, job_id).ref
    dispatcher.step()
    with monkeypatch.context() as outage:
        outage.setattr(store, "hold_office", unavailable)
        local.now += 31
        clock.move(31)
        with pytest.raises(StoreUnavailable):
            dispatcher.step()
    assert not dispatcher.step().swept
    assert store.finish(ref, success()) is JobState.SUCCEEDED


def test_a_worker_that_does_not_come_back_after_an_outage_loses_its_lease_all_the_same(
    dispatcher: Dispatcher, store: Store, clock: Clock, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = submit_one(store)
    claim(store, job_id)
    with monkeypatch.context() as outage:
        outage.setattr(store, "hold_office", unavailable)
        clock.move(31)
        with pytest.raises(StoreUnavailable):
            dispatcher.step()
    assert not dispatcher.step().swept
    local.now += RETURN_SECONDS
    assert dispatcher.step().swept.requeued == [job_id]


class Watched:
    """A publisher that notes the order in which kinds of messages go out, and when the sweep is between them."""

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps

    def publish(self, job_ids: list[str], priority: Priority, /) -> None:
        self.steps.append(f"{len(job_ids)} {priority.value}")


def test_interactive_jobs_go_out_before_a_sweep_and_before_lines(
    store: Store, redis: Redis, local: Local, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    steps: list[str] = []
    dispatcher = Dispatcher(store, Watched(steps), redis, make_settings(), monotonic=local)
    lost = submit_one(store)
    claim(store, lost)
    clock.move(31)
    submit_one(store)
    store.submit([make_line() for _ in range(3)], new_batch=True)
    sweep = store.sweep
    monkeypatch.setattr(store, "sweep", lambda **given: (steps.append("sweep"), sweep(**given))[1])
    done = dispatcher.step()
    assert steps == ["1 interactive", "sweep", "1 interactive", "3 batch"]
    assert len(done.published.interactive) == 2


def test_a_round_sweeps_a_bounded_number_of_late_lines_and_dispatches_all_the_same(
    dispatcher: Dispatcher, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.sweep.CHUNK", 10)
    late = store.submit([make_line(deadline_seconds=5) for _ in range(100)], new_batch=True)
    clock.move(10)
    fresh = store.submit([make_line() for _ in range(3)], new_batch=True)
    done = dispatcher.step()
    assert 0 < done.swept.num_moved < 100
    assert set(fresh.ids) <= set(done.published.batch)
    while dispatcher.step().swept:
        pass
    assert store.get_batch(str(late.batch_id))[0].num_expired == 100
    assert store.audit() == []


def test_progress_is_sampled_every_few_seconds(
    dispatcher: Dispatcher, store: Store, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []
    monkeypatch.setattr(store, "sample_batches", lambda: taken.append(local.now))
    for _ in range(50):
        dispatcher.step()
        local.now += 0.5
    assert taken == [0.0, 5.0, 10.0, 15.0, 20.0]


def round_of(num_lines: int = 0, *, num_swept: int = 0, seconds: float = 0.01, **fields: Any) -> Round:
    interactive, waits = fields.pop("interactive", ()), fields.pop("waits", True)
    published = Publishable(batch=["line"] * num_lines, window=256, interactive=interactive, waits=waits)
    swept = SweepReport(num_more_expired=num_swept, seconds_to_next=fields.pop("next_due", None))
    return Round(True, swept, published=published, seconds=seconds, **fields)


@pytest.mark.parametrize(
    ("done", "rest"),
    [
        (round_of(), 0.5),  # nothing to do: twice the interval
        (round_of(waits=False), 0.75),  # and nothing that waits
        (round_of(waits=False, next_due=0.3), 0.32),
        (round_of(next_due=0.3), 0.32),
        (round_of(next_due=30.0), 0.5),
        (round_of(interactive=["job"]), 0.0),
        (round_of(refilled=True), 0.0),
        (round_of(num_swept=10), 0.25),
        (round_of(num_swept=2000, seconds=0.2), 0.1),  # half as long as it worked
        (round_of(num_swept=2000, seconds=3.0), 0.25),
        (round_of(20), 0.25),  # at 80 a second half a window lasts for long
        (round_of(128), 0.25),
        (round_of(129), 0.0),  # more than half of it was used up
        (round_of(256), 0.0),
    ],
)
def test_the_next_round_comes_as_soon_as_it_is_needed(done: Round, rest: float) -> None:
    assert rest_seconds(done, 0.25, 80.0) == pytest.approx(rest)


@pytest.mark.parametrize(
    ("waits", "interval", "rest"),
    [(True, 0.5, 1.0), (True, 0.8, 1.0), (True, 3.0, 3.0), (False, 0.4, 1.2), (False, 0.8, 1.5), (False, 3.0, 3.0)],
)
def test_an_idle_dispatcher_rests_for_a_bounded_time_unless_it_was_told_to_rest_longer(
    waits: bool, interval: float, rest: float
) -> None:
    assert rest_seconds(round_of(waits=waits), interval, 0.0) == pytest.approx(rest)


@pytest.mark.parametrize("num_lines", [0, 100])
def test_a_window_that_is_used_up_quickly_is_looked_at_before_its_time(num_lines: int) -> None:
    """Also when a look found it full."""
    assert rest_seconds(round_of(num_lines), 0.25, 1000.0) == pytest.approx(0.128)
    assert rest_seconds(round_of(num_lines), 0.25, 100_000.0) == pytest.approx(0.02)


def test_a_window_that_nobody_waits_for_is_not_looked_at_before_its_time() -> None:
    assert rest_seconds(round_of(waits=False), 0.25, 1000.0) == pytest.approx(0.75)


def test_the_pace_is_that_of_the_last_second_whatever_the_rounds() -> None:
    pace = Pace()
    for number in range(400):
        pace.note(250 if number % 2 else 5, 0.25 if number % 2 else 0.005)  # a refill, and a look at once after it
        pace.note(0, 0.0)
    assert pace.per_second == pytest.approx(1000, rel=0.05)
    pace.note(0, 3.0)
    assert pace.per_second < 100


def unavailable(*_: object) -> bool:
    raise StoreUnavailable("away")


def run_in_thread(dispatcher: Dispatcher) -> tuple[threading.Thread, threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(stop,))
    thread.start()
    return thread, stop


def test_a_ring_wakes_it_before_its_time(store: Store, redis: Redis, redis_url: str) -> None:
    settings = make_settings(redis_url=redis_url, dispatch_interval_seconds=60.0)
    dispatcher = Dispatcher(store, Publisher(make_app(settings)), redis, settings)
    thread, stop = run_in_thread(dispatcher)
    wait_until(lambda: redis.pubsub_numsub("penstock:dispatch")[0][1])
    submit_one(store)
    EventWriter(redis).wake_dispatcher()
    wait_until(lambda: redis.llen("interactive") == 1)
    stop.set()
    EventWriter(redis).wake_dispatcher()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert store.hold_office(OFFICE, "somebody else")


class InstantLines:
    """A queue whose jobs end while they are published."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def publish(self, job_ids: list[str], priority: Priority) -> None:
        for job_id in job_ids:
            self._store.finish(claim(self._store, job_id).ref, success())


def test_while_lines_are_short_it_does_not_wait_between_rounds(store: Store, redis: Redis, redis_url: str) -> None:
    settings = make_settings(redis_url=redis_url, dispatch_window=8, dispatch_interval_seconds=3600.0)
    store.settings = settings
    made = store.submit([make_line() for _ in range(40)], new_batch=True)
    thread, stop = run_in_thread(Dispatcher(store, InstantLines(store), redis, settings))
    wait_until(lambda: store.get_batch(str(made.batch_id))[0].ended_at is not None, 30)
    wait_until(lambda: redis.pubsub_numsub("penstock:dispatch")[0][1])
    stop.set()
    EventWriter(redis).wake_dispatcher()
    thread.join(timeout=10)
    assert not thread.is_alive()


class LateLines(InstantLines):
    """A queue whose jobs end once the dispatcher has found its window full."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.found_full = threading.Event()
        self._workers = ThreadPoolExecutor(1)

    def publish(self, job_ids: list[str], priority: Priority) -> None:
        self.found_full.clear()
        self._workers.submit(lambda: (self.found_full.wait(20), InstantLines.publish(self, job_ids, priority)))

    def note(self, done: Round) -> None:
        if done.published.waits and not done.published.batch:
            self.found_full.set()

    def close(self) -> None:
        self.found_full.set()
        self._workers.shutdown()


def test_a_window_found_full_is_looked_at_again_before_it_runs_dry(store: Store, redis: Redis, redis_url: str) -> None:
    """It was left alone for the longest pause between two rounds, twice over: 256 lines a second at most."""
    settings = make_settings(redis_url=redis_url, dispatch_window=8, dispatch_interval_seconds=3600.0)
    store.settings = settings
    made = store.submit([make_line() for _ in range(24)], new_batch=True)
    lines = LateLines(store)
    thread, stop = run_in_thread(Dispatcher(store, lines, redis, settings, on_round=lines.note))
    try:
        wait_until(lambda: store.get_batch(str(made.batch_id))[0].num_succeeded >= 16, 30)
    finally:
        lines.close()
        stop.set()
        EventWriter(redis).wake_dispatcher()
        thread.join(timeout=10)
    assert not thread.is_alive()


def test_it_outlives_a_restart_of_redis(store: Store, own_redis_server: RedisServer, local: Local) -> None:
    with open_redis(own_redis_server.url) as client:
        thread, stop = run_in_thread(make_dispatcher(store, client, own_redis_server.url, "first", local))
        submit_one(store)
        wait_until(lambda: client.llen("interactive") == 1)
        own_redis_server.stop()
        submit_one(store)
        own_redis_server.start()
        wait_until(lambda: client.llen("interactive") >= 2)  # one may be doubled: its answer was lost
        stop.set()
        thread.join(timeout=10)


def test_a_window_moves_on_as_lines_end(dispatcher: Dispatcher, store: Store, redis: Redis) -> None:
    made = store.submit([make_line() for _ in range(20)], new_batch=True)
    left = 20
    while left:
        dispatcher.step()
        assert redis.llen("batch") <= 8
        for _ in range(redis.llen("batch")):
            redis.rpop("batch")
        for job_id in made.ids:
            if store.get(job_id).published_at is not None:
                store.finish(claim(store, job_id).ref, success())
                left -= 1
    assert store.get_batch(str(made.batch_id))[0].ended_at is not None
    assert store.audit() == []


def test_the_role_runs_as_a_process_and_stops_cleanly(sqlite_url: str, redis_url: str) -> None:
    engine = open_engine(sqlite_url)
    store = Store(engine, settings=make_settings())
    submit_one(store, prompt="a secret prompt")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PENSTOCK_DATABASE_URL": sqlite_url,
        "PENSTOCK_REDIS_URL": redis_url,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.dispatcher"], env=environment, stderr=subprocess.PIPE, text=True
    )
    with open_redis(redis_url) as client:
        wait_until(lambda: client.llen("interactive") == 1, seconds=30)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "dispatcher_stopped" in log
    assert "secret" not in log
    assert store.hold_office(OFFICE, "somebody else")
    engine.dispose()
