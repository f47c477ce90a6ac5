"""One loaded model and its context: the only file, with `vocabulary`, that calls llama.cpp.

Owns the KV cells (split: every slot a stream of its own), the step batch's arrays and the sampling of a row. One
thread uses a `Model`; only `Row.sample` may run on several threads, one row each. Knows no requests and no text.

Slots 0 … `tile_slots` − 1 are decoded in calls padded to whole tiles; those from `tile_slots` on are lone: each is
decoded in calls of its own. Both give a sequence the same bits whatever stands beside it.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from worker.engine.generation import Sampling, TokenLogprob
from worker.engine.vocabulary import Vocabulary, VocabularyError

SAMPLER_CHAIN = "bias,penalty,grammar,top_k,top_p,min_p,temperature,dist/1"
"""Order of the sampling steps; its number goes up when a step's arithmetic changes, since replays depend on it."""

_KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class ModelLoadError(Exception):
    """The model cannot be loaded. `code`: `model_unreadable`, `out_of_memory`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DecodeError(Exception):
    """llama.cpp refused a step batch; `status` is what `llama_decode` returned."""

    def __init__(self, status: int) -> None:
        super().__init__(f"llama_decode returned {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How to hold a model. `slots`: sequences decoded together (rounded up to whole tiles; fewer than
    `lone_below` and none is padded). `reserve_slots`: lone lanes beside them. Context and chunk in tokens."""

    slots: int = 16
    reserve_slots: int = 2
    context_tokens: int | None = None
    chunk_tokens: int = 256
    tile_rows: int = 16
    lone_below: int = 6
    threads: int | None = None
    kv_type: Literal["f16", "q8_0"] = "f16"
    flash_attention: bool = True
    gpu_layers: int = 0

    @property
    def tile_slots(self) -> int:
        """Slots decoded in tiles: none where so few that decoding each alone is faster."""
        if self.slots < min(self.lone_below, self.tile_rows):
            return 0
        return -(-self.slots // self.tile_rows) * self.tile_rows

    @property
    def lone_slots(self) -> int:
        """Slots decoded alone."""
        return self.reserve_slots if self.tile_slots else self.slots + self.reserve_slots


def num_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_log_tail: deque[str] = deque(maxlen=20)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_log_tail(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    if level in (2, 3):  # warnings and errors
        _log_tail.append(text.decode(errors="replace").strip())


class Model:
    """A loaded model with its context. Make one with `Model.load`; `close` gives the memory back."""

    def __init__(self, handle: Any, context: Any, options: ModelOptions, vocabulary: Vocabulary, path: Path) -> None:
        self._model = handle
        self._context = context
        self._memory = llama_cpp.llama_get_memory(context)
        self.options = options
        self.vocabulary = vocabulary
        self.path = path
        self.tile_slots = options.tile_slots
        self.num_slots = options.tile_slots + options.lone_slots
        self.context_tokens: int = min(
            llama_cpp.llama_n_ctx_seq(context), options.context_tokens or vocabulary.context_tokens
        )
        self._batch = _StepBatch(max(options.chunk_tokens, self.tile_slots, 1))
        self._ids = np.arange(vocabulary.size, dtype=np.int32)

    @classmethod
    def load(cls, path: Path, options: ModelOptions, on_progress: Callable[[float], None] | None = None) -> Model:
        """Load `path` and make its context. `on_progress` gets the part loaded, 0 to 1.

        Raises ModelLoadError: not a model llama.cpp can read, or not enough memory for it or its KV cells.
        """
        _log_tail.clear()
        try:
            vocabulary = Vocabulary.from_gguf(path)
        except VocabularyError as error:
            raise ModelLoadError("model_unreadable", f"{error}{_reasons()}") from error
        llama_cpp.llama_log_set(_keep_log_tail, ctypes.c_void_p(0))
        handle = _load_weights(path, options, on_progress)
        if not handle:
            raise ModelLoadError("model_unreadable", f"llama.cpp cannot load {path.name}{_reasons()}")
        context = llama_cpp.llama_init_from_model(handle, _context_params(options, vocabulary))
        if not context:
            llama_cpp.llama_model_free(handle)
            raise ModelLoadError("out_of_memory", f"no room for the KV cells of {path.name}{_reasons()}")
        return cls(handle, context, options, vocabulary, path)

    def close(self) -> None:
        """Free context and weights. The vocabulary stays usable."""
        self._batch.free()
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    @property
    def recipe(self) -> dict[str, Any]:
        """All of this model and machine that decides the bits of a text, but for the file's hash and the row class."""
        options = asdict(self.options)
        kept = ("chunk_tokens", "tile_rows", "kv_type", "flash_attention", "gpu_layers")
        return {
            **{name: options[name] for name in kept},
            "llama_cpp": llama_cpp.llama_version().decode(),
            "system": llama_cpp.llama_print_system_info().decode().strip(),
            "threads": self.options.threads or num_threads(),
            "kv_layout": "split",
            "template_sha256": self.vocabulary.template_sha256,
            "sampler_chain": SAMPLER_CHAIN,
        }

    def prefill(self, slot: int, tokens: Sequence[int], start: int, *, last: bool) -> Row | None:
        """Decode `tokens` (at most a chunk) of one prompt at position `start`, in a call of their own.

        Returns the row of the last token when `last`, else None.
        """
        self._batch.fill_run(slot, tokens, start, output_last=last)
        self._decode()
        return self._row(len(tokens) - 1) if last else None

    def decode_lone(self, slot: int, token: int, position: int) -> Row:
        """Decode one token of one sequence in a call of its own."""
        self._batch.fill_run(slot, (token,), position, output_last=True)
        self._decode()
        return self._row(0)

    def decode_tiles(self, rows: Sequence[TileRow], first_slot: int) -> list[Row]:
        """Decode one row for each of consecutive slots from `first_slot` (whole tiles), in one call.

        A slot in which nobody decodes gets a dummy: its output is also asked for (the last layer sees only such
        rows, and must see whole tiles) and its cell is taken back. Returns every slot's logits, dummies' included.
        """
        self._batch.fill_rows(rows, first_slot)
        self._decode()
        for offset, row in enumerate(rows):
            if row.dummy:
                self.forget(first_slot + offset, row.position)
        return [self._row(index) for index in range(len(rows))]

    def forget(self, slot: int, start: int = 0) -> None:
        """Free a slot's KV cells from position `start` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, slot, start, -1)

    def num_cells(self, slot: int) -> int:
        """KV cells that a slot holds, in tokens."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def sampler(self, sampling: Sampling, prompt: Iterable[int]) -> Sampler:
        """A sampler for one sequence; the tail of `prompt` counts towards the repeat penalty.

        Raises ValueError for a grammar that llama.cpp cannot parse.
        """
        return Sampler(self.vocabulary, llama_cpp.llama_model_get_vocab(self._model), self._ids, sampling, prompt)

    def _decode(self) -> None:
        status = llama_cpp.llama_decode(self._context, self._batch.handle)
        if status != 0:
            raise DecodeError(status)

    def _row(self, index: int) -> Row:
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        if not pointer:
            raise DecodeError(-1)
        return Row(np.ctypeslib.as_array(pointer, shape=(self.vocabulary.size,)))


class TileRow(NamedTuple):
    """One slot's part of a tile call: a token at a position, or a dummy after the slot's last cell."""

    token: int
    position: int
    dummy: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """The logits of one row, shape (vocabulary size,), float32. Valid until the next decode call."""

    logits: NDArray[np.float32]


class Sampler:
    """Chooses the tokens of one sequence. Holds its own random state, penalty window and grammar state."""

    def __init__(
        self, vocabulary: Vocabulary, vocab: Any, ids: NDArray[np.int32], sampling: Sampling, prompt: Iterable[int]
    ) -> None:
        self._vocabulary = vocabulary
        self._sampling = sampling
        self._ids = ids
        self._recent: deque[int] = deque(prompt, maxlen=max(sampling.repeat_last_n, 0))
        self._bias_ids = np.fromiter(sampling.logit_bias.keys(), dtype=np.int64, count=len(sampling.logit_bias))
        self._bias = np.fromiter(sampling.logit_bias.values(), dtype=np.float32, count=len(sampling.logit_bias))
        self._candidates = np.empty(vocabulary.size, dtype=_CANDIDATE)
        self._chain = _make_chain(sampling)
        self._grammar = (
            llama_cpp.llama_sampler_init_grammar(vocab, sampling.grammar.encode(), b"root")
            if sampling.grammar
            else None
        )
        if sampling.grammar and not self._grammar:
            raise ValueError("llama.cpp cannot parse the grammar")

    def sample(self, row: Row) -> int:
        """Choose the next token from its logits, and remember it."""
        token = self._choose(row, with_grammar=False)
        if self._grammar and not self._allowed(token):
            token = self._choose(row, with_grammar=True)
        if self._grammar:
            llama_cpp.llama_sampler_accept(self._grammar, token)
        if self._recent.maxlen:
            self._recent.append(token)
        return token

    def logprob(self, row: Row, token: int, num_top: int) -> TokenLogprob:
        """Log-probabilities the model gave to `token` and to its `num_top` likeliest ones, before any knob."""
        logits = row.logits.astype(np.float64)
        logprobs = logits - (logits.max() + np.log(np.exp(logits - logits.max()).sum()))
        likeliest = np.argsort(-logprobs, kind="stable")[:num_top] if num_top else ()
        top = tuple((int(t), self._vocabulary.piece(int(t)), float(logprobs[t])) for t in likeliest)
        return TokenLogprob(token, self._vocabulary.piece(token), float(logprobs[token]), top)

    def close(self) -> None:
        """Free what llama.cpp holds for this sampler."""
        llama_cpp.llama_sampler_free(self._chain)
        if self._grammar:
            llama_cpp.llama_sampler_free(self._grammar)
        self._chain = self._grammar = None

    def _choose(self, row: Row, *, with_grammar: bool) -> int:
        candidates = self._candidates
        candidates["id"] = self._ids
        candidates["logit"] = row.logits
        self._adjust(candidates["logit"])
        array = llama_cpp.llama_token_data_array(
            data=candidates.ctypes.data_as(llama_cpp.llama_token_data_p),
            size=len(candidates),
            selected=-1,
            sorted=False,
        )
        if with_grammar:
            llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _adjust(self, logits: NDArray[np.float32]) -> None:
        """Bias, then repeat penalty: llama.cpp's arithmetic, on the few logits concerned and not on all of them."""
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias
        penalty = np.float32(self._sampling.repeat_penalty)
        if penalty != 1 and self._recent:
            recent = np.unique(np.fromiter(self._recent, dtype=np.int64))
            values = logits[recent]
            logits[recent] = np.where(values <= 0, values * penalty, values / penalty)

    def _allowed(self, token: int) -> bool:
        one = llama_cpp.llama_token_data(id=token, logit=1.0, p=0.0)
        array = llama_cpp.llama_token_data_array(data=ctypes.pointer(one), size=1, selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(one.logit != -float("inf"))


def _make_chain(sampling: Sampling) -> Any:
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    if sampling.temperature == 0:
        llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_greedy())
        return chain
    steps = [
        llama_cpp.llama_sampler_init_top_k(sampling.top_k) if sampling.top_k else None,
        llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1) if sampling.top_p and sampling.top_p < 1 else None,
        llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1) if sampling.min_p else None,
        llama_cpp.llama_sampler_init_temp(sampling.temperature) if sampling.temperature != 1 else None,
        llama_cpp.llama_sampler_init_dist(sampling.seed),
    ]
    for step in steps:
        if step is not None:
            llama_cpp.llama_sampler_chain_add(chain, step)
    return chain


class _StepBatch:
    """The arrays of one `llama_decode` call, allocated once and filled for each."""

    def __init__(self, size: int) -> None:
        self.handle = llama_cpp.llama_batch_init(size, 0, 1)
        self._tokens = np.ctypeslib.as_array(self.handle.token, shape=(size,))
        self._positions = np.ctypeslib.as_array(self.handle.pos, shape=(size,))
        self._outputs = np.ctypeslib.as_array(self.handle.logits, shape=(size,))
        np.ctypeslib.as_array(self.handle.n_seq_id, shape=(size,))[:] = 1
        # Each row has one sequence: the first entry of the row's own little array.
        self._slots = [np.ctypeslib.as_array(self.handle.seq_id[row], shape=(1,)) for row in range(size)]

    def fill_run(self, slot: int, tokens: Sequence[int], start: int, *, output_last: bool) -> None:
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = np.arange(start, start + count)
        self._outputs[:count] = 0
        self._outputs[count - 1] = output_last
        for row in range(count):
            self._slots[row][0] = slot
        self.handle.n_tokens = count

    def fill_rows(self, rows: Sequence[TileRow], first_slot: int) -> None:
        for index, row in enumerate(rows):
            self._tokens[index] = row.token
            self._positions[index] = row.position
            self._slots[index][0] = first_slot + index
        self._outputs[: len(rows)] = 1
        self.handle.n_tokens = len(rows)

    def free(self) -> None:
        llama_cpp.llama_batch_free(self.handle)


def _load_weights(path: Path, options: ModelOptions, on_progress: Callable[[float], None] | None) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers

    def report(part: float, _user_data: ctypes.c_void_p) -> bool:
        if on_progress is not None:
            on_progress(part)
        return True

    callback = llama_cpp.llama_progress_callback(report)
    params.progress_callback = callback
    return llama_cpp.llama_model_load_from_file(str(path).encode(), params)


def _context_params(options: ModelOptions, vocabulary: Vocabulary) -> Any:
    num_slots = options.tile_slots + options.lone_slots
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = (options.context_tokens or vocabulary.context_tokens) * num_slots
    params.n_seq_max = num_slots
    params.n_batch = params.n_ubatch = max(options.chunk_tokens, options.tile_slots, 1)
    params.n_outputs_max = num_slots
    params.n_threads = params.n_threads_batch = options.threads or num_threads()
    params.type_k = params.type_v = _KV_TYPES[options.kv_type]
    params.flash_attn_type = int(options.flash_attention)  # 1: on, 0: off
    params.kv_unified = False
    params.no_perf = True
    return params


def _reasons() -> str:
    return f" ({'; '.join(_log_tail)})" if _log_tail else ""
