"""Which sequence sits in which slot. Slots below `num_tile` are decoded in whole tiles, the rest alone.

The lowest free tile slot is taken first, so that busy rows stay dense and few tiles are padded.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from worker.engine.generation import RowClass
from worker.engine.sequence import Sequence


@dataclass(slots=True)
class TileRun:
    """Consecutive slots from `first_slot`, whole tiles: decoded in one call."""

    first_slot: int
    sequences: list[Sequence | None]


class Slots:
    """The lanes of one context: `num_tile` tile slots, then `num_lone` lone ones."""

    def __init__(self, num_tile: int, num_lone: int, tile_rows: int) -> None:
        self._tile_rows = tile_rows
        self._num_tile = num_tile
        self._free: dict[RowClass, list[int]] = {
            "tile": list(range(num_tile)),
            "lone": list(range(num_tile, num_tile + num_lone)),
        }
        self._held: dict[int, Sequence] = {}
        self.total = num_tile + num_lone

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(list(self._held.values()))

    @property
    def are_full(self) -> bool:
        """Whether none is free, of either class."""
        return len(self._held) == self.total

    def class_for(self, wanted: RowClass | None, *, interactive: bool) -> RowClass | None:
        """The class of the slot a request may have now, or None. Lone lanes are for interactive requests, unless
        there are no tiles, or the request asks for them."""
        if wanted is not None:
            return wanted if self._free[wanted] else None
        if self._free["lone"] and (interactive or self._num_tile == 0):
            return "lone"
        return "tile" if self._free["tile"] else None

    def has(self, row_class: RowClass) -> bool:
        """Whether there are slots of this class at all, free or not."""
        return (self._num_tile > 0) if row_class == "tile" else self.total > self._num_tile

    def take(self, row_class: RowClass) -> int:
        """Take the lowest free slot of a class that `class_for` gave."""
        return heapq.heappop(self._free[row_class])

    def seat(self, sequence: Sequence) -> None:
        """Put a sequence into the slot that was taken for it."""
        self._held[sequence.slot] = sequence

    def highest_tile_slot(self) -> int:
        """The highest tile slot that is held; -1 if none is."""
        return max((slot for slot in self._held if slot < self._num_tile), default=-1)

    def first_shorter(self, slot: int, num_tokens: int) -> Sequence | None:
        """Of the sequences below a tile slot the lowest that has fewer cells, and none to prefill; None for a lone
        slot."""
        below = sorted(at for at in self._held if at < slot) if slot < self._num_tile else []
        found = (self._held[at] for at in below)
        return next((each for each in found if each.position < num_tokens and not each.prefilling), None)

    def num_spare_tiles(self) -> int:
        """Tiles that would be idle if the held tile slots were the lowest ones."""
        used = {slot // self._tile_rows for slot in self._held if slot < self._num_tile}
        num_held = sum(slot < self._num_tile for slot in self._held)
        return len(used) - -(-num_held // self._tile_rows)

    def at(self, slot: int) -> Sequence:
        """The sequence in a slot that is held."""
        return self._held[slot]

    def give_back(self, slot: int) -> None:
        """Free a slot; its cells must have been forgotten."""
        self._held.pop(slot, None)
        heapq.heappush(self._free["tile" if slot < self._num_tile else "lone"], slot)

    def lone(self) -> list[Sequence]:
        """Sequences to be decoded in calls of their own."""
        return [s for s in self._held.values() if s.row_class == "lone" and s.pending is not None]

    def tile_runs(self) -> list[TileRun]:
        """Runs of neighbouring tiles in which somebody decodes; all their slots, whoever sits in them."""
        runs: list[TileRun] = []
        for start in range(0, self._num_tile, self._tile_rows):
            tile = [self._held.get(slot) for slot in range(start, start + self._tile_rows)]
            if not any(sequence is not None and sequence.pending is not None for sequence in tile):
                continue
            if runs and runs[-1].first_slot + len(runs[-1].sequences) == start:
                runs[-1].sequences.extend(tile)
            else:
                runs.append(TileRun(start, tile))
        return runs
