"""Prompts into KV cells: which pieces of which prompts go into the next call, and what need not be computed at all.

A prompt is cut at multiples of a block. A call takes pieces with as many rows each, of as many prompts as there is
room for, those in neighbouring slots in one pass; no cut and no company changes a bit (`worker.engine.model.Piece`).

Blocks that another prompt began with as well are computed once: taken from the store, or from the sequence that
computes them now, for which the others wait. A sequence waits only for one that was admitted before it, so that
nobody waits in a circle; and what an urgent one waits for is as urgent. Knows sequences and cells; no sampling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from worker.engine.model import Piece
from worker.engine.prefix import Key, PrefixStore, block_keys
from worker.engine.sampling import Row
from worker.engine.sequence import Sequence as Running


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
        self._tile = model.options.tile_rows
        self._owners: dict[Key, Running] = {}

    def enter(self, sequence: Running) -> None:
        """A sequence has been given a slot for the first time."""
        exact_alone = sequence.request.exact and not self._model.blocks_are_exact
        sequence.block = self._model.options.chunk_rows if exact_alone else self._model.options.block_tokens
        sequence.joins = not exact_alone
        # The last token is never taken over: somebody must decode it for its logits.
        tokens = sequence.request.prompt.token_ids[:-1]
        sequence.keys = block_keys(tokens, sequence.block, b"" if sequence.joins else b"alone") if self._shares else ()
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
        chosen: dict[Running, Piece] = {}
        for waiting in sequences:
            sequence = self._first_to_run(waiting)
            if not sequence.prefilling:
                return Prefilled(0, [sequence], None)
            rows = next(iter(chosen.values())).rows if chosen else None
            piece = None if sequence in chosen else self._piece(sequence, room, rows)
            if piece is None:
                continue
            chosen[sequence] = piece
            room -= piece.rows
            if not sequence.joins or self._wants_row(sequence, piece):
                break
        return self._run(chosen) if chosen else None

    def keep_known(self, sequence: Running) -> None:
        """A prompt is whole: keep those of its blocks that came before in another prompt, for they will come again."""
        known = sequence.keys[: sequence.num_known_blocks]
        if self._shares and self._store.num_kept(known) < len(known):
            self._store.keep(known, self._model.save(sequence.slot), sequence.block)

    @property
    def _shares(self) -> bool:
        return self._store.max_bytes > 0

    def _run(self, chosen: dict[Running, Piece]) -> Prefilled:
        first = next(iter(chosen))
        wants_row = self._wants_row(first, chosen[first])
        row = self._model.prefill(sorted(chosen.values()), output_last=wants_row)
        for sequence, piece in chosen.items():
            sequence.position += len(piece.tokens)
        whole = [sequence for sequence in chosen if not sequence.prefilling]
        return Prefilled(sum(piece.rows for piece in chosen.values()), whole, row)

    def _piece(self, sequence: Running, room: int, rows: int | None) -> Piece | None:
        """The next piece of a prompt: at most `room` rows, and `rows` exactly where others have chosen."""
        block, start = sequence.block, sequence.position
        blocks_left = sequence.prefill_end // block - start // block
        if blocks_left:
            num = min(blocks_left, (rows or room) // block) if sequence.joins else 1
            size = needed = num * block
        else:
            size = sequence.prefill_end - start
            needed = -(-size // self._tile) * self._tile
        if not size or needed > room or (rows is not None and needed != rows):
            return None
        piece = Piece(sequence.slot, start, sequence.request.prompt.token_ids[start : start + size], needed)
        beside_others = rows is not None and (not sequence.joins or self._wants_row(sequence, piece))
        return None if beside_others else piece

    def _wants_row(self, sequence: Running, piece: Piece) -> bool:
        return sequence.row_class == "lone" and piece.start + len(piece.tokens) == sequence.prefill_end

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


def _num_common(ones: Sequence[Key], others: Sequence[Key]) -> int:
    pairs = enumerate(zip(ones, others, strict=False))
    return next((number for number, (one, other) in pairs if one != other), min(len(ones), len(others)))
