"""Prompts into KV cells: which pieces of which prompts go into the next call, and what need not be computed at all.

A prompt is cut at multiples of a block. A call takes as many blocks of each of some prompts; or the ends (what is left
after the last whole block) of prompts in neighbouring slots, padded so that all rows together are whole tiles. No cut
and no company changes a bit (`worker.engine.model.Piece`). Where cuts are free, a block is a tile of rows: an end is
padded to one, or, if it fits into one call with others, all of what is left of a prompt is its end.

Blocks that another prompt began with as well are computed once: taken from the store, or from the sequence that
computes them now, for which the others wait. A sequence waits only for one that was admitted before it, so that
nobody waits in a circle; and what an urgent one waits for is as urgent. Knows sequences and cells; no sampling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.engine.model import Piece
from worker.engine.prefix import Key, PrefixStore, block_keys
from worker.engine.sampling import Row
from worker.engine.sequence import Sequence as Running

_WINDOWS = (8, 4, 2)
"""How many ends of prompts may be prefilled together: numbers that a tile's rows can be shared by."""
_LONG_TOKENS = 512
"""From this position on a prompt's end is padded to a whole block: it decides its bits. Where cuts are free: always."""
_LEAST_PART = 64
"""Rows of a prompt that are worth a call before its end: the cells before them are read anew for each part."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What one call did: rows it took, sequences whose prompt is whole now, and the logits of the one that wants
    them (a lone one comes alone)."""

    rows: int
    whole: list[Running]
    row: Row | None


class Prefiller:
    """Prefills the prompts of one model's sequences. The engine's thread uses it."""

    def __init__(self, model: Any, store: PrefixStore) -> None:
        self._model = model
        self._store = store
        self._tile: int = model.options.tile_rows
        self._owners: dict[Key, Running] = {}

    def enter(self, sequence: Running) -> None:
        """A sequence has been given a slot for the first time."""
        exact_alone = sequence.request.exact and not self._model.blocks_are_exact
        together = self._tile if self._free else self._model.options.block_tokens
        sequence.block = self._model.options.chunk_rows if exact_alone else together
        sequence.joins = not exact_alone
        sequence.isolated = exact_alone or self._model.blocks_are_exact
        # The last token is never taken over: somebody must decode it for its logits.
        tokens = sequence.prefix_ids[:-1]
        sequence.keys = block_keys(tokens, sequence.block, _realm(sequence)) if self._shares else ()
        sequence.num_known_blocks = self._store.note(sequence.keys)
        self._store.counts.num_prompt_tokens += len(tokens) + 1

    def leave(self, sequence: Running) -> None:
        """A sequence gives up its slot: nobody can copy from it any more."""
        for key in sequence.keys:
            if self._owners.get(key) is sequence:
                del self._owners[key]

    def call(self, sequences: Iterable[Running], room: int) -> Prefilled | None:
        """Make one call of at most `room` rows for the first of `sequences`, and others beside it if they fit.

        None: nothing can be done with so little room. What is whole without a call comes back with 0 rows.
        """
        ready: dict[Running, None] = {}
        for waiting in sequences:
            sequence = self._first_to_run(waiting)
            if not sequence.prefilling:
                return Prefilled(0, [sequence], None)
            ready[sequence] = None
        for lead in ready:
            pieces = self._pieces(lead, list(ready), room)
            if pieces:
                return self._run(lead, pieces, {sequence.slot: sequence for sequence in ready})
        return None

    def _run(self, lead: Running, pieces: Sequence[Piece], by_slot: Mapping[int, Running]) -> Prefilled:
        row = self._model.prefill(pieces, output_last=self._wants_row(lead, pieces[0]))
        done = [by_slot[piece.slot] for piece in pieces]
        for sequence, piece in zip(done, pieces, strict=True):
            sequence.position += len(piece.tokens)
        return Prefilled(
            sum(piece.rows for piece in pieces), [sequence for sequence in done if not sequence.prefilling], row
        )

    # -- who shares a call

    def _pieces(self, lead: Running, ready: Sequence[Running], room: int) -> Sequence[Piece]:
        """The pieces of a call that `lead` is part of; none if it does not fit into `room` rows."""
        window = self._best_window(lead, ready, room)
        if window:
            rows = self._rows_in(window)
            return [_piece(sequence, rows) for sequence in window]
        num_left = self._num_blocks_left(lead)
        if num_left:
            num = min(num_left, room // lead.block) if lead.joins else 1
            fits = 0 < num * lead.block <= room and (num == num_left or self._is_part(num * lead.block))
            return self._block_pieces(lead, ready, num, room) if fits else ()
        rows = self._rows_alone(lead)
        return [_piece(lead, rows)] if rows <= room else ()

    def _block_pieces(self, lead: Running, ready: Sequence[Running], num: int, room: int) -> Sequence[Piece]:
        """`num` blocks of `lead`, and as many of each of the others that fit in."""
        rows = num * lead.block
        pieces = [_piece(lead, rows)]
        if not lead.joins or self._wants_row(lead, pieces[0]):
            return pieces
        for sequence in ready:
            if (len(pieces) + 1) * rows > room:
                break
            if sequence is not lead and sequence.joins and self._goes_with(sequence, num):
                piece = _piece(sequence, rows)
                if not self._wants_row(sequence, piece):
                    pieces.append(piece)
        return sorted(pieces)

    def _best_window(self, lead: Running, ready: Sequence[Running], room: int) -> Sequence[Running]:
        """Ends of prompts in neighbouring slots that fill whole tiles together with less padding than one by one."""
        ends = {s.slot: s for s in ready if s.joins and s.row_class == "tile" and self._is_end(s)}
        best: Sequence[Running] = ()
        least = 1.0
        for size in _WINDOWS:
            for first in range(lead.slot - size + 1, lead.slot + 1):
                window = [ends[slot] for slot in range(first, first + size) if slot in ends]
                if len(window) < size or lead not in window:
                    continue
                rows = self._rows_in(window)
                part = size * rows / sum(self._whole_tiles(_num_left(sequence)) for sequence in window)
                if (self._free or rows < lead.block) and size * rows <= room and part < least:
                    best, least = window, part
        return best

    def _rows_in(self, window: Sequence[Running]) -> int:
        """Rows for each of some ends of prompts, so that all together are whole tiles."""
        share = self._tile // math.gcd(self._tile, len(window))
        return -(-max(map(_num_left, window)) // share) * share

    def _rows_alone(self, sequence: Running) -> int:
        """Rows for the next part of a prompt's end in a call of its own: whole tiles, and never a whole block."""
        most = max(sequence.block - self._tile, self._tile)
        return min(self._whole_tiles(_num_left(sequence)), most)

    def _whole_tiles(self, rows: int) -> int:
        return -(-rows // self._tile) * self._tile

    def _num_blocks_left(self, sequence: Running) -> int:
        """Blocks still to compute; with the padded end of a long prompt, for which attention is quicker that way."""
        end, block = sequence.prefill_end, sequence.block
        pads = self._free or end // block * block >= _LONG_TOKENS
        return (-(-end // block) if pads else end // block) - sequence.position // block

    def _is_end(self, sequence: Running) -> bool:
        return self._free or not self._num_blocks_left(sequence)

    def _goes_with(self, sequence: Running, num_blocks: int) -> bool:
        """Whether a sequence has so many blocks for a call: the last of them, or enough to be worth a pass."""
        left = self._num_blocks_left(sequence)
        return left == num_blocks or (left > num_blocks and self._is_part(num_blocks * sequence.block))

    def _is_part(self, rows: int) -> bool:
        """Whether so many rows are worth a call although more of the prompt is to come."""
        return bool(rows >= min(_LEAST_PART, self._model.options.chunk_rows))

    def _wants_row(self, sequence: Running, piece: Piece) -> bool:
        return sequence.row_class == "lone" and piece.start + len(piece.tokens) == sequence.prefill_end

    def keep_known(self, sequence: Running) -> None:
        """A prompt is whole: keep those of its blocks that came before in another prompt, for they will come again."""
        known = sequence.keys[: sequence.num_known_blocks]
        if self._shares and self._store.num_kept(known) < len(known):
            self._store.keep(known, self._model.save(sequence.slot), sequence.block)

    @property
    def _free(self) -> bool:
        return bool(self._model.cuts_are_free and self._model.blocks_are_exact)

    @property
    def _shares(self) -> bool:
        return self._store.max_bytes > 0

    # -- what need not be computed

    def _first_to_run(self, sequence: Running) -> Running:
        """The sequence itself, after it took what others have; or the one that computes what it needs next."""
        while self._shares and (key := self._next_key(sequence)) is not None:
            kept = self._store.num_kept(sequence.keys)
            if kept * sequence.block > sequence.position:
                self._take(sequence, kept)
                continue
            owner = self._owners.setdefault(key, sequence)
            num_common = _num_common(sequence.keys, owner.keys)
            if owner is sequence or owner.serial > sequence.serial:
                break
            if owner.position < num_common * sequence.block:
                sequence = owner
            elif not self._copy(owner, sequence.keys[:num_common]):
                break
        return sequence

    def _next_key(self, sequence: Running) -> Key | None:
        number = sequence.position // sequence.block
        return sequence.keys[number] if number < len(sequence.keys) else None

    def _take(self, sequence: Running, num_blocks: int) -> None:
        self._model.load_cells(sequence.slot, self._store.state_of(sequence.keys[:num_blocks]))
        self._store.counts.num_reused_tokens += num_blocks * sequence.block - sequence.position
        sequence.position = num_blocks * sequence.block

    def _copy(self, owner: Running, keys: Sequence[Key]) -> bool:
        """Keep blocks that a living sequence has. False: there is no room for them."""
        before = self._store.num_kept(keys)
        self._store.keep(keys, self._model.save(owner.slot), owner.block)
        return self._store.num_kept(keys) > before


def _num_left(sequence: Running) -> int:
    return sequence.prefill_end - sequence.position


def _realm(sequence: Running) -> bytes:
    """Cells that were prefilled alone are another realm's than those that were not."""
    return f"{'together' if sequence.joins else 'alone'} {sequence.request.realm}".encode()


def _piece(sequence: Running, rows: int) -> Piece:
    start = sequence.position
    end = min(start + rows, sequence.prefill_end)
    return Piece(sequence.slot, start, sequence.prefix_ids[start:end], rows)


def _num_common(ones: Sequence[Key], others: Sequence[Key]) -> int:
    pairs = enumerate(zip(ones, others, strict=False))
    return next((number for number, (one, other) in pairs if one != other), min(len(ones), len(others)))
