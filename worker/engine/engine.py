"""The continuous-batching engine: one thread that owns the model and runs `step`.

    submit ──> waiting ──admit──> slot: prefill in chunks ──> decode a token a step ──> end

A step admits, ends what was cut, prefills (each prompt in calls of its own, at most a chunk's worth of tokens while
others decode), decodes one token of every sequence, and hands the new text over. Nothing in a step lets one
sequence's bits depend on another: that is what makes a stored generation replayable.

Knows requests and tokens; knows no jobs. `submit`, `stats` and `stop` may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Protocol

from worker.engine.generation import Completion, EngineStats, Generation, Request, TextDelta
from worker.engine.model import ModelOptions, Row, Sampler, TileRow
from worker.engine.sequence import Sequence
from worker.engine.slots import Slots

RATE_WINDOW_SECONDS = 5.0


class EngineStopped(Exception):
    """The engine takes no more requests: it was stopped, or it failed."""


class LoadedModel(Protocol):
    """What the engine needs of a model (`worker.engine.model.Model`)."""

    options: ModelOptions
    context_tokens: int
    tile_slots: int
    num_slots: int
    vocabulary: Any

    def prefill(self, slot: int, tokens: Any, start: int, *, last: bool) -> Row | None: ...
    def decode_lone(self, slot: int, token: int, position: int) -> Row: ...
    def decode_tiles(self, rows: Any, first_slot: int) -> list[Row]: ...
    def forget(self, slot: int, start: int = 0) -> None: ...
    def sampler(self, sampling: Any, prompt: Any) -> Sampler: ...


class Engine:
    """Runs many generations at once on one model. `on_text` is called on the engine's thread, once a step."""

    def __init__(
        self,
        model: LoadedModel,
        *,
        on_text: Callable[[list[TextDelta]], None] | None = None,
        sampling_threads: int = 1,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = model
        self._on_text = on_text
        self._details = dict(details or {})
        options = model.options
        self._chunk = options.chunk_tokens
        self._slots = Slots(model.tile_slots, model.num_slots - model.tile_slots, options.tile_rows)
        self._waiting: dict[bool, deque[tuple[Generation, float]]] = {True: deque(), False: deque()}
        self._wake = threading.Condition()
        self._stopping: Literal["no", "draining", "now"] = "no"
        self._drain_until = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._samplers = ThreadPoolExecutor(sampling_threads, "sampler") if sampling_threads > 1 else None
        self._num_sampling_threads = sampling_threads
        self._rate: deque[tuple[float, int]] = deque()
        self._num_tokens = self._num_generations = 0
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
        generation = Generation(request)
        with self._wake:
            if self._stopping != "no" or self.failure is not None:
                raise EngineStopped("the engine takes no more requests")
            self._waiting[request.interactive].append((generation, time.monotonic()))
            self._wake.notify()
        return generation

    def stats(self) -> EngineStats:
        """A look at the engine now."""
        since = time.monotonic() - RATE_WINDOW_SECONDS
        recent = sum(count for at, count in list(self._rate) if at >= since)
        return EngineStats(
            slots=self._slots.total,
            busy_slots=len(self._slots),
            waiting=sum(len(queue) for queue in self._waiting.values()),
            tokens_per_second=recent / RATE_WINDOW_SECONDS,
            num_completion_tokens=self._num_tokens,
            num_generations=self._num_generations,
            details=self._details,
        )

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
        self._admit()
        self._end_cut()
        self._prefill()
        self._decode()
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

    def _wait_for_work(self) -> bool:
        with self._wake:
            while True:
                if self._stopping != "no":
                    self._interrupt_for_stop()
                    return bool(len(self._slots) or any(self._waiting.values()))
                if len(self._slots) or any(self._waiting.values()):
                    return True
                self._wake.wait()

    def _interrupt_for_stop(self) -> None:
        """What waits goes back at once; what runs, when the drain's time is over."""
        for queue in self._waiting.values():
            for generation, _ in queue:
                generation.interrupt()
        if self._stopping == "now" or time.monotonic() >= self._drain_until:
            for sequence in self._slots:
                sequence.generation.interrupt()

    def _admit(self) -> None:
        for interactive in (True, False):
            queue = self._waiting[interactive]
            for _ in range(len(queue)):
                generation, submitted = queue.popleft()
                if self._cut_reason(generation) is not None:
                    self._end_unstarted(generation, submitted)
                    continue
                row_class = self._slots.class_for(generation.request.row_class, interactive=interactive)
                if row_class is None:
                    queue.appendleft((generation, submitted))
                    break
                try:
                    sampler = self._model.sampler(generation.request.sampling, generation.request.prompt.token_ids)
                except ValueError as error:
                    self._end_unstarted(generation, submitted, str(error))
                    continue
                slot = self._slots.take(row_class)
                self._slots.seat(Sequence(generation, slot, row_class, sampler, submitted))

    def _end_cut(self) -> None:
        for sequence in self._slots:
            reason = self._cut_reason(sequence.generation)
            if reason is not None:
                sequence.finish_reason = reason
                self._end(sequence)

    def _cut_reason(self, generation: Generation) -> Literal["cancelled", "interrupted", "expired"] | None:
        deadline = generation.request.deadline
        if deadline is not None and time.monotonic() >= deadline:
            return "expired"
        return generation.cut

    def _prefill(self) -> None:
        """Prefill prompts, interactive ones first, for a chunk's worth of tokens."""
        room = self._chunk
        waiting = [sequence for sequence in self._slots if sequence.prefilling]
        for sequence in sorted(waiting, key=lambda s: not s.request.interactive):
            chunk = sequence.next_chunk(self._chunk)
            if len(chunk) > room and room < self._chunk:
                return
            last = sequence.position + len(chunk) == len(sequence.request.prompt.token_ids)
            row = self._model.prefill(sequence.slot, chunk, sequence.position, last=last)
            sequence.position += len(chunk)
            room -= len(chunk)
            if row is not None:
                sequence.mark_prefilled()
                self._sample([(sequence, row)])

    def _decode(self) -> None:
        for run in self._slots.tile_runs():
            rows = self._model.decode_tiles([_tile_row(s) for s in run.sequences], run.first_slot)
            self._advance([(s, row) for s, row in zip(run.sequences, rows, strict=True) if _decodes(s)])
        for sequence in self._slots.lone():
            assert sequence.pending is not None  # noqa: S101  `lone` lists only such
            row = self._model.decode_lone(sequence.slot, sequence.pending, sequence.position)
            self._advance([(sequence, row)])

    def _advance(self, decoded: list[tuple[Sequence | None, Row]]) -> None:
        rows = [(sequence, row) for sequence, row in decoded if sequence is not None]
        for sequence, _ in rows:
            sequence.position += 1
            sequence.pending = None
        self._sample(rows)

    def _sample(self, rows: list[tuple[Sequence, Row]]) -> None:
        """Choose the next token of each row; rows last until the next decode call, so this comes right after it."""
        share = -(-len(rows) // self._num_sampling_threads)
        if self._samplers is None or share < 2:
            tokens = _choose(rows)
        else:
            parts = [rows[start : start + share] for start in range(0, len(rows), share)]
            others = [self._samplers.submit(_choose, part) for part in parts[1:]]
            tokens = _choose(parts[0]) + [token for other in others for token in other.result()]
        vocabulary = self._model.vocabulary
        for (sequence, _), token in zip(rows, tokens, strict=True):
            sequence.take(token, is_end=vocabulary.is_end(token), piece=vocabulary.piece)
        self._count(len(rows))

    def _hand_over(self) -> None:
        """Give the step's new text to the listener, and end what has come to its end."""
        ended = [sequence for sequence in self._slots if sequence.finish_reason is not None]
        for sequence in ended:
            sequence.flush()
        if self._on_text is not None:
            deltas = [delta for sequence in self._slots if (delta := sequence.drain_text()) is not None]
            if deltas:
                self._on_text(deltas)
        for sequence in ended:
            self._end(sequence)

    def _end(self, sequence: Sequence, error: str | None = None) -> None:
        sequence.flush()
        delta = sequence.drain_text()
        if delta is not None and self._on_text is not None:
            self._on_text([delta])
        self._model.forget(sequence.slot)
        self._slots.give_back(sequence.slot)
        sequence.sampler.close()
        self._num_generations += 1
        sequence.generation.end(sequence.completion(error))

    def _end_unstarted(self, generation: Generation, submitted: float, error: str | None = None) -> None:
        waited = time.monotonic() - submitted
        generation.end(
            Completion(
                text="",
                token_ids=(),
                finish_reason="failed" if error else self._cut_reason(generation) or "interrupted",
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
        for sequence in self._slots:
            sequence.finish_reason = reason
            sequence.generation.end(sequence.completion(error))
        for generation, submitted in waiting:
            self._end_unstarted(generation, submitted, error)

    def _count(self, num_tokens: int) -> None:
        now = time.monotonic()
        self._num_tokens += num_tokens
        self._rate.append((now, num_tokens))
        while self._rate and self._rate[0][0] < now - RATE_WINDOW_SECONDS:
            self._rate.popleft()


def _decodes(sequence: Sequence | None) -> bool:
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
