"""Shared beginnings: the KV cells of whole blocks of tokens, computed once and kept for whoever begins the same.

A block's key is a hash of its tokens and of the key before it, so that a key stands for all tokens up to its end.
What is kept is bounded in bytes; the block used longest ago goes first, and never before the blocks behind it. Cells
are copied in memory, bit for bit, into the slot that needs them. Knows tokens and saved cells; no slots, no requests.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from worker.engine.cells import Block, Bytes, Layout, UnknownLayout, cut, join

Key = bytes
_NUM_REMEMBERED = 1 << 18
"""Places to remember keys that came: a block is worth keeping when its key comes a second time. Two megabytes."""


def block_keys(tokens: Sequence[int], block_tokens: int, realm: bytes = b"") -> tuple[Key, ...]:
    """The keys of the whole blocks of `tokens`, in order. Blocks of different realms are never the same."""
    keys = []
    key = hashlib.blake2b(realm, digest_size=16).digest()
    for start in range(0, len(tokens) // block_tokens * block_tokens, block_tokens):
        block = array("i", tokens[start : start + block_tokens]).tobytes()
        key = hashlib.blake2b(key + block, digest_size=16).digest()
        keys.append(key)
    return tuple(keys)


class _Remembered:
    """Which keys came lately, in a space that is the same from the start: a key has one place, and the next key of
    that place takes it. What is forgotten so is kept one coming later, no more."""

    def __init__(self) -> None:
        self._places = array("Q", bytes(8 * _NUM_REMEMBERED))

    def add(self, key: Key) -> bool:
        """Whether it had come before."""
        place, rest = int.from_bytes(key[:8]) % len(self._places), int.from_bytes(key[8:])
        known = self._places[place] == rest
        self._places[place] = rest
        return known


@dataclass(slots=True)
class PrefixCounts:
    """Since the start: prompt tokens that were prefilled or taken over, those taken over, blocks dropped for room."""

    num_prompt_tokens: int = 0
    num_reused_tokens: int = 0
    num_evicted_blocks: int = 0


class PrefixStore:
    """Blocks by key, at most `max_bytes` of them. One thread uses it; others may read `num_bytes` and `counts`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.cuts = True
        """False once a state could not be cut: this model's cells cannot be shared."""
        self.num_bytes = 0
        self.counts = PrefixCounts()
        self._blocks: OrderedDict[Key, Block] = OrderedDict()
        self._layout: Layout | None = None
        self._joined: tuple[Key, Bytes] | None = None
        self._remembered = _Remembered()

    def __len__(self) -> int:
        return len(self._blocks)

    def note(self, keys: Sequence[Key]) -> int:
        """A prompt with these blocks has come. Returns how many of them, from the first, had come before."""
        known = [self._remembered.add(key) for key in keys]
        return (*known, False).index(False)

    def num_kept(self, keys: Sequence[Key]) -> int:
        """How many of these blocks, from the first, are here."""
        return next((number for number, key in enumerate(keys) if key not in self._blocks), len(keys))

    def keep(self, keys: Sequence[Key], state: Bytes, block_tokens: int) -> None:
        """Keep the first `len(keys)` blocks of a saved sequence. Does nothing for a state that cannot be cut."""
        first = self.num_kept(keys)
        if first == len(keys) or not self.max_bytes:
            return
        try:
            self._layout, blocks = cut(state, block_tokens, first, len(keys))
        except UnknownLayout:
            self.cuts, self.max_bytes = False, 0
            return
        for key, block in zip(keys[first:], blocks, strict=True):
            self._blocks[key] = block
            self.num_bytes += block.num_bytes
        self._touch(keys)
        self._shrink()

    def state_of(self, keys: Sequence[Key]) -> Bytes:
        """A saved sequence with these blocks, all of which are here. The last one asked for is kept in one piece."""
        if self._layout is None:
            raise LookupError("nothing is kept")
        self._touch(keys)
        if self._joined is None or self._joined[0] != keys[-1]:
            self._joined = keys[-1], join(self._layout, [self._blocks[key] for key in keys])
        return self._joined[1]

    def limit_to(self, max_bytes: int) -> None:
        """Hold at most so many bytes from now on: what was used longest ago goes until it fits."""
        self.max_bytes = max_bytes if self.cuts else 0
        self._shrink()

    def _shrink(self) -> None:
        while self.num_bytes > self.max_bytes and self._blocks:
            _, block = self._blocks.popitem(last=False)
            self.num_bytes -= block.num_bytes
            self.counts.num_evicted_blocks += 1
            self._joined = None

    def _touch(self, keys: Sequence[Key]) -> None:
        """The first block last, so that it is the freshest: a block without those before it is worth nothing."""
        for key in reversed(keys):
            if key in self._blocks:
                self._blocks.move_to_end(key)
