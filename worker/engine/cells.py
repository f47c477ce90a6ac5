"""Saved KV cells, and how to cut them into blocks of tokens and put blocks together again.

A saved sequence is what llama.cpp writes for one (`llama_state_seq_get_data`), little-endian:

    magic u32, sequence i32, number of streams u32, then for each stream a count of cells u32 and, where not 0,
    for each cell its position i32, 1 u32, sequence i32;  V transposed u32, number of layers u32;
    for each layer's K: type i32, bytes of a cell's row u64, rows;
    for each layer's V the same, or transposed: type i32, bytes of a value u32, values of a cell u32, values.

A cell's bytes say nothing of the slot or of what came after it, so whole blocks that began with the same tokens are
the same bytes, and may be shared. A state that does not read like this (another kind of cache) raises
`UnknownLayout`: such a model's sequences can be saved and loaded as a whole only. Knows bytes; calls no llama.cpp.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
"""A saved sequence, as llama.cpp wrote it."""


class UnknownLayout(Exception):
    """The state is not one of a plain KV cache."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One layer's K or V: its header as it was, and the shape of its bytes: (groups, cells, bytes of a cell).

    `groups` is 1 but for a transposed V, which keeps all cells of one value together.
    """

    header: bytes
    groups: int
    cell_bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How the states of one model's context look."""

    magic: bytes
    num_streams: int
    head: bytes
    tensors: tuple[_Tensor, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """The cells of some consecutive tokens: every tensor's part, shape (groups, cells, bytes of a cell)."""

    parts: tuple[Bytes, ...]

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


def cut(state: Bytes, block_tokens: int, first: int, last: int) -> tuple[Layout, list[Block]]:
    """Blocks `first` to `last` (exclusive) of a saved sequence whose cells begin at position 0."""
    layout, tensors = _read(state)
    spans = [(number * block_tokens, (number + 1) * block_tokens) for number in range(first, last)]
    return layout, [Block(tuple(tensor[:, start:end].copy() for tensor in tensors)) for start, end in spans]


def join(layout: Layout, blocks: Sequence[Block]) -> Bytes:
    """A saved sequence made of blocks, its first token at position 0."""
    count = sum(block.parts[0].shape[1] for block in blocks)
    meta = np.zeros((count, 3), dtype="<i4")
    meta[:, 0] = np.arange(count)
    meta[:, 1] = 1
    front = [
        layout.magic + struct.pack("<iII", 0, layout.num_streams, count),
        meta.tobytes(),
        layout.head,
    ]
    size = sum(map(len, front)) + 4 * (layout.num_streams - 1)
    size += sum(len(tensor.header) + tensor.groups * count * tensor.cell_bytes for tensor in layout.tensors)
    state = np.empty(size, dtype=np.uint8)
    at = _put(state, 0, b"".join(front))
    for number, tensor in enumerate(layout.tensors):
        at = _put(state, at, tensor.header)
        end = at + tensor.groups * count * tensor.cell_bytes
        whole = state[at:end].reshape(tensor.groups, count, tensor.cell_bytes)
        np.concatenate([block.parts[number] for block in blocks], axis=1, out=whole)
        at = end
    state[at:] = 0  # the other streams are empty
    return state


def _put(state: Bytes, at: int, data: bytes) -> int:
    state[at : at + len(data)] = np.frombuffer(data, dtype=np.uint8)
    return at + len(data)


class _Reader:
    def __init__(self, state: Bytes) -> None:
        self.state, self.at = state, 0

    def take(self, size: int) -> Bytes:
        if self.at + size > len(self.state):
            raise UnknownLayout("the state ends too early")
        part = self.state[self.at : self.at + size]
        self.at += size
        return part

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)).tobytes())


def _read(state: Bytes) -> tuple[Layout, list[Bytes]]:
    reader = _Reader(state)
    magic = reader.take(4).tobytes()
    _, num_streams = reader.numbers("iI")
    num_cells = 0
    layout: Layout | None = None
    tensors: list[Bytes] = []
    for _ in range(num_streams):
        (count,) = reader.numbers("I")
        if count and layout is None:
            num_cells = count
            layout, tensors = _read_stream(reader, magic, num_streams, count)
    if layout is None or reader.at != len(state) or not num_cells:
        raise UnknownLayout("the state holds something else than one plain sequence")
    return layout, tensors


def _read_stream(reader: _Reader, magic: bytes, num_streams: int, count: int) -> tuple[Layout, list[Bytes]]:
    meta = reader.take(12 * count).view("<i4").reshape(count, 3)
    if not (np.array_equal(meta[:, 0], np.arange(count)) and (meta[:, 1] == 1).all()):
        raise UnknownLayout("the cells are not those of positions 0, 1, 2 …")
    transposed, num_layers = reader.numbers("II")
    head = struct.pack("<II", transposed, num_layers)
    kinds = [False] * num_layers + [bool(transposed)] * num_layers
    found = [_read_tensor(reader, count, transposed=kind) for kind in kinds]
    return Layout(magic, num_streams, head, tuple(tensor for tensor, _ in found)), [data for _, data in found]


def _read_tensor(reader: _Reader, count: int, *, transposed: bool) -> tuple[_Tensor, Bytes]:
    start = reader.at
    if transposed:
        _, cell_bytes, groups = reader.numbers("iII")
    else:
        (_, cell_bytes), groups = reader.numbers("iQ"), 1
    header = reader.state[start : reader.at].tobytes()
    data = reader.take(groups * count * cell_bytes).reshape(groups, count, cell_bytes)
    return _Tensor(header, groups, cell_bytes), data
