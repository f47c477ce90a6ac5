"""The attention kernel alone, without ggml and without a model: its numbers, and the bits it promises."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engine import attention

NATIVE = Path(attention.__file__).parent / "native"
FLAGS = ("-std=gnu11", "-O3", "-fopenmp", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror")
ALL_LEVELS = ("x86-64-v4", "x86-64-v3")
LEVELS = ALL_LEVELS[ALL_LEVELS.index(attention.level_here()) :]
"""What this processor can run of what is built: the best, and what is below it."""

HEADS = (16, 48, 64, 80, 96, 128, 256)
ROWS = (1, 2, 5, 16, 17, 48, 63, 64, 65, 130)
CELLS = (1, 7, 16, 63, 64, 65, 256, 300)
HIDDEN = np.float16(-np.inf)

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Halves = np.ndarray[tuple[int, ...], np.dtype[np.float16]]
Doubles = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Bits = np.ndarray[tuple[int, ...], np.dtype[np.uint32]]


class Structure(ctypes.Structure):
    """`struct attention` of attention.h."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("head", "rows", "cells", "heads", "key_heads", "streams")),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "mask", "out")),
        *((f"q_{step}", ctypes.c_size_t) for step in ("row", "head", "stream")),
        *((f"k_{step}", ctypes.c_size_t) for step in ("cell", "head", "stream")),
        *((f"v_{step}", ctypes.c_size_t) for step in ("cell", "head", "stream")),
        *((f"mask_{step}", ctypes.c_size_t) for step in ("row", "stream")),
        ("mask_streams", ctypes.c_int),
        *((f"out_{step}", ctypes.c_size_t) for step in ("head", "row", "stream")),
        ("scale", ctypes.c_float),
    ]


@dataclass(frozen=True)
class Call:
    """What one call is about, in the order llama.cpp keeps it in memory.

    q: (streams, rows, heads, head). k, v: (streams, places, key heads, head), of which the call has the first `cells`.
    mask: (streams or fewer, rows, places).
    """

    q: Floats
    k: Halves
    v: Halves
    mask: Halves | None
    cells: int
    scale: float

    @property
    def share(self) -> int:
        """Heads that have one head of keys and values."""
        return self.q.shape[2] // self.k.shape[2]


class Kernel:
    """attention.c, built for one level."""

    def __init__(self, level: str, folder: Path) -> None:
        compiler = shutil.which("cc")
        assert compiler is not None, "a C compiler is needed"
        target = folder / f"{level}.so"
        command = [compiler, f"-march={level}", *FLAGS, str(NATIVE / "attention.c"), "-o", str(target), "-lm"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
        self._library = ctypes.CDLL(str(target))
        self._library.attention_kernel.restype = ctypes.c_char_p
        self.name = str(self._library.attention_kernel().decode())

    def fits(self, head: int) -> bool:
        return bool(self._library.attention_fits(head))

    def attend(self, call: Call, threads: int = 1) -> Floats:
        """What the kernel makes of it: (streams, rows, heads, head)."""
        streams, rows, heads, head = call.q.shape
        out = np.full(call.q.shape, np.nan, np.float32)
        mask_streams, mask = 1, call.mask
        if mask is not None:
            mask_streams = mask.shape[0]
        structure = Structure(
            head=head, rows=rows, cells=call.cells, heads=heads, key_heads=call.k.shape[2], streams=streams,
            q=call.q.ctypes.data, k=call.k.ctypes.data, v=call.v.ctypes.data, out=out.ctypes.data,
            mask=None if mask is None else mask.ctypes.data,
            q_row=call.q.strides[1], q_head=call.q.strides[2], q_stream=call.q.strides[0],
            k_cell=call.k.strides[1], k_head=call.k.strides[2], k_stream=call.k.strides[0],
            v_cell=call.v.strides[1], v_head=call.v.strides[2], v_stream=call.v.strides[0],
            mask_row=0 if mask is None else mask.strides[1], mask_stream=0 if mask is None else mask.strides[0],
            mask_streams=mask_streams, scale=call.scale,
            out_head=out.strides[2], out_row=out.strides[1], out_stream=out.strides[0],
        )  # fmt: skip
        self._library.attend(ctypes.byref(structure), threads)
        return out


@pytest.fixture(scope="module", params=LEVELS)
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return Kernel(request.param, tmp_path_factory.mktemp("kernel"))


# -- what it is asked, and what is right


def made(
    seed: int,
    *,
    head: int = 64,
    rows: int = 5,
    cells: int = 100,
    key_heads: int = 1,
    share: int = 2,
    streams: int = 1,
    mask_streams: int | None = None,
    masked: bool = True,
    spare: int = 3,
    loud: float = 1.0,
) -> Call:
    """A causal call, the last row of which sees every cell; `spare` places after the cells hold no number."""
    rng = np.random.default_rng(seed)
    q = (loud * rng.standard_normal((streams, rows, share * key_heads, head))).astype(np.float32)
    k, v = (rng.standard_normal((streams, cells + spare, key_heads, head)).astype(np.float16) for _ in range(2))
    k[:, cells:] = v[:, cells:] = np.nan
    mask = causal(rows, cells, spare, mask_streams or streams) if masked else None
    return Call(q, k, v, mask, cells, scale=head**-0.5)


def causal(rows: int, cells: int, spare: int, streams: int) -> Halves:
    """Row r of stream s sees the cells up to its own; streams differ by a cell in how far they are."""
    ends = cells - rows + np.arange(rows) - np.arange(streams)[:, None]
    hidden = np.arange(cells + spare) > ends[..., None]
    return np.where(hidden, HIDDEN, np.float16(0))


def exact(call: Call) -> Doubles:
    """The same in double precision, (streams, rows, heads, head); zeros for a row that sees nothing."""
    q = call.q.astype(np.float64)
    k, v = (np.repeat(a[:, : call.cells].astype(np.float64), call.share, axis=2) for a in (call.k, call.v))
    scores = np.einsum("srhd,schd->shrc", q, k, optimize=True) * call.scale
    if call.mask is not None:
        mask = call.mask[:, None, :, : call.cells].astype(np.float64)
        scores = scores + np.resize(mask, (q.shape[0], *mask.shape[1:]))
    top = np.maximum(scores.max(axis=-1, keepdims=True), -1e300)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    out: Doubles = np.einsum("shrc,schd->srhd", weights, v, optimize=True)
    return out


def error(kernel: Kernel, call: Call, threads: int = 2) -> float:
    """The largest difference from what is right."""
    return float(np.abs(kernel.attend(call, threads) - exact(call)).max())


def bits(values: Floats) -> Bits:
    return np.ascontiguousarray(values).view(np.uint32)


def same(one: Floats, other: Floats) -> bool:
    return bool(np.array_equal(bits(one), bits(other)))


def rows_of(call: Call, chosen: slice) -> Call:
    mask = None if call.mask is None else np.ascontiguousarray(call.mask[:, chosen])
    return replace(call, q=np.ascontiguousarray(call.q[:, chosen]), mask=mask)


def stream_of(call: Call, stream: int) -> Call:
    one = slice(stream, stream + 1)
    mask = None if call.mask is None else call.mask[np.arange(call.mask.shape[0]) == stream % call.mask.shape[0]]
    return replace(call, q=call.q[one], k=call.k[one], v=call.v[one], mask=mask)


# -- the numbers


@pytest.mark.parametrize("head", HEADS)
def test_every_shape_is_computed_right(kernel: Kernel, head: int) -> None:
    for number, (rows, cells) in enumerate((rows, cells) for rows in ROWS for cells in CELLS):
        call = made(number, head=head, rows=rows, cells=cells, share=1 + number % 4, streams=1 + number % 2)
        assert error(kernel, call) < 4e-6, (rows, cells)


@pytest.mark.parametrize("rows", [1, 2, 17, 65])
@pytest.mark.parametrize("cells", [7, 64, 200])
def test_without_a_mask_a_row_sees_every_cell_and_none_beyond(kernel: Kernel, rows: int, cells: int) -> None:
    call = made(1, rows=rows, cells=cells, masked=False, streams=2)
    assert error(kernel, call) < 4e-6
    assert same(kernel.attend(call), kernel.attend(replace(call, mask=np.zeros((1, rows, cells), np.float16))))


@pytest.mark.parametrize("share", [2, 3, 4])
@pytest.mark.parametrize("rows", [1, 5])
def test_heads_in_groups_have_the_keys_and_values_of_their_group(kernel: Kernel, share: int, rows: int) -> None:
    """Also more heads than decode takes at once."""
    assert error(kernel, made(share, rows=rows, key_heads=5, share=share)) < 4e-6


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("mask_streams", [1, 2, 4])
def test_streams_have_masks_in_turn(kernel: Kernel, rows: int, mask_streams: int) -> None:
    assert error(kernel, made(2, rows=rows, streams=4, mask_streams=mask_streams)) < 4e-6


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_what_a_mask_says_is_added_to_the_scores(kernel: Kernel, rows: int) -> None:
    call = made(3, rows=rows, cells=150)
    assert call.mask is not None
    added = np.random.default_rng(3).standard_normal(call.mask.shape).astype(np.float16)
    assert error(kernel, replace(call, mask=np.where(call.mask == HIDDEN, HIDDEN, added))) < 4e-6


@pytest.mark.parametrize("rows", [1, 5, 40])
def test_scores_that_rise_all_the_way_lose_nothing(kernel: Kernel, rows: int) -> None:
    """Each cell's score is above the one before it, from -150 to 150: the largest so far is never the last word."""
    call = made(4, rows=rows, cells=300, head=64, spare=0)
    call.q[:] = 1
    call.k[:] = np.linspace(-150, 150, 300, dtype=np.float16)[None, :, None, None] / 8
    assert error(kernel, call) < 1e-4


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("loud", [20.0, 400.0])
def test_large_scores_are_as_exact_as_floats_are(kernel: Kernel, rows: int, loud: float) -> None:
    assert error(kernel, made(5, rows=rows, cells=300, loud=loud)) < 1e-5 * loud


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("scale", [0.0, 0.01, 1.5])
def test_queries_are_scaled(kernel: Kernel, rows: int, scale: float) -> None:
    assert error(kernel, replace(made(6, rows=rows), scale=scale)) < 2e-5


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("cells", [5, 64, 100])
def test_a_row_that_sees_nothing_becomes_zeros(kernel: Kernel, rows: int, cells: int) -> None:
    call = made(7, rows=rows, cells=cells, streams=2, masked=False)
    mask = np.zeros((2, rows, cells), np.float16)
    mask[0, rows // 2] = HIDDEN
    call = replace(call, mask=mask)
    assert not kernel.attend(call)[0, rows // 2].any()
    assert error(kernel, call) < 4e-6


@pytest.mark.parametrize("rows", [1, 5])
def test_a_query_that_is_no_number_gives_none(kernel: Kernel, rows: int) -> None:
    """A broken model must not look like a sound one; its neighbour is not harmed."""
    call = made(8, rows=rows, streams=2)
    sound = kernel.attend(call)
    call.q[0, 0, 0, 0] = np.nan
    out = kernel.attend(call)
    assert np.isnan(out[0, 0, 0]).all()
    out[0, 0, 0] = sound[0, 0, 0]
    assert same(out, sound)


def test_heads_it_cannot_do_are_refused(kernel: Kernel) -> None:
    assert all(kernel.fits(head) for head in HEADS)
    assert not any(kernel.fits(head) for head in (-16, 0, 8, 40, 72, 100, 272, 576))


# -- the bits


@functools.cache
def crowd(rows: int, head: int = 48) -> Call:
    """Three streams of two spans and more, each of which sees less than the one before it."""
    return made(rows, head=head, rows=rows, cells=max(rows, 64) + 77, streams=3, key_heads=3, share=3, loud=4)


@pytest.mark.parametrize("rows", [1, 2, 17, 63, 64, 130])
def test_threads_change_no_bit(kernel: Kernel, rows: int) -> None:
    alone = kernel.attend(crowd(rows), threads=1)
    assert all(same(alone, kernel.attend(crowd(rows), threads)) for threads in (2, 3, 7))


@pytest.mark.parametrize("rows", [1, 2, 17, 63, 64, 130])
def test_a_stream_has_the_bits_it_has_alone(kernel: Kernel, rows: int) -> None:
    together = kernel.attend(crowd(rows))
    for stream in range(3):
        assert same(together[stream], kernel.attend(stream_of(crowd(rows), stream))[0])


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("cells", [192, 200])
def test_streams_of_any_lengths_keep_their_bits_and_their_places(kernel: Kernel, rows: int, cells: int) -> None:
    """The longest is begun first, whichever it is; one sees nothing at all; heads are shared out among threads."""
    lengths = np.array([3, 150, 0, 192, 64, 16, 150])
    call = made(11, rows=rows, cells=cells, streams=len(lengths), key_heads=2, share=3, masked=False)
    mask = np.where(np.arange(cells + 3) < lengths[:, None, None], np.float16(0), HIDDEN)
    call = replace(call, mask=np.repeat(mask, rows, axis=1))
    together = kernel.attend(call, threads=5)
    assert np.abs(together - exact(call)).max() < 4e-6
    for stream in range(len(lengths)):
        assert same(together[stream], kernel.attend(stream_of(call, stream))[0])


@settings(max_examples=40)
@given(data=st.data())
def test_a_row_has_the_same_bits_among_any_others(kernel: Kernel, data: st.DataObject) -> None:
    rows = data.draw(st.sampled_from((2, 16, 17, 40, 64, 65, 130)))
    first = data.draw(st.integers(0, rows - 2))
    last = data.draw(st.integers(first + 2, rows))
    call = crowd(rows, data.draw(st.sampled_from((16, 48, 80))))
    assert same(kernel.attend(call)[:, first:last], kernel.attend(rows_of(call, slice(first, last))))


@settings(max_examples=40)
@given(data=st.data())
def test_a_row_has_the_same_bits_beside_other_queries(kernel: Kernel, data: st.DataObject) -> None:
    """Louder ones too, so that the others' largest score rises where this row's does not."""
    rows = data.draw(st.integers(2, 66))
    row = data.draw(st.integers(0, rows - 1))
    call = crowd(rows)
    others = np.random.default_rng(rows).standard_normal(call.q.shape).astype(np.float32) * 50
    others[:, row] = call.q[:, row]
    assert same(kernel.attend(call)[:, row], kernel.attend(replace(call, q=others))[:, row])


@settings(max_examples=60)
@given(data=st.data())
def test_cells_that_are_hidden_change_no_bit(kernel: Kernel, data: st.DataObject) -> None:
    """Holes anywhere. Hidden from some rows: any finite numbers there. Hidden from all: anything there."""
    rows, cells = data.draw(st.sampled_from((1, 2, 18, 65))), data.draw(st.integers(1, 200))
    seed = data.draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    call = made(seed, rows=rows, cells=cells, head=48, streams=2, loud=data.draw(st.sampled_from((1, 100))))
    mask = np.where(rng.random((2, rows, cells + 3)) < data.draw(st.floats(0, 1)), HIDDEN, np.float16(0))
    call = replace(call, mask=mask)
    before = kernel.attend(call)
    unseen = (mask == HIDDEN).all(axis=1)
    for values in (call.k, call.v):
        values[unseen] = rng.choice([np.nan, np.inf, -np.inf, 65504], size=values.shape).astype(np.float16)[unseen]
    assert same(before, kernel.attend(call))
    row = int(rng.integers(rows))
    unseen = mask[:, row] == HIDDEN
    for values in (call.k, call.v):
        values[unseen] = rng.choice([0, -0.0, -65504, 65504], size=values.shape).astype(np.float16)[unseen]
    assert same(before[:, row], kernel.attend(call)[:, row])


@pytest.mark.parametrize("rows", [1, 2, 18, 65])
@pytest.mark.parametrize("cells", [1, 7, 16, 63, 64, 65, 130])
def test_hidden_cells_after_the_last_change_no_bit(kernel: Kernel, rows: int, cells: int) -> None:
    call = made(9, rows=rows, cells=cells, streams=2, spare=140)
    assert call.mask is not None
    call.mask[:, :, cells:] = HIDDEN
    before = kernel.attend(call)
    for more in (1, 8, 9, 16, 33, 64, 140):
        assert same(before, kernel.attend(replace(call, cells=cells + more))), more


@pytest.mark.parametrize("rows", [1, 40])
def test_what_is_hidden_decides_no_sign_of_a_zero(kernel: Kernel, rows: int) -> None:
    """A negative sum that shrinks to nothing is a zero with a sign, and 0 times anything may change it."""
    call = made(10, rows=rows, cells=64, masked=False, spare=0)
    mask = np.full((1, rows, 64), HIDDEN)
    mask[:, :, 0] = mask[:, :, 20] = 0
    mask[:, 1:] = 0
    call.q[:], call.k[:], call.v[:] = 1, 0, -0.0
    call.v[:, 0], call.k[:, 20] = -1, 60
    call = replace(call, mask=mask)
    before = kernel.attend(call)[:, 0]
    call.v[:, 40] = 1
    assert same(before, kernel.attend(call)[:, 0])
    assert not bits(before).any()
