"""A model made ready: tiles of a size that is exact on this machine, found by trying, remembered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from worker.engine.model import Model, ModelOptions
from worker.engine.probe import prove
from worker.loading import larger_tiles, recipe_of, with_exact_tiles
from worker.proof import proven
from worker.sources import ModelSource

ENOUGH = 2**40


class Probing:
    """A probe that finds tiles of at least so many rows exact, and remembers the sizes it was asked about."""

    def __init__(self, least: int) -> None:
        self.least = least
        self.sizes: list[int] = []

    def __call__(self, model: Model) -> Mapping[str, bool]:
        self.sizes.append(model.options.tile_rows)
        return {"tile": model.options.tile_rows >= self.least, "lone": True, "blocks": True, "cuts": True}


@pytest.fixture
def source(tiny_model_path: Path) -> ModelSource:
    return ModelSource("tiny", tiny_model_path, None, None, "0" * 64)


@pytest.fixture
def model(source: ModelSource) -> Model:
    """Whoever takes it closes what it becomes."""
    return Model.load(source.path, ModelOptions(slots=6, tile_rows=8, context_tokens=64))


def test_sizes_are_tried_upward_until_one_holds(model: Model, source: ModelSource, tmp_path: Path) -> None:
    probing = Probing(32)
    found = with_exact_tiles(model, source, tmp_path, ENOUGH, probing)
    assert (found.options.tile_rows, found.tile_slots, probing.sizes) == (32, 32, [8, 16, 32])
    assert proven(found, recipe_of(found, source), tmp_path, probing) == {"tile": True, "lone": True}
    assert recipe_of(found, source)["tile_rows"] == 32
    assert probing.sizes == [8, 16, 32], "what is known is not proven again"
    found.close()


def test_where_no_size_holds_the_first_is_kept(model: Model, source: ModelSource, tmp_path: Path) -> None:
    probing = Probing(1000)
    found = with_exact_tiles(model, source, tmp_path, ENOUGH, probing)
    assert (found.options.tile_rows, probing.sizes) == (8, [8, 16, 32, 64])
    found.close()


def test_no_size_is_tried_that_does_not_fit(model: Model, source: ModelSource, tmp_path: Path) -> None:
    probing = Probing(32)
    found = with_exact_tiles(model, source, tmp_path, 0, probing)
    assert (found.options.tile_rows, probing.sizes) == (8, [8])
    found.close()


def test_larger_tiles_that_need_no_more_slots_always_fit(tiny_model_path: Path) -> None:
    options = ModelOptions(slots=32, gpu_layers=-1, context_tokens=64)
    assert [other.tile_rows for other in larger_tiles(options, tiny_model_path, 0)] == [32]


def test_a_tile_that_is_too_small_for_this_machine_grows_until_it_is_exact(source: ModelSource, tmp_path: Path) -> None:
    """With the probe itself: rows that share calls of any number are not exact, some number of them is."""
    single = Model.load(source.path, ModelOptions(slots=16, tile_rows=1, lone_below=0, context_tokens=256))
    found = with_exact_tiles(single, source, tmp_path, ENOUGH)
    assert found.options.tile_rows > 1
    assert prove(found)["tile"] is True
    found.close()
