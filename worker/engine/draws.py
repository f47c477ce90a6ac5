"""Choosing a token in C (`native/draw.c`): bias, penalty, truncation, temperature and the draw in one call.

Knows the library's interface; knows no model and no sequence. Where there is no library, `worker.engine.sampling` does
the same in numpy, several times slower, and the recipe says which of the two drew.
"""

from __future__ import annotations

import ctypes
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.engine.generation import Sampling

_STEEPEST = 1e30


class _Knobs(ctypes.Structure):
    """`struct draw` of `native/draw.h`."""

    _fields_ = (
        ("top_p", ctypes.c_double),
        ("by_temperature", ctypes.c_float),
        ("least", ctypes.c_float),
        ("penalty", ctypes.c_float),
        ("top_k", ctypes.c_int),
        ("num_bias", ctypes.c_int),
        ("num_recent", ctypes.c_int),
        ("bias_ids", ctypes.c_void_p),
        ("recent", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


def by_temperature(sampling: Sampling) -> float:
    """1 / temperature, but no more than single precision holds (long before, only the likeliest is left); 0: greedy."""
    return min(1 / max(sampling.temperature, 1 / _STEEPEST), _STEEPEST) if sampling.temperature else 0.0


class _Room(threading.local):
    """A thread's own memory for one draw, so that it stays in its cache from row to row."""

    def __init__(self) -> None:
        self.size = 0
        self.address = 0

    def of(self, size: int) -> int:
        """Address of at least so many bytes."""
        if size > self.size:
            self._memory = np.empty(size // 8 + 1, dtype=np.float64)
            self.size, self.address = size, self._memory.ctypes.data
        return self.address


_room = _Room()


class Draws:
    """The library, loaded. It keeps the interpreter while it draws: a draw is shorter than taking it back would be."""

    def __init__(self, path: Path) -> None:
        library = ctypes.PyDLL(str(path))
        self.draw: Any = library.penstock_draw
        self.draw.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_double, ctypes.c_void_p]
        self.room: Any = library.penstock_draw_room
        self.room.argtypes, self.room.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_size_t


class Draw:
    """Draws for one sequence. `recent` is the memory of the penalty's window, whose first ids count as told with each
    draw; `bias_ids` and `bias` are as long as each other."""

    def __init__(
        self,
        draws: Draws,
        sampling: Sampling,
        recent: NDArray[np.int64],
        bias_ids: NDArray[np.int64],
        bias: NDArray[np.float32],
    ) -> None:
        self._draw, self._room_for = draws.draw, draws.room
        self._kept_alive = recent, bias_ids, bias
        self._knobs = _Knobs(
            top_p=sampling.top_p or 0.0,
            by_temperature=by_temperature(sampling),
            least=math.log(sampling.min_p) if sampling.min_p else 1.0,
            penalty=sampling.repeat_penalty,
            top_k=sampling.top_k or 0,
            num_bias=len(bias_ids),
            num_recent=len(recent),
            bias_ids=bias_ids.ctypes.data,
            recent=recent.ctypes.data,
            bias=bias.ctypes.data,
        )
        self._address = ctypes.addressof(self._knobs)
        self._size = self._room_bytes = 0

    def __call__(self, logits: NDArray[np.float32], num_recent: int, uniform: float, address: int = 0) -> int:
        """The next token. `logits`: shape (vocabulary size,), side by side in memory (at `address`), and the same when
        it returns; `uniform`: 0 ≤ it < 1."""
        size = len(logits)
        if size != self._size:
            self._size, self._room_bytes = size, self._room_for(self._address, size)
        self._knobs.num_recent = num_recent
        at = address or logits.ctypes.data
        token: int = self._draw(self._address, at, size, uniform, _room.of(self._room_bytes))
        return token
