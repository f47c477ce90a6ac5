"""Small GGUF files for tests that never load them: a head with a model's shape, and one tensor of zeros."""

from __future__ import annotations

import struct
from pathlib import Path


def gguf_bytes(*, num_tensors: int = 1, padding: int = 0, **values: int | str | list[str]) -> bytes:
    """A GGUF, version 3. Values: ints as uint32, strings, lists of strings as arrays."""
    pairs = b"".join(_text(key.replace("__", ".")) + _value(value) for key, value in values.items())
    return b"GGUF" + struct.pack("<IQQ", 3, num_tensors, len(values)) + pairs + bytes(padding)


def phi_like(**changes: int) -> bytes:
    """The head of a model of Phi-3-mini's shape."""
    shape = {
        "block_count": 32,
        "attention__head_count": 32,
        "attention__head_count_kv": 32,
        "embedding_length": 3072,
        "context_length": 4096,
        **changes,
    }
    return gguf_bytes(
        general__architecture="phi3",
        tokenizer__ggml__tokens=["a", "bc"],
        **{f"phi3__{name}": value for name, value in shape.items()},
    )


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value: int | str | list[str]) -> bytes:
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(item) for item in value)
