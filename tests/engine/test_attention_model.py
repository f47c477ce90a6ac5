"""Our attention in a whole model: as near to the truth as llama.cpp's own, and one that nobody's company changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from ops.demo_model.random_weights import SHAPES, write_random_model
from worker.engine import attention
from worker.engine.model import Model, ModelLoadError, ModelOptions, Piece, TileRow

Whose = Literal["penstock", "llama.cpp", "none"]
STEPS = 8
PROMPTS = [[(7919 * n * (number + 2) + n * n) % 1700 + 300 for n in range(180)] for number in range(6)]


@pytest.fixture
def logits_of(demo_model_path: Path) -> Iterator[Callable[[Whose], NDArray[np.float32]]]:
    """Logits of some steps after some prompts. `none`: plain products and a softmax."""

    def logits(whose: Whose) -> NDArray[np.float32]:
        plain = whose == "none"
        options = ModelOptions(
            slots=16, context_tokens=512, flash_attention=not plain, attention="auto" if whose == "none" else whose
        )
        model = Model.load(demo_model_path, options)
        try:
            return np.array([row for prompt in PROMPTS for row in _rows(model, prompt)])
        finally:
            model.close()

    yield logits
    attention.use("auto")


def _rows(model: Model, tokens: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    start = len(tokens) - STEPS
    for at in range(0, start, 64):
        part = tokens[at : min(at + 64, start)]
        model.prefill([Piece(0, at, part, -(-len(part) // 16) * 16)])
    for position in range(start, len(tokens)):
        rows = [TileRow(tokens[position], position), *[TileRow(0, 0, dummy=True)] * 15]
        yield model.decode_tiles(rows, 0)[0].logits.copy()
    model.forget(0)


def test_it_is_no_farther_from_plain_products_than_llama_cpps_own(
    logits_of: Callable[[Whose], NDArray[np.float32]],
) -> None:
    """All of them differ by chance, for what goes into each product of a quantized model is rounded to a byte."""
    ours, theirs, plain = (logits_of(whose) for whose in ("penstock", "llama.cpp", "none"))
    assert not np.array_equal(ours, theirs)
    own, other = (float(np.sqrt(np.mean((each - plain) ** 2))) for each in (ours, theirs))
    assert own < 1.5 * other


def test_whose_attention_it_is_decides_the_bits_and_is_part_of_the_recipe(
    demo_model_path: Path, logits_of: Callable[[Whose], NDArray[np.float32]]
) -> None:
    assert np.array_equal(logits_of("llama.cpp"), logits_of("llama.cpp"))
    assert np.array_equal(logits_of("penstock"), logits_of("penstock"))
    recipes = []
    for whose in ("penstock", "llama.cpp"):
        model = Model.load(demo_model_path, ModelOptions(slots=1, context_tokens=256, attention=whose))
        recipes.append(model.recipe["devices"])
        model.close()
    assert [any(device.startswith(f"{attention.DEVICE}: ") for device in each) for each in recipes] == [True, False]


@pytest.fixture
def odd_model_path(tmp_path: Path) -> Path:
    """With heads of eight numbers, which our attention does not do."""
    path = tmp_path / "odd.gguf"
    write_random_model(path, replace(SHAPES["tiny"], num_heads=32), context_tokens=256)
    return path


def test_a_model_that_our_attention_does_not_do_has_llama_cpps_and_says_so(odd_model_path: Path) -> None:
    try:
        model = Model.load(odd_model_path, ModelOptions(slots=1, context_tokens=256))
        assert model.attention == "llama.cpp: this model's attention is of a kind that it does not do"
        assert not any(device.startswith(attention.DEVICE) for device in model.recipe["devices"])
        assert not model.cuts_are_free
        model.prefill([Piece(0, 0, [300, 301], 16)])
        assert np.isfinite(model.decode_lone(0, 302, 2).logits).all()
        model.close()
        with pytest.raises(ModelLoadError, match="of a kind that it does not do") as refused:
            Model.load(odd_model_path, ModelOptions(slots=1, context_tokens=256, attention="penstock"))
        assert refused.value.code == "attention_unavailable"
    finally:
        attention.use("auto")


def test_the_next_model_has_ours_again(odd_model_path: Path, demo_model_path: Path) -> None:
    for path, whose in ((odd_model_path, "llama.cpp"), (demo_model_path, attention.DEVICE)):
        model = Model.load(path, ModelOptions(slots=1, context_tokens=256))
        assert model.attention.startswith(whose)
        model.close()
