"""The draw in C alone: what it leaves, what it draws, on every level of instructions and wherever the row lies."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.engine.test_attention_kernel import LEVELS
from worker.engine import attention
from worker.engine.draws import Draw, Draws
from worker.engine.generation import Sampling
from worker.engine.model import Model, ModelOptions
from worker.engine.sampling import NATIVE_CHAIN, NUMPY_CHAIN, Row, Sampler

SIZES = (1, 2, 15, 127, 128, 129, 1000, 2051, 32_064)
KNOBS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.5]),
        "top_k": st.sampled_from([None, 1, 5, 40, 600]),
        "top_p": st.sampled_from([None, 0.01, 0.5, 0.95, 0.999, 1.0]),
        "min_p": st.sampled_from([None, 0.01, 0.2, 1.0]),
        "repeat_penalty": st.sampled_from([1.0, 1.1, 2.0, 0.8]),
    }
)

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> list[Draws]:
    return [Draws(attention.build(tmp_path_factory.mktemp(level), level)) for level in LEVELS]


def row_of(seed: int) -> Floats:
    """Flat or steep, with equals, with what cannot come."""
    rng = np.random.default_rng(seed)
    row = (rng.normal(size=rng.choice(SIZES)) * rng.choice([0.0, 0.02, 1.0, 5.0, 30.0])).astype(np.float32)
    if rng.random() < 0.3:
        row = np.round(row)
    if rng.random() < 0.3:
        row[rng.random(len(row)) < rng.random()] = -np.inf
        row[rng.integers(len(row))] = 1.0
    return row


def given_to(sampler: Sampler, row: Floats) -> Floats:
    """The logits as bias and penalty leave them."""
    adjusted = row.copy()
    sampler._adjust(adjusted)
    return adjusted


@settings(max_examples=400)
@given(seed=st.integers(0, 10**6), knobs=KNOBS, uniform=st.floats(0, 1, exclude_max=True))
def test_it_draws_by_id_from_what_numpy_leaves(
    levels: list[Draws], seed: int, knobs: dict[str, Any], uniform: float
) -> None:
    row = row_of(seed)
    rng = random.Random(seed)
    recent = [rng.randrange(len(row)) for _ in range(rng.choice([0, 1, 64, 90]))]
    bias = {rng.randrange(len(row)): rng.gauss(0, 3) for _ in range(rng.choice([0, 2]))}
    sampling = Sampling(seed=1, logit_bias=bias, **knobs)
    beside = Sampler(sampling, recent, lambda token: b"")
    before = row.copy()
    drawn = set()
    for draws in levels:
        mine = Sampler(sampling, recent, lambda token: b"", draws=draws)
        mine._random = lambda: uniform
        drawn.add(mine.sample(Row(row)))
        assert np.array_equal(row, before)
    assert len(drawn) == 1, "one token on every level"

    logits = given_to(beside, row)
    if not knobs["temperature"]:
        assert drawn == {int(logits.argmax())}
        return
    left = np.sort(beside._kept(logits)) if beside._truncates else np.arange(len(row))
    wide = (logits[left].astype(np.float64) - logits.max()) / knobs["temperature"]
    sums = np.exp(wide).cumsum()
    # Which token is the last of a nucleus, or of a draw, hangs on the rounding of a sum.
    slack = 1e-4 * sums[-1] + (0 if knobs["top_p"] is None else np.exp(wide).min())
    (token,) = drawn
    place = int(np.searchsorted(left, token))
    at = uniform * sums[-1]
    low, high = (sums[place - 1] if place else 0.0), sums[min(place, len(left) - 1)]
    assert low - slack <= at <= high + slack


@pytest.mark.parametrize("top_p", [None, 0.9])
@pytest.mark.parametrize("top_k", [None, 3, 500])
def test_of_equals_the_lower_ids_are_left(levels: list[Draws], top_k: int | None, top_p: float | None) -> None:
    row = np.zeros(1000, dtype=np.float32)
    num_left = -(-(top_k or 1000) * 9 // 10) if top_p else top_k or 1000
    for draws in levels:
        sampler = Sampler(Sampling(seed=1, top_k=top_k, top_p=top_p), (), lambda token: b"", draws=draws)
        sampler._random = lambda: 0.999999
        assert sampler.sample(Row(row)) in {num_left - 1, num_left}
        sampler._random = lambda: 0.0
        assert sampler.sample(Row(row)) == 0


def test_every_token_that_is_left_comes_and_no_other(levels: list[Draws]) -> None:
    row = row_of(77)[:1000].copy()
    sampling = Sampling(seed=1, top_k=20, temperature=50.0)
    expected = set(Sampler(sampling, (), lambda token: b"")._kept(row).tolist())
    for draws in levels:
        sampler = Sampler(sampling, (), lambda token: b"", draws=draws)
        assert {sampler.sample(Row(row)) for _ in range(2000)} == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("knobs", [{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"temperature": 0.0}], ids=str)
@pytest.mark.parametrize("share", [1.0, 0.5, 0.001])
def test_rows_that_hold_no_numbers_give_some_token_of_the_row(
    levels: list[Draws], value: float, knobs: dict[str, Any], share: float
) -> None:
    rng = np.random.default_rng(3)
    for draws in levels:
        for size in SIZES:
            row = rng.normal(size=size).astype(np.float32)
            row[rng.random(size) <= share] = value
            sampler = Sampler(Sampling(seed=1, **knobs), (), lambda token: b"", draws=draws)
            assert all(0 <= sampler.sample(Row(row)) < size for _ in range(5))


def test_ids_outside_the_row_are_left_alone(levels: list[Draws]) -> None:
    wide = np.full(300, 7.0, dtype=np.float32)
    row = wide[100:200]
    recent = np.array([-1, 100, 150, 2**40, 5], dtype=np.int64)
    bias = np.full(5, 3.0, dtype=np.float32)
    for draws in levels:
        draw = Draw(draws, Sampling(seed=1, repeat_penalty=1.5), recent, recent, bias)
        assert 0 <= draw(row, len(recent), 0.5) < 100
        assert (wide == 7.0).all()


def test_it_uses_no_more_room_than_it_asks_for(levels: list[Draws]) -> None:
    """Its own memory ends where it says: what lies behind stays as it was."""
    knobs = Sampling(seed=1, top_k=900, top_p=0.99, repeat_penalty=1.2, logit_bias={1: 2.0})
    row = row_of(11)
    recent = np.arange(min(64, len(row)), dtype=np.int64)
    for draws in levels:
        draw = Draw(draws, knobs, recent, recent[:1].copy(), np.ones(1, dtype=np.float32))
        size = draws.room(draw._address, len(row))
        room = np.full(size + 64, 0xAB, dtype=np.uint8)
        draws.draw(draw._address, row.ctypes.data_as(ctypes.c_void_p), len(row), 0.5, room.ctypes.data)
        assert (room[size:] == 0xAB).all()


def test_a_model_says_which_of_the_two_draws(tiny_model_path: Path) -> None:
    chains = []
    for choice in ("auto", "llama.cpp"):
        model = Model.load(tiny_model_path, ModelOptions(slots=1, context_tokens=64, attention=choice))
        chains.append((model.recipe["sampler_chain"], "numpy" in model.recipe))
        model.close()
    assert chains == [(NATIVE_CHAIN, False), (NUMPY_CHAIN, True)]
