"""Sampling, in C and in numpy, beside llama.cpp's own samplers: the same candidates, the same probabilities."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator
from typing import Any

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from worker.engine import attention
from worker.engine.draws import Draws
from worker.engine.generation import Sampling
from worker.engine.model import Model
from worker.engine.sampling import Row, Sampler

SIZE = 2000
DRAWS = 20_000


def logits(seed: int, size: int = SIZE, spread: float = 4.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=size) * spread).astype(np.float32)


@pytest.fixture(params=["native", "numpy"])
def sampler(request: pytest.FixtureRequest) -> Callable[..., Sampler]:
    draws = Draws(attention.library()) if request.param == "native" else None

    def make(prompt: tuple[int, ...] = (), grammar: Any = None, **knobs: Any) -> Sampler:
        return Sampler(Sampling(**{"seed": 1, **knobs}), prompt, lambda token: b"", grammar, draws)

    return make


def chain(**knobs: Any) -> Iterator[Any]:
    yield from (
        make(value)
        for name, make in (
            ("top_k", llama_cpp.llama_sampler_init_top_k),
            ("top_p", lambda p: llama_cpp.llama_sampler_init_top_p(p, 1)),
            ("min_p", lambda p: llama_cpp.llama_sampler_init_min_p(p, 1)),
            ("temperature", llama_cpp.llama_sampler_init_temp),
        )
        if (value := knobs.get(name))
    )


def theirs(row: NDArray[np.float32], **knobs: Any) -> dict[int, float]:
    """Probability of each token that llama.cpp's samplers leave."""
    data = (llama_cpp.llama_token_data * len(row))(*((i, float(x), 0.0) for i, x in enumerate(row)))
    array = llama_cpp.llama_token_data_array(data=data, size=len(row), selected=-1, sorted=False)
    for step in chain(**knobs):
        llama_cpp.llama_sampler_apply(step, ctypes.byref(array))
        llama_cpp.llama_sampler_free(step)
    left = {array.data[i].id: array.data[i].logit for i in range(array.size)}
    highest = max(left.values())
    weights = {token: np.exp(np.float64(value) - highest) for token, value in left.items()}
    total = sum(weights.values())
    return {token: float(weight / total) for token, weight in weights.items()}


KNOBS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"top_k": 40},
    {"top_p": 0.9},
    {"top_p": 0.9, "temperature": 2.0},
    {"min_p": 0.05},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8},
    {"top_p": 0.5, "min_p": 0.2},
]


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
@pytest.mark.parametrize("spread", [0.02, 4.0])
def test_the_same_tokens_are_left_as_by_llama_cpp(knobs: dict[str, Any], spread: float) -> None:
    row = logits(3, spread=spread)
    mine = Sampler(Sampling(seed=1, **knobs), (), lambda token: b"")
    kept = set(mine._kept(row.copy()).tolist()) if mine._truncates else set(range(SIZE))
    expected = set(theirs(row, **{"temperature": None, **knobs}))
    assert len(kept ^ expected) <= 1  # the last of a nucleus hangs on the rounding of a sum
    assert len(kept) == len(expected) or abs(len(kept) - len(expected)) == 1


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_draws_follow_llama_cpps_probabilities(knobs: dict[str, Any], sampler: Callable[..., Sampler]) -> None:
    """Chi-square over tokens with at least 20 expected draws, the rest in one bin: below the 99.99 % quantile."""
    row = logits(5)
    expected = theirs(row, **knobs)
    mine = sampler(**knobs)
    draws = np.bincount([mine.sample(Row(row)) for _ in range(DRAWS)], minlength=SIZE)
    assert set(np.flatnonzero(draws)) <= set(expected)
    often = [token for token, p in expected.items() if p * DRAWS >= 20]
    rest = max(1 - sum(expected[token] for token in often), 0.0)
    bins = [(draws[token], expected[token] * DRAWS) for token in often]
    if rest * DRAWS >= 5:
        bins.append((DRAWS - sum(draws[token] for token in often), rest * DRAWS))
    chi_square = sum((seen - wanted) ** 2 / wanted for seen, wanted in bins)
    degrees = max(len(bins) - 1, 1)
    assert chi_square < degrees + 5 * np.sqrt(2 * degrees) + 10


def test_a_row_gives_the_same_tokens_wherever_it_lies_in_memory(sampler: Callable[..., Sampler]) -> None:
    row = logits(7, 32_064)
    wide = np.empty(32_064 + 64, dtype=np.float32)
    expected = [sampler(seed=seed, top_p=0.95, repeat_penalty=1.2).sample(Row(row)) for seed in range(50)]
    for shift in (1, 3, 17):
        part = wide[shift : shift + 32_064]
        part[:] = row
        assert [sampler(seed=s, top_p=0.95, repeat_penalty=1.2).sample(Row(part)) for s in range(50)] == expected


def test_tokens_that_cannot_come_never_come(sampler: Callable[..., Sampler]) -> None:
    row = np.full(300, -np.inf, dtype=np.float32)
    row[[5, 299]] = 0.0
    mine = sampler()
    assert {mine.sample(Row(row)) for _ in range(500)} == {5, 299}


def test_a_temperature_near_none_leaves_the_likeliest(sampler: Callable[..., Sampler]) -> None:
    row = logits(4)
    for temperature in (1e-300, 5e-324, 1e-20):
        assert sampler(temperature=temperature).sample(Row(row)) == row.argmax()


def test_the_logits_that_were_given_are_left_as_they_were(sampler: Callable[..., Sampler]) -> None:
    row = logits(9)
    before = row.copy()
    sampler((1, 2, 3), repeat_penalty=1.5, logit_bias={7: 3.0}, top_k=5).sample(Row(row))
    assert np.array_equal(row, before)


class EvenOnly:
    """A grammar that allows even tokens."""

    def __init__(self) -> None:
        self.masked = 0

    def allows(self, token: int) -> bool:
        return token % 2 == 0

    def mask(self, row: NDArray[np.float32]) -> None:
        self.masked += 1
        row[1::2] = -np.inf

    def accept(self, token: int) -> None:
        assert token % 2 == 0

    def close(self) -> None: ...


def test_draws_within_a_grammar_have_the_distribution_of_what_it_allows(sampler: Callable[..., Sampler]) -> None:
    row = np.log(np.arange(1, 11, dtype=np.float32))
    grammar = EvenOnly()
    mine = sampler(grammar=grammar)
    draws = np.bincount([mine.sample(Row(row)) for _ in range(DRAWS)], minlength=10)
    expected = np.where(np.arange(10) % 2 == 0, np.arange(1, 11), 0) / 25 * DRAWS
    allowed = expected > 0
    assert ((draws[allowed] - expected[allowed]) ** 2 / expected[allowed]).sum() < 23.5
    assert draws[~allowed].sum() == 0
    assert grammar.masked < DRAWS / 10  # a few draws were cheaper nearly every time


def test_where_a_grammar_allows_next_to_nothing_all_tokens_are_put_to_it(sampler: Callable[..., Sampler]) -> None:
    row = np.zeros(1000, dtype=np.float32)
    row[1::2] = 20.0
    grammar = EvenOnly()
    token = sampler(grammar=grammar).sample(Row(row))
    assert (token % 2, grammar.masked) == (0, 1)


def test_a_grammar_of_the_model_masks_what_it_refuses(model: Model) -> None:
    grammar = model.vocabulary.grammar({"type": "boolean"})
    row = np.zeros(model.vocabulary.size, dtype=np.float32)
    mine = model.sampler(Sampling(seed=3, top_k=5, grammar=grammar), ())
    text = b"".join(model.vocabulary.piece(mine.sample(Row(row))) for _ in range(1))
    mine.close()
    assert any(json.dumps(value).startswith(text.decode().strip() or "t") for value in (True, False))


def test_the_top_logprobs_are_sorted_and_sum_to_no_more_than_one(sampler: Callable[..., Sampler]) -> None:
    row = logits(11, 5000)
    entry = sampler().logprob(Row(row), 17, 20)
    values = [value for _, _, value in entry.top]
    assert values == sorted(values, reverse=True)
    assert [token for token, _, _ in entry.top] == np.argsort(-row, kind="stable")[:20].tolist()
    assert np.exp(values).sum() <= 1
