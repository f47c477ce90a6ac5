"""Places in the queue, and when a poll is worth the while."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from jobs.records import Rates
from jobs.states import Priority
from jobs.store import Store, waiting
from jobs.tables import Batch, Job
from tests.jobs.support import Clock, claim, make_line, make_settings, submit_one, success


def position(store: Store, job_id: str) -> int | None:
    return store.queue_position(store.get(job_id))


def order_of_dispatch(store: Store) -> list[str]:
    """Every queued job in the order in which it goes out, a place at a time, each run to its end."""
    order: list[str] = []
    while chosen := store.to_publish({}).batch:
        store.mark_published(chosen)
        for job_id in chosen:
            order.append(job_id)
            store.finish(claim(store, job_id).ref, success())
    return order


def test_interactive_jobs_stand_in_the_order_in_which_they_were_sent(store: Store, clock: Clock) -> None:
    ids = []
    for _ in range(4):
        clock.move(1)
        ids.append(submit_one(store))
    store.mark_published(ids[2:3])
    clock.move(1)
    store.mark_published(ids[:1])
    assert [position(store, job_id) for job_id in ids] == [1, 2, 0, 3]


@pytest.mark.parametrize("priority", list(Priority))
def test_a_job_whose_message_goes_out_while_its_place_is_looked_for_does_not_go_before_itself(
    store: Store, priority: Priority
) -> None:
    job = store.get(submit_one(store, priority=priority))
    store.mark_published([job.id])
    assert store.queue_position(job) == 0


def test_lines_of_one_batch_stand_in_the_order_of_their_prefixes(store: Store) -> None:
    made = store.submit([make_line() for _ in range(6)], new_batch=True)
    with store.engine.begin() as connection:
        for job_id, place in zip(made.ids, (0, 1, 0, 1, 4, 0), strict=True):
            connection.execute(sa.update(Job).where(Job.id == job_id).values(dispatch_order=place))
    places = [position(store, job_id) for job_id in made.ids]
    assert places == [0, 3, 1, 4, 5, 2]
    assert [made.ids[places.index(number)] for number in range(6)] == order_of_dispatch(store)


def test_batches_that_share_go_between_as_their_weights_say(store: Store) -> None:
    own = store.submit([make_line() for _ in range(30)], new_batch=True)
    heavy = store.submit([make_line() for _ in range(100)], new_batch=True)
    with store.engine.begin() as connection:
        connection.execute(sa.update(Batch).where(Batch.id == heavy.batch_id).values(weight=3.0))
    assert [position(store, own.ids[number]) for number in (0, 10, 20)] == [0, 40, 80]


def test_a_short_batch_goes_between_with_no_more_than_it_has(store: Store) -> None:
    store.settings = make_settings(key_weights={"a": 10.0})
    own = store.submit([make_line() for _ in range(30)], new_batch=True, owner="b")
    store.submit([make_line() for _ in range(5)], new_batch=True, owner="a")
    assert position(store, own.ids[20]) == 25


def test_a_cancelled_batch_is_in_nobodys_way(store: Store) -> None:
    own = store.submit([make_line() for _ in range(30)], new_batch=True)
    other = store.submit([make_line() for _ in range(30)], new_batch=True)
    store.cancel_batch(str(other.batch_id))
    assert position(store, own.ids[20]) == 20


def test_lines_without_a_batch_count_their_owners_only(store: Store) -> None:
    store.submit([make_line() for _ in range(20)], owner="many")
    mine = store.submit([make_line() for _ in range(3)], owner="few")
    assert [position(store, job_id) for job_id in mine.ids] == [0, 1, 2]


def test_a_line_with_a_message_stands_where_its_message_does(store: Store, clock: Clock) -> None:
    made = store.submit([make_line() for _ in range(6)], new_batch=True)
    store.mark_published(made.ids[3:])
    clock.move(1)
    store.mark_published(made.ids[:2])
    assert [position(store, job_id) for job_id in made.ids] == [3, 4, 5, 0, 1, 2]


@pytest.mark.parametrize("one_prefix", [False, True])
def test_a_far_place_is_reckoned_from_the_numbers_of_lines(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, one_prefix: bool
) -> None:
    monkeypatch.setattr(waiting, "MAX_COUNTED", 10)
    made = store.submit([make_line() for _ in range(100)], new_batch=True)
    if one_prefix:
        with store.engine.begin() as connection:
            connection.execute(sa.update(Job).values(dispatch_order=0))
    assert [position(store, made.ids[number]) for number in (5, 50, 99)] == [5, 50, 99]
    store.finish(claim(store, made.ids[0]).ref, success())
    assert position(store, made.ids[99]) == 98


def beat(store: Store, tokens_per_second: float) -> None:
    store.heartbeat("worker-1", "demo", 16, 16, tokens_per_second)


def test_a_poll_waits_for_the_jobs_turn_at_the_pace_of_the_workers(store: Store) -> None:
    """20 jobs ahead of 10 tokens each, at 50 tokens a second."""
    ids = [submit_one(store, parameters={"max_tokens": 10}) for _ in range(21)]
    store.mark_published(ids)
    beat(store, 50.0)
    assert [store.poll_after_seconds(store.get(ids[number])) for number in (0, 5, 20)] == [1, 1, 4]


def test_a_poll_is_bounded_and_needs_no_pace(store: Store, clock: Clock) -> None:
    ids = [submit_one(store, parameters={"max_tokens": 1000}) for _ in range(21)]
    store.mark_published(ids)
    assert [store.poll_after_seconds(store.get(ids[number])) for number in (0, 20)] == [1, waiting.UNKNOWN_SECONDS]
    beat(store, 1.0)
    assert store.poll_after_seconds(store.get(ids[20])) == 60
    clock.move(100)  # The worker has died.
    assert store.poll_after_seconds(store.get(ids[20])) == waiting.UNKNOWN_SECONDS
    ref = claim(store, ids[0]).ref
    assert store.poll_after_seconds(store.get(ids[0])) == 1
    store.finish(ref, success())
    assert store.poll_after_seconds(store.get(ids[0])) is None


def test_lines_are_taken_to_be_as_long_as_those_of_their_batch_were(store: Store) -> None:
    made = store.submit([make_line(parameters={"max_tokens": 4000}) for _ in range(101)], new_batch=True)
    store.finish(claim(store, made.ids[0]).ref, success())  # of two tokens
    beat(store, 20.0)
    assert store.poll_after_seconds(store.get(made.ids[100])) == 10


def test_a_batch_is_polled_when_it_should_be_done() -> None:
    batch = Batch(ended_at=None)
    answers = [waiting.seconds_to_poll_batch(batch, Rates(1.0, 1.0, eta, eta)) for eta in (0.0, 12.2, 5000.0)]
    assert answers == [1, 13, 60]
    assert waiting.seconds_to_poll_batch(batch, Rates()) == waiting.UNKNOWN_SECONDS


def test_an_ended_batch_needs_no_poll(store: Store) -> None:
    made = store.submit([make_line()], new_batch=True)
    assert store.poll_after_seconds(store.get_batch(str(made.batch_id))[0]) == waiting.UNKNOWN_SECONDS
    store.mark_published(store.to_publish({Priority.BATCH: 0}).batch)
    store.finish(claim(store, made.ids[0]).ref, success())
    assert store.poll_after_seconds(store.get_batch(str(made.batch_id))[0]) is None
