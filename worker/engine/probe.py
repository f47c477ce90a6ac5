"""Proves, on this machine, build and model, which row classes keep a sequence's bits apart from its neighbours'.

Logits are compared bitwise: each probe sequence alone, then all of them together, in other slots and of mixed lengths
(attention takes cells in wholes of 256: one of them has more than a whole). `blocks`: a prompt prefilled by itself, and
the same one block a call, beside others, and its cells copied into another slot. `cuts`: the same in pieces of any
length. What does not hold here is not promised to anybody. Run it before the engine starts: it uses every slot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.engine.cells import Bytes
from worker.engine.model import Model, Piece, TileRow
from worker.engine.sampling import Row

VERSION = 3
"""Goes up when more is asked of a machine than before: what was proven with less is proven again."""
_LENGTHS = (3, 17, 40)
_LONG_LENGTH = 300
"""Of one prompt more. Its cells are computed once and copied: reading it is what a probe takes longest for."""
_NUM_STEPS = 2
_NUM_BLOCKS = 1
"""Whole blocks of the prompt that proves blocks; what is left over after them is padded, as most prompts' ends are."""
_CUTS = (24, 41, 21)
"""Lengths of the pieces that prove that a prompt may be cut anywhere: less than a block, and no wholes of anything."""

Logits = list[NDArray[np.float32]]


@dataclass(slots=True)
class _Probe:
    tokens: Sequence[int]
    slot: int
    position: int = 0


def prove(model: Model) -> dict[str, bool]:
    """Which of the model's row classes are exact here, and whether blocks and free cuts are. Costs a few hundred tokens
    of prefill; leaves no cells."""
    prompts = _prompts(model, _LENGTHS)
    long = _long(model)
    proven: dict[str, bool] = {}
    if model.tile_slots:
        proven["tile"] = _same(_tile_alone(model, prompts, long), _tile_together(model, prompts, long))
    if model.num_slots > model.tile_slots:
        proven["lone"] = _same(_lone(model, prompts, long, busy=False), _lone(model, prompts, long, busy=True))
    proven["blocks"] = _prove_blocks(model)
    proven["cuts"] = proven["blocks"] and _prove_cuts(model)
    return proven


@dataclass(frozen=True, slots=True)
class _Long:
    """A long prompt and its cells."""

    tokens: Sequence[int]
    cells: Bytes

    def placed(self, model: Model, slot: int) -> _Probe:
        model.load_cells(slot, self.cells)
        return _Probe(self.tokens, slot, len(self.tokens))


def _long(model: Model) -> _Long:
    *_, tokens = _prompts(model, (*_LENGTHS, _LONG_LENGTH))
    _prefill(model, tokens, 0)
    cells = model.save(0)
    model.forget(0)
    return _Long(tokens, cells)


def _prompts(model: Model, lengths: Sequence[int]) -> list[list[int]]:
    """Fixed tokens of mixed lengths that fit a slot with the steps to come."""
    room = model.context_tokens - _NUM_STEPS - 1
    size = model.vocabulary.size
    return [[(7919 * (i + 1) * (n + 1)) % size for n in range(min(length, room))] for i, length in enumerate(lengths)]


def _prove_blocks(model: Model) -> bool:
    pieces = [*[model.options.block_tokens] * _NUM_BLOCKS, _LENGTHS[-1]]
    return _same_however_cut(model, pieces, pieces)


def _prove_cuts(model: Model) -> bool:
    return _same_however_cut(model, [sum(_CUTS)], _CUTS)


def _same_however_cut(model: Model, whole: Sequence[int], pieces: Sequence[int]) -> bool:
    """Whether a prompt has one and the same cells in pieces of the lengths `whole` by itself, and in `pieces` beside
    another in the next slot, copied to a third."""
    prompts = _prompts(model, (sum(whole),) * 2)[: model.num_slots]
    last = model.num_slots - 1
    alone = _lone_steps(model, _fill(model, prompts[:1], 0, whole)[0])
    beside = _fill(model, prompts[::-1], last + 1 - len(prompts), pieces)[-1]
    saved = model.save(beside.slot)
    for slot in range(model.num_slots):
        model.forget(slot)
    model.load_cells(0, saved)
    copied = _lone_steps(model, _Probe(beside.tokens, 0, beside.position))
    return _same([alone], [copied])


def _fill(model: Model, prompts: Sequence[Sequence[int]], first_slot: int, pieces: Sequence[int]) -> list[_Probe]:
    """Prefill prompts of one length into neighbouring slots, a piece of each a call."""
    start, length = 0, len(prompts[0])
    share = model.options.tile_rows // math.gcd(model.options.tile_rows, len(prompts))  # whole tiles all together
    for piece in pieces:
        size = min(piece, length - start)
        if size > 0:
            rows = -(-size // share) * share
            model.prefill([Piece(first_slot + i, start, p[start : start + size], rows) for i, p in enumerate(prompts)])
        start += size
    return [_Probe(prompt, first_slot + index, length) for index, prompt in enumerate(prompts)]


def _same(reference: list[Logits], other: list[Logits]) -> bool:
    return all(
        np.array_equal(a, b)
        for alone, together in zip(reference, other, strict=True)
        for a, b in zip(alone, together, strict=True)
    )


def _prefill(model: Model, prompt: Sequence[int], slot: int) -> _Probe:
    block, most = model.options.block_tokens, model.options.chunk_rows
    whole = len(prompt) // block * block
    pieces = [min(most, whole - start) for start in range(0, whole, most)]
    return _fill(model, [prompt], slot, [*pieces, len(prompt) - whole])[0]


def _keep(row: Row) -> NDArray[np.float32]:
    return row.logits.copy()


def _tile_steps(model: Model, probes: Sequence[_Probe], num_rows: int) -> list[Logits]:
    """Decode `_NUM_STEPS` tokens of each probe, in calls of `num_rows` rows; the logits by probe and step."""
    seen: list[Logits] = [[] for _ in probes]
    for step in range(_NUM_STEPS):
        rows = [TileRow(0, 0, dummy=True)] * num_rows
        for probe in probes:
            rows[probe.slot] = TileRow(probe.tokens[step], probe.position)
            probe.position += 1
        results = model.decode_tiles(rows, 0)
        for index, probe in enumerate(probes):
            seen[index].append(_keep(results[probe.slot]))
    for probe in probes:
        model.forget(probe.slot)
    return seen


def _tile_alone(model: Model, prompts: Sequence[Sequence[int]], long: _Long) -> list[Logits]:
    rows = model.options.tile_rows
    seen = [_tile_steps(model, [_prefill(model, prompt, 0)], rows)[0] for prompt in prompts]
    return [*seen, _tile_steps(model, [long.placed(model, 0)], rows)[0]]


def _tile_together(model: Model, prompts: Sequence[Sequence[int]], long: _Long) -> list[Logits]:
    """As many of them at once as there are slots."""
    last = model.tile_slots - 1
    slots = list(dict.fromkeys(slot for slot in (last, last // 2, 1, 2, 0) if slot <= last))
    everyone = (*prompts, None)
    seen: list[Logits] = []
    for start in range(0, len(everyone), len(slots)):
        some = zip(everyone[start:], slots, strict=False)
        probes = [long.placed(model, slot) if p is None else _prefill(model, p, slot) for p, slot in some]
        seen += _tile_steps(model, probes, model.tile_slots)
    return seen


def _lone(model: Model, prompts: Sequence[Sequence[int]], long: _Long, *, busy: bool) -> list[Logits]:
    """The probes one by one in the last slot; with a tile of others decoded before their steps when `busy`."""
    slot = model.num_slots - 1
    seen: list[Logits] = []
    for prompt in (*prompts, None):
        probe = long.placed(model, slot) if prompt is None else _prefill(model, prompt, slot)
        if busy and slot > 0:
            _disturb(model, probe.tokens)
        seen.append(_lone_steps(model, probe))
    return seen


def _lone_steps(model: Model, probe: _Probe) -> Logits:
    logits: Logits = []
    for step in range(_NUM_STEPS):
        logits.append(_keep(model.decode_lone(probe.slot, probe.tokens[step], probe.position)))
        probe.position += 1
    model.forget(probe.slot)
    return logits


def _disturb(model: Model, prompt: Sequence[int]) -> None:
    head = prompt[:5]
    _prefill(model, head, 0)
    if model.tile_slots:
        model.decode_tiles([TileRow(head[0], len(head)), *[TileRow(0, 0, dummy=True)] * (model.tile_slots - 1)], 0)
    model.forget(0)
