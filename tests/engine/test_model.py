"""Loading a model, what it says of itself, and the proof of its row classes."""

from __future__ import annotations

import re
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from worker.engine.model import Model, ModelLoadError, ModelOptions, Piece
from worker.engine.probe import prove


def test_both_row_classes_are_proven_with_whole_tiles(model: Model) -> None:
    assert prove(model) == {"tile": True, "lone": True, "blocks": True, "cuts": True}
    assert [model.num_cells(slot) for slot in range(model.num_slots)] == [0] * model.num_slots


def test_the_probe_sees_that_a_tile_of_one_row_is_not_exact(tiny_model_path: Path) -> None:
    unpadded = Model.load(tiny_model_path, ModelOptions(slots=16, tile_rows=1, lone_below=0, context_tokens=256))
    try:
        proven = prove(unpadded)
        assert (proven["tile"], proven["lone"]) == (False, True)
    finally:
        unpadded.close()


@pytest.mark.parametrize(("slots", "tile_rows"), [(1, 1), (2, 2), (4, 4)])
def test_the_probe_gets_by_with_few_slots(tiny_model_path: Path, slots: int, tile_rows: int) -> None:
    few = Model.load(tiny_model_path, ModelOptions(slots=slots, tile_rows=tile_rows, lone_below=0, context_tokens=512))
    try:
        assert set(prove(few)) == {"tile", "lone", "blocks", "cuts"}
        assert [few.num_cells(slot) for slot in range(few.num_slots)] == [0] * few.num_slots
    finally:
        few.close()


def test_both_row_classes_hold_beside_a_sequence_of_more_cells(tiny_model_path: Path) -> None:
    """Attention takes cells in wholes of 256."""
    roomy = Model.load(tiny_model_path, ModelOptions(slots=16, context_tokens=512))
    try:
        assert prove(roomy) == {"tile": True, "lone": True, "blocks": True, "cuts": True}
    finally:
        roomy.close()


@pytest.mark.parametrize(("slots", "tile", "lone"), [(16, 16, 2), (17, 32, 2), (6, 16, 2), (5, 0, 7), (1, 0, 3)])
def test_slots_are_whole_tiles_unless_they_are_few(slots: int, tile: int, lone: int) -> None:
    options = ModelOptions(slots=slots)
    assert (options.tile_slots, options.lone_slots) == (tile, lone)


def test_loading_reports_progress_to_the_end(tiny_model_path: Path) -> None:
    seen: list[float] = []
    Model.load(tiny_model_path, ModelOptions(slots=1, context_tokens=256), seen.append).close()
    assert seen[-1] == 1.0
    assert seen == sorted(seen)


def test_a_cut_off_file_is_refused_with_its_name(tiny_model_path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_model_path.read_bytes()[:-4096])
    with pytest.raises(ModelLoadError, match=r"cut\.gguf") as caught:
        Model.load(cut, ModelOptions(slots=1))
    assert caught.value.code == "model_unreadable"


def test_the_recipe_names_all_that_decides_the_bits(model: Model) -> None:
    assert set(model.recipe) >= {
        "llama_cpp", "backend", "devices", "kernels", "threads", "kv_layout", "kv_type", "flash_attention",
        "chunk_tokens", "block_tokens", "tile_rows", "template_sha256", "sampler_chain", "prefill",
    }  # fmt: skip


def test_the_recipe_knows_one_build_and_one_device_from_another(model: Model) -> None:
    """A version alone does not: builds of one version come from different sources, for different processors."""
    recipe = model.recipe
    assert re.search(r"ggml [0-9]+\.[0-9]+\.[0-9]+ [0-9a-f]{7}", recipe["llama_cpp"])
    assert llama_cpp.__version__ in recipe["llama_cpp"]
    assert recipe["backend"].split("+")[0] == "CPU"
    assert all(": " in device for device in recipe["devices"])
    assert "AVX" in recipe["kernels"] or "NEON" in recipe["kernels"]


@pytest.mark.parametrize(("chunk", "rows"), [(16, 64), (64, 64), (200, 192), (256, 256)])
def test_a_chunk_is_whole_blocks_and_at_least_one(chunk: int, rows: int) -> None:
    assert ModelOptions(chunk_tokens=chunk).chunk_rows == rows


@pytest.mark.parametrize("length", [1, 15, 40, 64, 65, 100, 200])
def test_a_prompt_has_the_same_cells_however_its_prefill_is_cut_and_shared(model: Model, length: int) -> None:
    prompt = [(31 * n) % 30_000 + 300 for n in range(length)]
    other = [(17 * n) % 30_000 + 300 for n in range(length)]
    step = model.decode_lone
    model.prefill([Piece(0, 0, prompt[:64], min(-(-length // 16) * 16, 64))])
    for start in range(64, length, 64):
        part = prompt[start : start + 64]
        model.prefill([Piece(0, start, part, -(-len(part) // 16) * 16)])
    alone = step(0, 7, length).logits.copy()
    model.forget(0)
    for start in range(0, length, 64):
        mine, theirs = prompt[start : start + 64], other[start : start + 64]
        rows = -(-len(mine) // 8) * 8
        model.prefill([Piece(4, start, theirs, rows), Piece(5, start, mine, rows)])
    shared = step(5, 7, length).logits.copy()
    model.forget(4)
    model.forget(5)
    assert np.array_equal(alone, shared)
