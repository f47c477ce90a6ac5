"""A real worker whose engine answers at once: `python -m ops.bench.instant_worker`, for `ops.bench.overhead`.

Everything is the worker's own (Celery, claims, tokenizer, leases, results, events) but the model and its steps: each
request ends in the call that submits it, with a few words of text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ops.demo_model import VOCABULARY
from worker.__main__ import main
from worker.engine.generation import Completion, EngineStats, Generation, Request, TextDelta
from worker.engine.vocabulary import Vocabulary
from worker.loading import Loaded
from worker.sources import ModelSource
from worker.station import Station

TEXT = "Skates carve the ice"
TOKENS = (4971, 1078, 1559, 345, 278, 14890)
_TIMINGS = {"queued": 0.0, "prefill": 0.0, "first_token": 0.0, "decode": 0.0, "total": 0.0}


class InstantEngine:
    """Ends every generation at once."""

    failure: BaseException | None = None

    def __init__(self, on_text: Callable[[list[TextDelta]], None]) -> None:
        self._on_text = on_text

    def start(self) -> None:
        """There is no thread."""

    def submit(self, request: Request) -> Generation:
        generation = Generation(request)
        self._on_text([TextDelta(request.id, TEXT, len(TEXT))])
        generation.end(Completion(TEXT, TOKENS, "stop", len(request.prompt.token_ids), "tile", _TIMINGS))
        return generation

    def stats(self) -> EngineStats:
        return EngineStats(16, 0, 0, 0.0, 0, 0)

    def stop(self, drain_seconds: float = 0.0) -> None:
        """Nothing runs."""


class InstantStation(Station):
    """The station of a worker without a model; its vocabulary is the real one."""

    def _load_or_exit(self) -> Loaded:
        vocabulary = Vocabulary.from_gguf(VOCABULARY)
        model: Any = SimpleNamespace(
            vocabulary=vocabulary, context_tokens=4096, tile_slots=16, num_slots=18, attention="none"
        )
        source = ModelSource(self.settings.model_name, VOCABULARY, None, None, "0" * 64)
        return Loaded(source, model, {"engine": "instant"}, {"tile": True, "lone": True}, 0)

    def _make_engine(self, loaded: Loaded) -> Any:  # noqa: ARG002
        return InstantEngine(self._broadcaster.deltas)


if __name__ == "__main__":
    sys.exit(main(InstantStation))
