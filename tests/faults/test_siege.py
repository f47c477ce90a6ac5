"""Hostile callers and a crowd against real processes: nobody falls, nothing is lost, the audit is clean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.bench.load import put_under_load
from ops.bench.stage import Stage, staged
from ops.fuzz.__main__ import after_the_siege, besiege
from ops.fuzz.hostile import KINDS, attacks

SEED = 3
LET_IN = 6
MEMORY_BYTES = 200 * 2**20


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged(slots=4, max_requests=LET_IN) as stage:
        stage.start("api", "dispatcher", "worker")
        yield stage


def test_attacks_are_the_same_for_the_same_seed() -> None:
    assert list(attacks(SEED, 100)) == list(attacks(SEED, 100)) != list(attacks(SEED + 1, 100))


def test_hostile_requests_of_every_kind_are_refused_or_harmless(stage: Stage) -> None:
    siege = besiege(stage.url, SEED, 12 * len(KINDS))
    assert siege.faults == {}
    assert after_the_siege(stage) == []


def test_more_callers_than_are_let_in_get_refusals_and_no_errors_and_nothing_is_lost(stage: Stage) -> None:
    load = put_under_load(stage, clients=40, calls=6, seconds=60)
    assert load.errors == {}
    assert load.refusals.get(503, 0) > 0
    assert (load.missing, load.extra, load.audit) == ({}, 0, [])
    assert load.jobs > 0
    assert load.most_bytes - load.first_bytes < MEMORY_BYTES
