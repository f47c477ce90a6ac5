"""The continuous-batching engine: one thread that owns the model and runs `step`.

    submit ──> waiting ──admit──> slot: prefill in chunks ──> decode a token a step ──> end

A step admits, ends what was cut, prefills (at most a chunk of rows), decodes one token of every sequence, and hands
the new text over: an interactive request's first token right after its prefill. Nothing in a step lets one sequence's
bits depend on another: that is what makes a stored generation replayable. An interactive request that finds no slot
pauses the youngest other sequence between two tokens: its cells are copied aside, and back, bit for bit, when a slot
is free.

Knows requests and tokens; knows no jobs. `submit`, `stats` and `stop` may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeGuard

from worker.engine.cuts import Cuts, cut_reason
from worker.engine.gaps import Gaps, Rate
from worker.engine.generation import Completion, EngineStats, Generation, Request, RowClass, TextDelta
from worker.engine.loaded import LoadedModel
from worker.engine.model import TileRow
from worker.engine.prefill import Prefiller
from worker.engine.prefix import PrefixStore
from worker.engine.sampling import Row
from worker.engine.sequence import Sequence
from worker.engine.slots import Slots
from worker.engine.waiting import Queue, Waiting

IDLE_CHUNKS = 4
"""Chunks that a step may spend on prompts while no sequence waits for its next token."""
SHORT_BY = 4
"""A sequence this many times shorter than a new prompt makes way for it: the copy is cheap beside what it saves."""
SPARE_CELL_BYTES = 512 * 1024 * 1024
"""Memory for cells outside the slots, unless the caller says: those of paused sequences and of shared beginnings."""


class EngineStopped(Exception):
    """The engine takes no more requests: it was stopped, or it failed."""


class Engine:
    """Runs many generations at once on one model. `on_text` is called on the engine's thread, once a step."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        on_text: Callable[[list[TextDelta]], None] | None = None,
        sampling_threads: int = 1,
        spare_cell_bytes: int = SPARE_CELL_BYTES,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = model
        self._on_text = on_text
        self._details = dict(details or {})
        options = model.options
        self._chunk = options.chunk_rows
        self._slots = Slots(model.tile_slots, model.num_slots - model.tile_slots, options.tile_rows)
        self._spare_bytes = spare_cell_bytes
        self._prefixes = PrefixStore(spare_cell_bytes)
        self._prefiller = Prefiller(model, self._prefixes)
        self._paused: list[Sequence] = []
        self._waiting = {True: Queue(), False: Queue(self._chunk, patience=self._slots.total)}
        self._wake = threading.Condition()
        self._stopping: Literal["no", "draining", "now"] = "no"
        self._drain_until = 0.0
        self._cuts = Cuts()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._samplers = ThreadPoolExecutor(sampling_threads, "sampler") if sampling_threads > 1 else None
        self._num_sampling_threads = sampling_threads
        self._rate = Rate()
        self._num_tokens = self._num_generations = self._num_admitted = self._num_pauses = self._num_moves = 0
        self.gaps = Gaps()
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def submit(self, request: Request) -> Generation:
        """Queue a request. Raises EngineStopped, or ValueError when it cannot fit a slot or asks for no class."""
        needed = len(request.prompt.token_ids) + request.max_tokens
        if not request.prompt.token_ids or needed > self._model.context_tokens:
            raise ValueError(f"prompt and completion need {needed} tokens; a slot has {self._model.context_tokens}")
        if request.row_class is not None and not self._slots.has(request.row_class):
            raise ValueError(f"this engine has no {request.row_class} slots")
        generation = Generation(request, self._cuts.note)
        with self._wake:
            if self._stopping != "no" or self.failure is not None:
                raise EngineStopped("the engine takes no more requests")
            self._cuts.expect(request)
            self._waiting[request.interactive].add(Waiting(generation, time.monotonic()))
            self._wake.notify()
        return generation

    def stats(self) -> EngineStats:
        """A look at the engine now."""
        return EngineStats(
            slots=self._slots.total,
            busy_slots=len(self._slots),
            waiting=sum(len(queue) for queue in self._waiting.values()),
            tokens_per_second=self._rate.per_second(time.monotonic()),
            num_completion_tokens=self._num_tokens,
            num_generations=self._num_generations,
            details={**self._details, **self._counts()},
        )

    def _counts(self) -> dict[str, Any]:
        prefixes, counts = self._prefixes, self._prefixes.counts
        return {
            "paused": len(self._paused),
            "num_pauses": self._num_pauses,
            "num_moves": self._num_moves,
            "num_prompt_tokens": counts.num_prompt_tokens,
            "num_reused_tokens": counts.num_reused_tokens,
            "prefix_hit_rate": round(counts.num_reused_tokens / max(counts.num_prompt_tokens, 1), 4),
            "prefix_bytes": prefixes.num_bytes,
            "kv_cells": self._slots.total * self._model.context_tokens,
            "kv_cells_used": sum(sequence.position for sequence in self._slots),
            "num_evicted_blocks": counts.num_evicted_blocks,
        }

    def stop(self, drain_seconds: float = 0.0) -> None:
        """Take no more; let what runs finish for `drain_seconds`, then interrupt it. Returns when all has ended.

        A second call with a shorter time cuts the first one's short.
        """
        with self._wake:
            self._drain_until = time.monotonic() + drain_seconds
            self._stopping = "draining" if drain_seconds > 0 else "now"
            self._wake.notify()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def step(self) -> None:
        """One turn: every sequence that decodes gets one token."""
        begun_with = self._num_tokens
        if self._cuts.take():
            self._end_cut()
        if self._paused or self._waiting[True] or self._waiting[False]:
            self._admit()
        else:
            self._close_ranks()
        if self._prefill():
            self._hand_over()
        before = self._num_tokens
        self._decode()
        now = time.monotonic()
        self._rate.note(now, self._num_tokens - begun_with)
        self.gaps.step(now, self._num_tokens - before)
        self._hand_over()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self.step()
        except BaseException as error:
            self.failure = error
            self._end_all("failed", f"the engine failed: {type(error).__name__}")
        finally:
            if self._samplers is not None:
                self._samplers.shutdown()

    @property
    def _has_work(self) -> bool:
        return bool(len(self._slots) or self._paused or any(self._waiting.values()))

    def _wait_for_work(self) -> bool:
        if self._stopping == "no" and len(self._slots):  # as in most steps: nobody need be asked
            return True
        with self._wake:
            while True:
                if self._stopping != "no":
                    self._interrupt_for_stop()
                    return self._has_work
                if self._has_work:
                    return True
                self._wake.wait()

    def _interrupt_for_stop(self) -> None:
        """What waits goes back at once; what runs, when the drain's time is over."""
        for queue in self._waiting.values():
            for entry in queue:
                entry.generation.interrupt()
        if self._stopping == "now" or time.monotonic() >= self._drain_until:
            for sequence in [*self._slots, *self._paused]:
                sequence.generation.interrupt()

    # -- who runs

    def _admit(self) -> None:
        """Interactive requests first, in the order they came; then what was paused; then the longest first."""
        if self._waiting[True]:
            self._admit_from(self._waiting[True])
        if self._slots.are_full:
            return
        while self._paused and self._slots.class_for("tile", interactive=False):
            self._resume(self._paused.pop(0))
        if not self._paused:
            self._admit_from(self._waiting[False])

    def _admit_from(self, queue: Queue) -> None:
        while (entry := self._first(queue)) is not None:
            row_class = self._class_for(entry.generation.request)
            if row_class is None:
                return
            with self._wake:
                queue.take(entry)
            self._enter(entry, row_class)

    def _first(self, queue: Queue) -> Waiting | None:
        with self._wake:
            return queue.first()

    def _enter(self, entry: Waiting, row_class: RowClass) -> None:
        """Give a request a slot, and its prompt to the prefiller."""
        generation, submitted = entry
        try:
            sampler = self._model.sampler(generation.request.sampling, generation.request.prompt.token_ids)
        except ValueError as error:
            self._end_unstarted(entry, str(error))
            return
        for token in generation.request.taken_over:
            sampler.accept(token)
        self._num_admitted += 1
        slot = self._make_way(self._slots.take(row_class), len(generation.request.prefix_ids))
        sequence = Sequence(generation, slot, row_class, sampler, submitted=submitted, serial=self._num_admitted)
        sequence.take_over(self._model.vocabulary.piece)
        self._slots.seat(sequence)
        self._prefiller.enter(sequence)
        if sequence.finish_reason is not None:  # what it took over was all of it
            self._end(sequence)

    def _make_way(self, slot: int, num_tokens: int) -> int:
        """A lower slot than the free one for a long prompt, if a short sequence can go there instead; else that slot.

        llama.cpp's threads take a step's attention in the order of slots, a few at a time: a long one among the last
        keeps one of them at work while the others wait.
        """
        short = self._slots.first_shorter(slot, num_tokens // SHORT_BY)
        if short is None:
            return slot
        self._move(short, slot)
        return self._slots.take("tile")

    def _class_for(self, request: Request) -> RowClass | None:
        """The class of the slot a request may have now; an interactive one has another sequence paused for it."""
        found = self._slots.class_for(request.row_class, interactive=request.interactive)
        if found is None and request.interactive and request.row_class != "lone" and self._pause_youngest():
            return self._slots.class_for(request.row_class, interactive=True)
        return found

    def _pause_youngest(self) -> bool:
        """Free the tile slot of the batch sequence admitted last. False: there is none, or no memory for its cells."""
        others = [s for s in self._slots if s.row_class == "tile" and not s.request.interactive]
        if not others:
            return False
        youngest = max(others, key=lambda sequence: sequence.serial)
        youngest.saved = self._model.save(youngest.slot) if youngest.position else None
        left = self._spare_bytes - sum(sequence.saved_bytes for sequence in [*self._paused, youngest])
        if left < 0:
            youngest.saved = None
            return False
        self._prefixes.limit_to(left)
        self._vacate(youngest)
        self._paused = sorted([*self._paused, youngest], key=lambda sequence: sequence.serial)
        self._num_pauses += 1
        return True

    def _resume(self, sequence: Sequence) -> None:
        sequence.slot = self._slots.take("tile")
        if sequence.saved is not None:
            self._model.load_cells(sequence.slot, sequence.saved)
            sequence.saved = None
        self._slots.seat(sequence)
        self._prefixes.limit_to(self._spare_bytes - sum(each.saved_bytes for each in self._paused))

    def _vacate(self, sequence: Sequence) -> None:
        self._prefiller.leave(sequence)
        self._model.forget(sequence.slot)
        self._slots.give_back(sequence.slot)

    def _close_ranks(self) -> None:
        """When nobody waits, and fewer tiles would do: move the last ones' sequences down, a copy of cells each."""
        while self._slots.num_spare_tiles() > 0:
            self._move(self._slots.at(self._slots.highest_tile_slot()), self._slots.take("tile"))

    def _move(self, sequence: Sequence, slot: int) -> None:
        """Put a sequence into another slot, which was taken for it; its own is free then."""
        if sequence.position:
            self._model.load_cells(slot, self._model.save(sequence.slot))
        self._model.forget(sequence.slot)
        self._slots.give_back(sequence.slot)
        sequence.slot = slot
        self._slots.seat(sequence)
        self._num_moves += 1

    def _end_cut(self) -> None:
        for queue in self._waiting.values():
            with self._wake:
                entries = queue.take_all(lambda generation: cut_reason(generation) is not None)
            for entry in entries:
                self._end_unstarted(entry)
        for sequence in [*self._slots, *self._paused]:
            reason = cut_reason(sequence.generation)
            if reason is not None:
                sequence.finish_reason = reason
                self._end(sequence)
        with self._wake:
            waiting = [entry.generation for queue in self._waiting.values() for entry in queue]
            self._cuts.expect_only(waiting + [sequence.generation for sequence in [*self._slots, *self._paused]])

    def _prefill(self) -> bool:
        """Prefill prompts, interactive ones first: a chunk of rows, or some more while nobody waits for a token.

        Whether somebody interactive has a first token now: it goes out at once, not after the decode call to come.
        """
        num_waiting = sum(not sequence.begun for sequence in self._slots)
        if not num_waiting:
            return False
        room = self._chunk if num_waiting < len(self._slots) else self._chunk * IDLE_CHUNKS
        while room > 0:
            waiting = [sequence for sequence in self._slots if not sequence.begun]
            waiting.sort(key=lambda sequence: (not sequence.request.interactive, sequence.serial))
            done = self._prefiller.call(waiting, min(room, self._chunk))
            if done is None:
                return False
            room -= done.rows
            for sequence in done.whole:
                sequence.mark_prefilled()
                if done.row is not None:
                    self._sample([(sequence, done.row)])
                self._prefiller.keep_known(sequence)
            greeted = any(sequence.request.interactive for sequence in done.whole)
            if greeted or self._waiting[True]:
                return greeted
        return False

    def _decode(self) -> None:
        for run in self._slots.tile_runs():
            rows = self._model.decode_tiles([_tile_row(s) for s in run.sequences], run.first_slot)
            self._advance([(s, row) for s, row in zip(run.sequences, rows, strict=True) if _decodes(s)])
        for sequence in self._slots.lone():
            assert sequence.pending is not None  # noqa: S101  `lone` lists only such
            row = self._model.decode_lone(sequence.slot, sequence.pending, sequence.position)
            self._advance([(sequence, row)])

    def _advance(self, rows: list[tuple[Sequence, Row]]) -> None:
        for sequence, _ in rows:
            sequence.position += 1
            sequence.pending = None
        self._sample(rows)

    def _sample(self, rows: list[tuple[Sequence, Row]]) -> None:
        """Choose the next token of each row; rows last until the next decode call, so this comes right after it."""
        if self._samplers is None or (share := -(-len(rows) // self._num_sampling_threads)) < 2:
            tokens = _choose(rows)
        else:
            parts = [rows[start : start + share] for start in range(0, len(rows), share)]
            others = [self._samplers.submit(_choose, part) for part in parts[1:]]
            tokens = _choose(parts[0]) + [token for other in others for token in other.result()]
        vocabulary = self._model.vocabulary
        for (sequence, _), token in zip(rows, tokens, strict=True):
            sequence.take(token, is_end=vocabulary.is_end(token), piece=vocabulary.piece)
        self._num_tokens += len(rows)

    def _hand_over(self) -> None:
        """Give the step's new text to the listener, and end what has come to its end."""
        ended, deltas = [], []
        for sequence in self._slots:
            if sequence.finish_reason is not None:
                sequence.flush()
                ended.append(sequence)
            if self._on_text is not None and (delta := sequence.drain_text()) is not None:
                deltas.append(delta)
        if deltas and self._on_text is not None:
            self._on_text(deltas)
        for sequence in ended:
            self._end(sequence)

    def _end(self, sequence: Sequence, error: str | None = None) -> None:
        sequence.flush()
        delta = sequence.drain_text()
        if delta is not None and self._on_text is not None:
            self._on_text([delta])
        if sequence in self._paused:
            self._paused.remove(sequence)
            sequence.saved = None
        else:
            self._vacate(sequence)
        sequence.sampler.close()
        self._num_generations += 1
        sequence.generation.end(sequence.completion(error))

    def _end_unstarted(self, entry: Waiting, error: str | None = None) -> None:
        generation, submitted = entry
        waited = time.monotonic() - submitted
        generation.end(
            Completion(
                text="",
                token_ids=(),
                finish_reason="failed" if error else cut_reason(generation) or "interrupted",
                num_prompt_tokens=len(generation.request.prompt.token_ids),
                row_class=generation.request.row_class or "lone",
                timings={"queued": waited, "prefill": 0.0, "first_token": 0.0, "decode": 0.0, "total": waited},
                error=error,
            )
        )

    def _end_all(self, reason: Literal["failed"], error: str) -> None:
        with self._wake:
            waiting = [entry for queue in self._waiting.values() for entry in queue]
            for queue in self._waiting.values():
                queue.clear()
        for sequence in [*self._slots, *self._paused]:
            sequence.finish_reason = reason
            sequence.generation.end(sequence.completion(error))
        for entry in waiting:
            self._end_unstarted(entry, error)


def _decodes(sequence: Sequence | None) -> TypeGuard[Sequence]:
    return sequence is not None and sequence.pending is not None


def _tile_row(sequence: Sequence | None) -> TileRow:
    if sequence is None:
        return TileRow(0, 0, dummy=True)
    if sequence.pending is None:
        return TileRow(0, sequence.position, dummy=True)
    return TileRow(sequence.pending, sequence.position)


def _choose(rows: list[tuple[Sequence, Row]]) -> list[int]:
    tokens = []
    for sequence, row in rows:
        token = sequence.sampler.sample(row)
        num_top = sequence.request.num_logprobs
        if num_top is not None:
            sequence.logprobs.append(sequence.sampler.logprob(row, token, num_top))
        tokens.append(token)
    return tokens
