"""What the stage of the benchmarks and of the siege says about a system that moves while it is looked at."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import cycle

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from jobs.database import open_engine
from jobs.records import AttemptRef, Interrupted
from jobs.store import Store
from ops.bench.stage import num_alive
from tests.jobs.support import Clock, claim, make_settings, submit_one, success


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store]:
    engine = open_engine(sqlite_url)
    yield Store(engine, settings=make_settings(), clock=Clock(), dice=random.Random(7))
    engine.dispose()


@pytest.mark.parametrize("running_first", [False, True])
def test_a_job_that_is_claimed_or_given_back_between_two_looks_is_seen(store: Store, running_first: bool) -> None:
    job_id = submit_one(store)
    moves = cycle(["claim", "give back"])
    held: list[AttemptRef] = []

    def move() -> None:
        if next(moves) == "claim":
            held.append(claim(store, job_id).ref)
        else:
            store.finish(held.pop(), Interrupted())

    if running_first:
        move()
    moving = False

    @sa.event.listens_for(Engine, "after_cursor_execute")
    def between_two_looks(_: object, __: object, statement: str, *___: object) -> None:
        nonlocal moving
        if not moving and statement.startswith("SELECT"):
            moving = True
            move()
            moving = False

    assert [num_alive(store) for _ in range(4)] == [1] * 4
    sa.event.remove(Engine, "after_cursor_execute", between_two_looks)


def test_what_has_ended_is_not_alive(store: Store) -> None:
    store.finish(claim(store, submit_one(store)).ref, success())
    store.cancel(submit_one(store))
    assert num_alive(store) == 0
