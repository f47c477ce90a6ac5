"""From settings to a loaded model: find the file, see that it fits, load it, with progress and clear refusals.

Knows files, memory and the engine's model; knows no jobs and no Celery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jobs.settings import Settings
from worker.engine.model import Model, ModelLoadError, ModelOptions
from worker.gguf_header import Header, read_header
from worker.memory import TooLittleMemory, available_bytes, need_of, plan_context
from worker.progress import loading
from worker.proof import Proofs, proven
from worker.sources import ModelSource, ModelUnavailable, resolve


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
        gpu_layers=settings.gpu_layers,
        main_gpu=settings.main_gpu,
        tensor_split=settings.tensor_split,
    )


def spare_cell_bytes(settings: Settings, available: int) -> int:
    """Memory for cells outside the slots: what was asked for, and never more than an eighth of what is free."""
    return min(settings.spare_cells_mib * 2**20, available // 8)


def load(settings: Settings) -> Loaded:
    """Resolve and load `settings.model`. Raises ModelUnavailable, in one line for a person."""
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
    recipe = {**model.recipe, "model_sha256": source.sha256}
    return Loaded(source, model, recipe, proven(model, recipe, settings.home), spare)


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
