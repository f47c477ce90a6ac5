"""What the engine asks of a model: so much of `worker.engine.model.Model`, and a test's stand-in has it too."""

from __future__ import annotations

from typing import Any, Protocol

from worker.engine.model import ModelOptions
from worker.engine.sampling import Row, Sampler


class LoadedModel(Protocol):
    """A loaded model with its context. Only the engine's thread calls it."""

    options: ModelOptions
    context_tokens: int
    tile_slots: int
    num_slots: int
    vocabulary: Any
    blocks_are_exact: bool
    cuts_are_free: bool

    def prefill(self, pieces: Any, *, output_last: bool = False) -> Row | None: ...
    def decode_lone(self, slot: int, token: int, position: int) -> Row: ...
    def decode_tiles(self, rows: Any, first_slot: int) -> list[Row]: ...
    def forget(self, slot: int, start: int = 0) -> None: ...
    def save(self, slot: int) -> Any: ...
    def load_cells(self, slot: int, state: Any) -> None: ...
    def sampler(self, sampling: Any, prompt: Any) -> Sampler: ...
