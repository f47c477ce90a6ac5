"""A tiny real model for the engine's tests: two layers of random weights with the real vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from worker.engine.engine import Engine
from worker.engine.model import Model, ModelOptions

Running = Callable[..., AbstractContextManager[Engine]]


@pytest.fixture(scope="session")
def model(tiny_model_path: Path) -> Iterator[Model]:
    loaded = Model.load(tiny_model_path, ModelOptions(slots=16, reserve_slots=2, context_tokens=256, chunk_tokens=64))
    yield loaded
    loaded.close()


@pytest.fixture
def running(model: Model) -> Running:
    """`with running(on_text=…) as engine`: a started engine that is stopped, and has left no cells, at the end. With
    `started=False` the test steps it: what comes between two steps then does so on the busiest machine."""

    @contextmanager
    def run(*, started: bool = True, **options: Any) -> Iterator[Engine]:
        engine = Engine(model, **options)
        if started:
            engine.start()
        try:
            yield engine
        finally:
            engine.stop()
            if not engine._thread.ident:  # it ends what is left
                engine.start()
                engine.stop()
        assert [model.num_cells(slot) for slot in range(model.num_slots)] == [0] * model.num_slots

    return run
