"""Real GGUF files for tests, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.demo_model.random_weights import SHAPES, write_random_model

ROOT = Path(__file__).resolve().parents[2]
DEMO_MODEL = ROOT / "ops" / "demo_model" / "phi-3-demo.gguf"
VOCABULARY = ROOT / "ops" / "demo_model" / "phi-3-vocab.gguf"


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, two layers of 256: every shape is real, the text is noise, and it never ends by itself."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_random_model(path, SHAPES["tiny"], context_tokens=1024)
    return path


@pytest.fixture(scope="session")
def demo_model_path() -> Path:
    """The model that ships with the project."""
    return DEMO_MODEL
