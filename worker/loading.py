"""From settings to a loaded model: find the file, see that it fits, load it, with progress and clear refusals.

Knows files, memory and the engine's model; knows no jobs and no Celery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.settings import Settings
from worker.engine.model import Model, ModelLoadError, ModelOptions
from worker.engine.probe import prove
from worker.gguf_header import Header, read_header
from worker.memory import TooLittleMemory, available_bytes, need_of, plan_context
from worker.progress import loading
from worker.proof import Proofs, proven
from worker.sources import ModelSource, ModelUnavailable, resolve

MAX_TILE_ROWS = 64
"""The largest tile that is tried. A kernel that takes more rows at a time is not known."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to run. `recipe`: all that decides a text but prompt, seed and row class. `proofs`: which row
    classes are exact here. `spare_cell_bytes`: memory for cells outside the slots."""

    source: ModelSource
    model: Model
    recipe: Mapping[str, Any]
    proofs: Proofs
    spare_cell_bytes: int


def options_of(settings: Settings) -> ModelOptions:
    """The engine's options, before memory had its say on the context."""
    return ModelOptions(
        slots=settings.slots,
        reserve_slots=settings.reserve_slots,
        context_tokens=settings.context_tokens,
        chunk_tokens=settings.chunk_tokens,
        tile_rows=settings.tile_rows,
        threads=settings.threads,
        kv_type=settings.kv_type,
        flash_attention=settings.flash_attention,
        attention=settings.attention,
        gpu_layers=settings.gpu_layers,
        main_gpu=settings.main_gpu,
        tensor_split=settings.tensor_split,
    )


def refuse_a_contradiction(settings: Settings) -> None:
    """Raises ModelUnavailable `attention_unavailable`: Penstock's own attention is asked for, and what it cannot do."""
    if settings.attention == "penstock" and not settings.suits_own_attention:
        message = (
            "PENSTOCK_ATTENTION=penstock needs a processor (PENSTOCK_GPU_LAYERS=0), PENSTOCK_KV_TYPE=f16 and "
            "PENSTOCK_FLASH_ATTENTION=true; `auto` takes llama.cpp's attention elsewhere."
        )
        raise ModelUnavailable("attention_unavailable", message)


def spare_cell_bytes(settings: Settings, available: int) -> int:
    """Memory for cells outside the slots: what was asked for, and never more than an eighth of what is free."""
    return min(settings.spare_cells_mib * 2**20, available // 8)


def load(settings: Settings) -> Loaded:
    """Resolve and load `settings.model`. Raises ModelUnavailable, in one line for a person."""
    refuse_a_contradiction(settings)
    source = resolve(settings)
    free = available_bytes()
    spare = spare_cell_bytes(settings, free)
    options = fit(read_header(source.path), source.path.stat().st_size, options_of(settings), free - spare)
    meter, report = loading(f"Loading {source.name}")
    try:
        with meter:
            model = Model.load(source.path, options, report)
    except ModelLoadError as error:
        raise ModelUnavailable(error.code, f"{source.name} cannot be loaded: {error}.") from error
    model = with_exact_tiles(model, source, settings.home, free - spare)
    recipe = recipe_of(model, source)
    return Loaded(source, model, recipe, proven(model, recipe, settings.home), spare)


def recipe_of(model: Model, source: ModelSource) -> dict[str, Any]:
    """All that decides a text but prompt, seed and row class."""
    return {**model.recipe, "model_sha256": source.sha256}


def with_exact_tiles(
    model: Model, source: ModelSource, home: Path, available: int, probe: Callable[[Model], Mapping[str, bool]] = prove
) -> Model:
    """The model with tiles that are exact: of as many rows as it has, or of twice as many until it holds. As it is
    where no size does, or where more do not fit into memory. The weights are loaded once, whatever is tried."""
    first = model.options
    for options in [first, *larger_tiles(first, source.path, available)]:
        model = model if options is first else model.reshaped(options)
        if proven(model, recipe_of(model, source), home, probe).get("tile", True):
            return model
    return model if model.options is first else model.reshaped(first)


def larger_tiles(options: ModelOptions, path: Path, available: int) -> list[ModelOptions]:
    """The same with tiles of twice the rows, and twice again, as far as more slots (a whole number of tiles) fit into
    memory. That of a GPU is not known here: there, as far as there are no more slots."""
    sizes = [options.tile_rows << times for times in range(1, MAX_TILE_ROWS.bit_length())]
    larger = [replace(options, tile_rows=rows) for rows in sizes if rows <= MAX_TILE_ROWS]
    header, file_bytes = read_header(path), path.stat().st_size

    def fits(other: ModelOptions) -> bool:
        if other.tile_slots == options.tile_slots:
            return True
        need = need_of(header, file_bytes, other.tile_slots + other.lone_slots, other.kv_type)
        return other.gpu_layers == 0 and need.total(other.context_tokens or 0) <= available

    return [other for other in larger if fits(other)]


def fit(header: Header, file_bytes: int, options: ModelOptions, available: int | None = None) -> ModelOptions:
    """The options with a context that fits into memory. Raises ModelUnavailable `too_little_memory`.

    With layers on a GPU the KV cells lie in its memory, which only llama.cpp can ask: it will say so itself.
    """
    trained = header.trained_context_tokens
    if trained is None:
        return options
    if options.gpu_layers != 0:
        return replace(options, context_tokens=options.context_tokens or trained)
    need = need_of(header, file_bytes, options.tile_slots + options.lone_slots, options.kv_type)
    free = available_bytes() if available is None else available
    try:
        context = plan_context(need, asked=options.context_tokens, trained=trained, available=free)
    except TooLittleMemory as error:
        raise ModelUnavailable("too_little_memory", f"The model does not fit into memory: {error}.") from error
    return replace(options, context_tokens=context)
