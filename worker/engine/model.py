"""One loaded model and its context: the only file that runs llama.cpp (`vocabulary` reads a model's words with it).

Owns the KV cells (split: every slot a stream of its own) and the step batch's arrays. One thread uses a `Model`.
Knows no requests, no sampling and no text.

Slots 0 … `tile_slots` − 1 are decoded in calls padded to whole tiles; those from `tile_slots` on are lone: each is
decoded in calls of its own. Both give a sequence the same bits whatever stands beside it. So does prefill: its rows
are padded to whole tiles too, and a prompt is cut where its own length says (see `Piece`).
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

from worker.engine import attention, machine
from worker.engine.cells import Bytes
from worker.engine.draws import Draws
from worker.engine.generation import Sampling
from worker.engine.grammar import ModelGrammar
from worker.engine.sampling import NATIVE_CHAIN, NUMPY_CHAIN, Row, Sampler
from worker.engine.vocabulary import Vocabulary, VocabularyError

PREFILL = "blocks/1"
"""How prompts are cut and padded; its number goes up when the rule of `Piece` changes, since replays depend on it."""

_KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}


class ModelLoadError(Exception):
    """The model cannot be loaded. `code`: `model_unreadable`, `out_of_memory`, `attention_unavailable`."""

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
    `lone_below` and none is padded). `reserve_slots`: lone lanes beside them. `chunk_tokens`: prompt tokens prefilled
    between two tokens of those that decode. `block_tokens`: prompts are cut at multiples of it, and shared in wholes of
    it; 64 is the least at which llama.cpp's attention takes one and the same way for all of a block. Where cuts are
    free (`Model.cuts_are_free`) a tile's rows take its place."""

    slots: int = 16
    reserve_slots: int = 2
    context_tokens: int | None = None
    chunk_tokens: int = 256
    block_tokens: int = 64
    tile_rows: int = 16
    lone_below: int = 6
    threads: int | None = None
    kv_type: Literal["f16", "q8_0"] = "f16"
    flash_attention: bool = True
    attention: attention.Choice = "auto"
    gpu_layers: int = 0
    main_gpu: int = 0
    tensor_split: tuple[float, ...] = ()

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

    @property
    def chunk_rows(self) -> int:
        """Rows of the largest prefill call: a chunk in whole blocks, and never less than one."""
        return max(self.chunk_tokens // self.block_tokens, 1) * self.block_tokens


def num_threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_log_tail: deque[str] = deque(maxlen=20)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _keep_log_tail(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    if level in (2, 3):  # warnings and errors
        _log_tail.append(text.decode(errors="replace").strip())


def _address_of(name: str, *arguments: Any) -> Any:
    """One of llama.cpp's functions that give a place in memory, as a number: a pointer takes longer to make."""
    function = llama_cpp.llama_cpp._lib[name]
    function.argtypes, function.restype = [ctypes.c_void_p, *arguments], ctypes.c_void_p
    return function


_all_logits = _address_of("llama_get_logits")
_logits_of = _address_of("llama_get_logits_ith", ctypes.c_int32)
_MOST_PLACES = 16


class Model:
    """A loaded model with its context. Make one with `Model.load`; `close` gives the memory back."""

    def __init__(self, handle: Any, context: Any, options: ModelOptions, vocabulary: Vocabulary, path: Path) -> None:
        self.attention = attention.THEIRS
        """Whose attention it has, and why."""
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
        self._batch = _StepBatch(_num_rows(options))
        self._lone_batch = _StepBatch(1)
        self._rows: dict[tuple[int, int], list[Row]] = {}
        self._draws = _draws(options)
        self._ids = np.arange(vocabulary.size, dtype=np.int32)
        self.blocks_are_exact = True
        """Whether calls may hold blocks of several prompts, or some blocks of one, and change no bit. The probe says
        so; where it does not hold, whoever needs exact bits prefills one block of `chunk_tokens` a call."""
        self.cuts_are_free = attention.is_used()
        """Whether a prompt may be cut anywhere and changes no bit: so with our attention, and the probe says so too."""

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
        whose = _attention(options)
        handle = _load_weights(path, options, on_progress)
        if not handle:
            raise ModelLoadError("model_unreadable", f"llama.cpp cannot load {path.name}{_reasons()}")
        return cls._in_context(handle, options, vocabulary, path, whose)

    @classmethod
    def _in_context(cls, handle: Any, options: ModelOptions, vocabulary: Vocabulary, path: Path, whose: str) -> Model:
        try:
            context = _new_context(handle, options, vocabulary, path)
            if attention.has_declined():
                llama_cpp.llama_free(context)
                whose = _attention(options, attention.step_back)
                context = _new_context(handle, options, vocabulary, path)
        except ModelLoadError:
            llama_cpp.llama_model_free(handle)
            raise
        model = cls(handle, context, options, vocabulary, path)
        model.attention = whose
        return model

    def reshaped(self, options: ModelOptions) -> Model:
        """The same weights with a context of other options. This model is used up. Raises ModelLoadError."""
        self._free_batches()
        llama_cpp.llama_free(self._context)
        return self._in_context(self._model, options, self.vocabulary, self.path, self.attention)

    def close(self) -> None:
        """Free context and weights. The vocabulary stays usable."""
        self._free_batches()
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def _free_batches(self) -> None:
        for batch in (self._batch, self._lone_batch):
            batch.free()

    @property
    def recipe(self) -> dict[str, Any]:
        """All of this model and machine that decides the bits of a text, but for the file's hash and the row class."""
        options = asdict(self.options)
        kept = ("chunk_tokens", "block_tokens", "tile_rows", "kv_type", "flash_attention", "gpu_layers", "main_gpu")
        split = {"tensor_split": list(self.options.tensor_split)} if self.options.tensor_split else {}
        return {
            **{name: options[name] for name in kept},
            **split,
            **machine.facts(),
            "threads": self.options.threads or num_threads(),
            "kv_layout": "split",
            "template_sha256": self.vocabulary.template_sha256,
            "prefill": PREFILL,
            "sampler_chain": NUMPY_CHAIN if self._draws is None else NATIVE_CHAIN,
            **({"numpy": np.__version__} if self._draws is None else {}),
        }

    def prefill(self, pieces: Sequence[Piece], *, output_last: bool = False) -> Row | None:
        """Decode one piece of each of some prompts, all of them with as many rows, in one call (a pass for each run of
        neighbouring slots). Returns the row of the last token when `output_last`, for which there must be one piece.
        """
        self._batch.fill_pieces(pieces)
        if output_last:
            self._batch.ask_for(len(pieces[0].tokens) - 1)
        self._decode(self._batch)
        for piece in pieces:
            if piece.rows > len(piece.tokens):
                self.forget(piece.slot, piece.start + len(piece.tokens))
        return self._row(len(pieces[0].tokens) - 1) if output_last else None

    def decode_lone(self, slot: int, token: int, position: int) -> Row:
        """Decode one token of one sequence in a call of its own."""
        self._lone_batch.fill_row(token, position, slot)
        self._decode(self._lone_batch)
        return self._row(0)

    def decode_tiles(self, rows: Sequence[TileRow], first_slot: int) -> list[Row]:
        """Decode one row for each of consecutive slots from `first_slot` (whole tiles), in one call.

        A slot in which nobody decodes gets a dummy: its output is also asked for (the last layer sees only such
        rows, and must see whole tiles) and its cell is taken back. Returns every slot's logits, dummies' included.
        """
        self._batch.fill_rows(rows, first_slot)
        self._decode(self._batch)
        for offset, row in enumerate(rows):
            if row.dummy:
                self.forget(first_slot + offset, row.position)
        return self._rows_at(_all_logits(self._context), len(rows))

    def forget(self, slot: int, start: int = 0) -> None:
        """Free a slot's KV cells from position `start` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, slot, start, -1)

    def num_cells(self, slot: int) -> int:
        """KV cells that a slot holds, in tokens."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def save(self, slot: int) -> Bytes:
        """A copy of a slot's KV cells in the memory of this machine."""
        state = np.empty(llama_cpp.llama_state_seq_get_size(self._context, slot), dtype=np.uint8)
        size = llama_cpp.llama_state_seq_get_data(self._context, _pointer(state), len(state), slot)
        if size != len(state):
            raise DecodeError(-1)
        return state

    def load_cells(self, slot: int, state: Bytes) -> None:
        """Put saved cells into a slot, instead of those it has: from any slot, bit for bit."""
        if not llama_cpp.llama_state_seq_set_data(self._context, _pointer(state), len(state), slot):
            raise DecodeError(-1)

    def sampler(self, sampling: Sampling, prompt: Iterable[int]) -> Sampler:
        """A sampler for one sequence; the tail of `prompt` counts towards the repeat penalty.

        Raises ValueError for a grammar that llama.cpp cannot parse.
        """
        grammar = None
        if sampling.grammar:
            grammar = ModelGrammar(llama_cpp.llama_model_get_vocab(self._model), self._ids, sampling.grammar)
        return Sampler(sampling, prompt, self.vocabulary.piece, grammar, self._draws)

    def _decode(self, batch: _StepBatch) -> None:
        status = llama_cpp.llama_decode(self._context, batch.handle)
        if status != 0:
            raise DecodeError(status)

    def _row(self, index: int) -> Row:
        return self._rows_at(_logits_of(self._context, index), 1)[0]

    def _rows_at(self, address: int | None, num_rows: int) -> list[Row]:
        """Rows of logits one after another, where llama.cpp wrote them. It has few such places, so they are kept."""
        if not address:
            raise DecodeError(-1)
        rows = self._rows.get((address, num_rows))
        if rows is None:
            size = self.vocabulary.size
            numbers: Any = (ctypes.c_float * (num_rows * size)).from_address(address)
            table = np.frombuffer(numbers, dtype=np.float32).reshape(num_rows, size)
            rows = [Row(logits, address + at * logits.nbytes) for at, logits in enumerate(table)]
            self._rows = {**dict([*self._rows.items()][-_MOST_PLACES:]), (address, num_rows): rows}
        return rows


class TileRow(NamedTuple):
    """One slot's part of a tile call: a token at a position, or a dummy after the slot's last cell."""

    token: int
    position: int
    dummy: bool = False


class Piece(NamedTuple):
    """Some tokens of one prompt from position `start`, and the rows they take: as many, or more to fill whole tiles.

    What a token's cells become depends on its prompt alone as long as every pass has whole tiles of rows and each slot
    two rows or more. llama.cpp's attention asks for more: the rows that one slot has in a call are either whole blocks,
    or fewer than a block and of what is left after the last whole block, for it goes another way for blocks.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    rows: int


def _pointer(state: Bytes) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


class _StepBatch:
    """The arrays of one `llama_decode` call, allocated once and filled for each."""

    def __init__(self, size: int) -> None:
        self.handle = llama_cpp.llama_batch_init(size, 0, 1)
        self._tokens = np.ctypeslib.as_array(self.handle.token, shape=(size,))
        self._positions = np.ctypeslib.as_array(self.handle.pos, shape=(size,))
        self._outputs = np.ctypeslib.as_array(self.handle.logits, shape=(size,))
        np.ctypeslib.as_array(self.handle.n_seq_id, shape=(size,))[:] = 1
        self._outputs[:] = 1
        self.handle.n_tokens = size
        # Each row has one sequence: the first entry of the row's own little array.
        self._slots = [np.ctypeslib.as_array(self.handle.seq_id[row], shape=(1,)) for row in range(size)]
        self._run: tuple[int, int] | None = None  # the slots that the rows have: so many from that one on

    def fill_pieces(self, pieces: Sequence[Piece]) -> None:
        """Rows without outputs; those beyond a piece's tokens hold token 0."""
        at = 0
        self._run = None
        for piece in pieces:
            end = at + piece.rows
            self._tokens[at : at + len(piece.tokens)] = piece.tokens
            self._tokens[at + len(piece.tokens) : end] = 0
            self._positions[at:end] = np.arange(piece.start, piece.start + piece.rows)
            for row in range(at, end):
                self._slots[row][0] = piece.slot
            at = end
        self._outputs[:at] = 0
        self.handle.n_tokens = at

    def ask_for(self, row: int) -> None:
        """Ask for the output of one row more."""
        self._outputs[row] = 1

    def fill_rows(self, rows: Sequence[TileRow], first_slot: int) -> None:
        """One row for each of the slots from `first_slot` on."""
        num_rows = len(rows)
        self._tokens[:num_rows] = [row.token for row in rows]
        self._positions[:num_rows] = [row.position for row in rows]
        if self._run != (first_slot, num_rows):  # mostly those of the step before: each is an array of its own
            for index in range(num_rows):
                self._slots[index][0] = first_slot + index
            self._run = first_slot, num_rows
        self._outputs[:num_rows] = 1
        self.handle.n_tokens = num_rows

    def fill_row(self, token: int, position: int, slot: int) -> None:
        """The only row of a batch of one."""
        self._tokens[0] = token
        self._positions[0] = position
        self._slots[0][0] = slot
        self._run = None

    def free(self) -> None:
        llama_cpp.llama_batch_free(self.handle)


def _attention(options: ModelOptions, decide: Callable[[attention.Choice], str] = attention.use) -> str:
    """Ours does half floats in the processor's memory; what else is asked for is llama.cpp's."""
    ours = options.gpu_layers == 0 and options.flash_attention and options.kv_type == "f16"
    try:
        return decide(options.attention if ours else "llama.cpp")
    except attention.AttentionUnavailable as error:
        raise ModelLoadError("attention_unavailable", f"Penstock's own attention cannot be had: {error}") from error


def _draws(options: ModelOptions) -> Draws | None:
    """None: tokens are drawn in numpy, since our library is not to be had or not wanted."""
    try:
        return None if options.attention == "llama.cpp" else Draws(attention.library())
    except attention.AttentionUnavailable:
        return None


def _load_weights(path: Path, options: ModelOptions, on_progress: Callable[[float], None] | None) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    params.main_gpu = options.main_gpu
    parts = (ctypes.c_float * llama_cpp.llama_max_devices())(*options.tensor_split)
    if options.tensor_split:
        params.tensor_split = parts

    def report(part: float, _user_data: ctypes.c_void_p) -> bool:
        if on_progress is not None:
            on_progress(part)
        return True

    callback = llama_cpp.llama_progress_callback(report)
    params.progress_callback = callback
    return llama_cpp.llama_model_load_from_file(str(path).encode(), params)


def _new_context(handle: Any, options: ModelOptions, vocabulary: Vocabulary, path: Path) -> Any:
    context = llama_cpp.llama_init_from_model(handle, _context_params(options, vocabulary))
    if not context:
        raise ModelLoadError("out_of_memory", f"no room for the KV cells of {path.name}{_reasons()}")
    return context


def _context_params(options: ModelOptions, vocabulary: Vocabulary) -> Any:
    num_slots = options.tile_slots + options.lone_slots
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = (options.context_tokens or vocabulary.context_tokens) * num_slots
    params.n_seq_max = num_slots
    params.n_batch = params.n_ubatch = _num_rows(options)
    params.n_outputs_max = num_slots
    params.n_threads = params.n_threads_batch = options.threads or num_threads()
    params.type_k = params.type_v = _KV_TYPES[options.kv_type]
    params.flash_attn_type = int(options.flash_attention)  # 1: on, 0: off
    params.kv_unified = False
    params.no_perf = True
    return params


def _num_rows(options: ModelOptions) -> int:
    two_blocks = 2 * options.block_tokens  # what the probe calls for, however small a chunk is
    return max(options.chunk_rows, options.tile_slots, options.tile_rows, two_blocks)


def _reasons() -> str:
    return f" ({'; '.join(_log_tail)})" if _log_tail else ""
