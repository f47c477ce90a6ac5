"""Does it fit: contexts cut to what memory allows, and refusals before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.worker.gguf_files import phi_like, write
from worker.engine.model import ModelOptions
from worker.gguf_header import Header, read_header
from worker.loading import fit, options_of, spare_cell_bytes
from worker.memory import WORKING_BYTES, Need, TooLittleMemory, _cgroup_bytes, available_bytes, plan_context
from worker.sources import ModelUnavailable

GIB = 2**30
MINI = Need(file_bytes=int(2.39 * GIB), num_slots=17, kv_bytes_per_token=384 * 1024)


def test_with_room_the_context_is_what_the_model_was_trained_for() -> None:
    assert plan_context(MINI, asked=None, trained=4096, available=64 * GIB) == 4096


def test_with_less_room_it_is_cut_to_whole_steps_that_fit() -> None:
    context = plan_context(MINI, asked=None, trained=4096, available=16 * GIB)
    assert context % 256 == 0
    assert MINI.total(context) <= 16 * GIB < MINI.total(context + 256)


def test_what_was_asked_for_is_not_cut() -> None:
    assert plan_context(MINI, asked=1000, trained=4096, available=64 * GIB) == 1000
    with pytest.raises(TooLittleMemory, match="4096 tokens each"):
        plan_context(MINI, asked=4096, trained=4096, available=16 * GIB)


def test_too_little_says_how_much_and_what_to_turn() -> None:
    with pytest.raises(TooLittleMemory, match=r"2\.4 GiB of weights.*1\.0 GiB are free; use fewer slots"):
        plan_context(MINI, asked=None, trained=4096, available=GIB)


def test_a_short_trained_context_needs_no_more_than_itself() -> None:
    need = Need(1024, 1, 1024)
    assert plan_context(need, asked=None, trained=128, available=WORKING_BYTES + 2**20) == 128


@pytest.fixture
def header(tmp_path: Path) -> Header:
    return read_header(write(tmp_path / "x.gguf", phi_like()))


def test_the_fit_counts_every_slot_of_the_engine(header: Header) -> None:
    options = fit(header, 2 * GIB, ModelOptions(slots=16, reserve_slots=1), available=10 * GIB)
    assert options.context_tokens == 1024
    with pytest.raises(ModelUnavailable) as refused:
        fit(header, 2 * GIB, ModelOptions(slots=16, reserve_slots=1), available=3 * GIB)
    assert refused.value.code == "too_little_memory"


def test_smaller_kv_cells_leave_room_for_more_context(header: Header) -> None:
    half = ModelOptions(slots=16, reserve_slots=1, kv_type="q8_0")
    context = fit(header, 2 * GIB, half, available=10 * GIB).context_tokens
    assert context is not None
    assert context > 1024


def test_memory_of_a_gpu_is_not_ours_to_judge(header: Header) -> None:
    assert fit(header, 2 * GIB, ModelOptions(gpu_layers=-1), available=0).context_tokens == 4096
    assert fit(header, 2 * GIB, ModelOptions(gpu_layers=-1, context_tokens=99), available=0).context_tokens == 99


def test_a_cgroup_limit_counts_file_pages_as_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\nactive_file 100\n")
    assert _cgroup_bytes(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert _cgroup_bytes(tmp_path) is None
    assert available_bytes() > 0


def test_cells_outside_the_slots_get_what_was_asked_for_and_an_eighth_of_what_is_free_at_most() -> None:
    settings = Settings(spare_cells_mib=512)
    assert spare_cell_bytes(settings, 64 * GIB) == 512 * 2**20
    assert spare_cell_bytes(settings, GIB) == GIB // 8
    assert spare_cell_bytes(Settings(spare_cells_mib=0), 64 * GIB) == 0


def test_the_parts_of_a_split_model_are_read_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TENSOR_SPLIT", "3, 1")
    monkeypatch.setenv("PENSTOCK_MAIN_GPU", "1")
    options = options_of(Settings())
    assert (options.tensor_split, options.main_gpu) == ((3.0, 1.0), 1)
