"""The head of a GGUF file: is it one, how many bytes of KV cells a token of it costs, its metadata without tensors.

Reads a few kilobytes to a few megabytes, in milliseconds, before anything is loaded. Knows no llama.cpp: its loader
says less about what is wrong. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (little endian,
versions 2 and 3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_STRING = 64 * 1024 * 1024


class NotGGUF(Exception):
    """The file does not start like a GGUF file, or its head is cut short."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the head says. `values`: the metadata, arrays left out. All counts as in the file."""

    values: dict[str, Any]
    num_tensors: int
    num_bytes: int
    """Up to the end of the metadata; the list of tensors follows."""

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    @property
    def trained_context_tokens(self) -> int | None:
        value = self._of_architecture("context_length")
        return int(value) if isinstance(value, int) else None

    def kv_bytes_per_token(self, bytes_per_value: float = 2.0) -> int | None:
        """Bytes of KV cells for one token of one sequence (every layer full attention); None if not said."""
        layers, heads = self._of_architecture("block_count"), self._of_architecture("attention.head_count")
        width = self._of_architecture("embedding_length")
        if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(width, int) and heads):
            return None
        kv_heads = self._of_architecture("attention.head_count_kv") or heads
        key = self._of_architecture("attention.key_length") or width // heads
        value = self._of_architecture("attention.value_length") or width // heads
        return int(layers * kv_heads * (key + value) * bytes_per_value)

    def _of_architecture(self, name: str) -> Any:
        return self.values.get(f"{self.architecture}.{name}")


def read_header(path: Path) -> Header:
    """Read the metadata of `path`. Raises NotGGUF, or OSError where the file cannot be read."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise NotGGUF("it does not start with the letters GGUF")
        try:
            version, num_tensors, num_values = _unpack(file, "IQQ")
            if version not in (2, 3):
                raise NotGGUF(f"GGUF version {version} is not known (2 and 3 are)")
            values = dict(_read_pair(file) for _ in range(num_values))
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise NotGGUF("its head is damaged or cut short") from error
        num_bytes = file.tell()
    return Header({key: value for key, value in values.items() if value is not None}, num_tensors, num_bytes)


def without_tensors(path: Path) -> bytes:
    """All metadata and no tensors, as a GGUF file of its own: what `Vocabulary.from_bytes` reads."""
    with path.open("rb") as file:
        head = bytearray(file.read(read_header(path).num_bytes))
    head[8:16] = bytes(8)  # the count of tensors, after magic and version
    return bytes(head)


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack("<" + layout, file.read(struct.calcsize("<" + layout)))


def _read_pair(file: BinaryIO) -> tuple[str, Any]:
    key = _read_string(file)
    (kind,) = _unpack(file, "I")
    return key, _read_value(file, kind)


def _read_string(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    if length > _MAX_STRING:
        raise NotGGUF("its head is damaged")
    data = file.read(length)
    if len(data) != length:
        raise NotGGUF("its head is cut short")
    return data.decode()


def _read_value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _read_string(file)
    if kind == _ARRAY:
        return _skip_array(file)
    return _unpack(file, _SCALARS[kind])[0]


def _skip_array(file: BinaryIO) -> None:
    kind, length = _unpack(file, "IQ")
    if kind in _SCALARS:
        file.seek(length * struct.calcsize("<" + _SCALARS[kind]), 1)
        return
    for _ in range(length):
        if kind == _STRING:
            file.seek(_unpack(file, "Q")[0], 1)
        else:
            _read_value(file, kind)
