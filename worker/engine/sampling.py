"""Chooses tokens from logits: bias, repeat penalty, grammar, truncation, temperature, one draw.

C does it (`worker.engine.draws`) where there is our library, and numpy elsewhere; the distribution is exact in both: no
step approximates. A sampler's random numbers come from its seed only, one a draw. Knows logits and token ids; knows no
model, no slot and no text. Grammars are judged by whoever gives one (`worker.engine.model`).
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worker.engine.draws import Draw, Draws, by_temperature
from worker.engine.generation import Sampling, TokenLogprob

NUMPY_CHAIN = "bias,penalty,grammar/2,top_k,top_p,min_p,temperature,draw/2"
NATIVE_CHAIN = "bias,penalty,grammar/2,top_k,top_p,min_p,temperature,draw/3"
"""Order of the sampling steps; its number is another when a step's arithmetic is, since replays depend on it."""

_SPAN = 128
"""Weights are summed in spans of this many, and the draw searches the spans first: no running sum over all."""
_STARTS = np.arange(0, 1 << 20, _SPAN)
"""Where spans begin, for vocabularies of up to a million tokens."""
_MOST_DRAWS = 4
"""Draws that a grammar may refuse before all tokens are put to it at once."""

Logits = NDArray[np.float32]
Ids = NDArray[np.int64]


class Grammar(Protocol):
    """The state of one grammar along one completion."""

    def allows(self, token: int) -> bool: ...
    def mask(self, logits: Logits) -> None:
        """Set the logits of all tokens that may not come now to minus infinity."""

    def accept(self, token: int) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Row:
    """The logits of one row, shape (vocabulary size,), float32. Valid until the next decode call."""

    logits: Logits
    address: int = 0
    """Where they are, if somebody knows it already."""


class _Scratch(threading.local):
    """A thread's own buffer for one row, so that the same memory stays in its cache from row to row."""

    def __init__(self) -> None:
        self.row = np.empty(0, dtype=np.float32)

    def copy_of(self, logits: Logits) -> Logits:
        if len(self.row) != len(logits):
            self.row = np.empty(len(logits), dtype=np.float32)
        np.copyto(self.row, logits)
        return self.row


_scratch = _Scratch()


class _Recent:
    """The last `size` tokens, in no order, as an array that numpy can index with."""

    def __init__(self, tokens: Iterable[int], size: int) -> None:
        last = deque(tokens, maxlen=size)
        self._ids = np.empty(size, dtype=np.int64)
        self._ids[: len(last)] = last
        self._count = len(last)

    def add(self, token: int) -> None:
        if len(self._ids):
            self._ids[self._count % len(self._ids)] = token
            self._count += 1

    def ids(self) -> Ids:
        """Those there are; some more than once."""
        return self._ids[: self._count]

    @property
    def memory(self) -> Ids:
        """Where they are, all places, of which the first `num` are taken."""
        return self._ids

    @property
    def num(self) -> int:
        return min(self._count, len(self._ids))


class Sampler:
    """Chooses the tokens of one sequence. Holds its own random state, penalty window and grammar state."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Iterable[int],
        piece: Callable[[int], bytes],
        grammar: Grammar | None = None,
        draws: Draws | None = None,
    ) -> None:
        """`draws`: the library; None to draw in numpy."""
        self._sampling = sampling
        self._piece = piece
        self._grammar = grammar
        self._random = random.Random(sampling.seed).random  # noqa: S311  the same numbers for the same seed, always
        self._recent = _Recent(prompt, max(sampling.repeat_last_n, 0))
        self._penalty = np.float32(sampling.repeat_penalty)
        self._bias_ids = np.fromiter(sampling.logit_bias.keys(), dtype=np.int64, count=len(sampling.logit_bias))
        self._bias = np.fromiter(sampling.logit_bias.values(), dtype=np.float32, count=len(sampling.logit_bias))
        self._steepness = by_temperature(sampling)
        self._native: Draw | None = None
        if draws is not None:
            num_bias = len(self._bias) if grammar is None else 0  # with a grammar logits come adjusted
            self._native = Draw(draws, sampling, self._recent.memory, self._bias_ids[:num_bias], self._bias[:num_bias])
        self._truncates = bool(sampling.top_k or (sampling.top_p and sampling.top_p < 1) or sampling.min_p)

    def sample(self, row: Row) -> int:
        """Choose the next token from its logits, and remember it."""
        if self._native is not None and self._grammar is None:
            token = self._native(row.logits, self._recent.num, self._uniform(), row.address)
            self._recent.add(token)
            return token
        logits = _scratch.copy_of(row.logits)
        self._adjust(logits)
        token = self._choose(logits) if self._grammar is None else self._choose_within(logits, self._grammar)
        self._recent.add(token)
        return token

    def accept(self, token: int) -> None:
        """Take a token that was chosen elsewhere: it counts as if it had been drawn here."""
        self._uniform()
        if self._grammar is not None:
            self._grammar.accept(token)
        self._recent.add(token)

    def logprob(self, row: Row, token: int, num_top: int) -> TokenLogprob:
        """Log-probabilities the model gave to `token` and to its `num_top` likeliest ones, before any knob."""
        logits = row.logits
        highest = float(logits.max())
        wide = np.subtract(logits, highest, dtype=np.float64)
        log_total = highest + float(np.log(np.exp(wide, out=wide).sum()))
        likeliest = _likeliest(logits, num_top)[:num_top] if num_top else ()
        top = tuple((int(t), self._piece(int(t)), float(logits[t]) - log_total) for t in likeliest)
        return TokenLogprob(token, self._piece(token), float(logits[token]) - log_total, top)

    def close(self) -> None:
        """Free what the grammar holds."""
        if self._grammar is not None:
            self._grammar.close()
        self._grammar = None

    def _choose(self, logits: Logits) -> int:
        """One draw; `logits` are adjusted already, and may be overwritten."""
        if self._native is not None:
            return self._native(logits, 0, self._uniform())
        if self._steepness == 0:
            return int(logits.argmax())
        if self._truncates:
            ids = self._kept(logits)
            return int(ids[_draw(_weights(logits[ids], self._steepness), self._uniform())])
        return _draw(_weights(logits, self._steepness), self._uniform())

    def _uniform(self) -> float:
        """The next random number; greedy sequences need none."""
        return self._random() if self._steepness else 0.0

    def _choose_within(self, logits: Logits, grammar: Grammar) -> int:
        """A draw among what the grammar allows.

        Drawing again without the refused token is the same distribution as drawing among the allowed, and a few
        draws cost less than to judge every token. Not so with truncation, which must see the allowed ones only.
        """
        original = logits.copy()
        for _ in range(1 if self._truncates else _MOST_DRAWS):
            token = self._choose(logits)
            if grammar.allows(token):
                break
            original[token] = -np.inf
            np.copyto(logits, original)
        else:
            grammar.mask(logits)
            token = self._choose(logits)
        grammar.accept(token)
        return token

    def _adjust(self, logits: Logits) -> None:
        """Bias, then repeat penalty: llama.cpp's arithmetic, on the few logits concerned and not on all of them."""
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias
        penalty = self._penalty
        if penalty != 1:
            recent = self._recent.ids()
            values = logits[recent]
            towards_less = np.minimum if penalty > 1 else np.maximum  # of both signs: times below 0, by it above
            logits[recent] = towards_less(values * penalty, values / penalty)

    def _kept(self, logits: Logits) -> Ids:
        """Ids that top_k, top_p and min_p leave, in this order; the likeliest first, the lower id where equal."""
        sampling = self._sampling
        ids: Ids | None = _likeliest(logits, sampling.top_k)[: sampling.top_k] if sampling.top_k else None
        if sampling.top_p and sampling.top_p < 1:
            ids = _nucleus(logits, sampling.top_p) if ids is None else ids[: _num_within(logits[ids], sampling.top_p)]
        if sampling.min_p:
            lowest = logits.max() + np.log(np.float32(sampling.min_p))
            ids = np.flatnonzero(logits >= lowest) if ids is None else ids[logits[ids] >= lowest]
        assert ids is not None  # noqa: S101  some knob is on
        return ids


def _weights(logits: Logits, steepness: float) -> Logits:
    """Probabilities but for their common factor; in place. `steepness`: 1 / temperature."""
    np.subtract(logits, logits.max(), out=logits)
    if steepness != 1:
        np.multiply(logits, np.float32(steepness), out=logits)
    return np.exp(logits, out=logits)


def _draw(weights: Logits, uniform: float) -> int:
    """The index at which the running sum of `weights` passes `uniform` (0 ≤ it < 1) of the whole."""
    sums = np.add.reduceat(weights, _STARTS[: -(-len(weights) // _SPAN)]).cumsum(dtype=np.float64)
    target = uniform * sums[-1]
    span = min(int(sums.searchsorted(target, side="right")), len(sums) - 1)
    part = weights[span * _SPAN : (span + 1) * _SPAN].cumsum(dtype=np.float64)
    index = int(part.searchsorted(target - (sums[span - 1] if span else 0.0), side="right"))
    if index >= len(part):  # the two sums were rounded differently: the last that has any weight
        index = int(np.flatnonzero(weights[span * _SPAN : (span + 1) * _SPAN])[-1])
    return span * _SPAN + index


def _likeliest(logits: Logits, count: int) -> Ids:
    """At least the `count` ids with the highest logits (all that equal the last of them), sorted, highest first."""
    if count >= len(logits):
        ids = np.arange(len(logits))
    else:
        place = len(logits) - count
        ids = np.flatnonzero(logits >= np.partition(logits, place)[place])
    return ids[np.argsort(-logits[ids], kind="stable")]


def _nucleus(logits: Logits, top_p: float) -> Ids:
    """The fewest ids, likeliest first, that hold `top_p` of the probability."""
    total = float(np.exp(logits - logits.max()).sum(dtype=np.float64))
    count = 256
    while True:
        ids = _likeliest(logits, count)
        num = _num_within(logits[ids], top_p, total)
        if num <= count or count >= len(logits):
            return ids[:num]
        count *= 16


def _num_within(logits: Logits, top_p: float, total: float | None = None) -> int:
    """How many of `logits` (highest first) it takes to hold `top_p` of `total`; one more than all if they do not."""
    running = np.exp(logits - logits[0]).cumsum(dtype=np.float64)
    return int(running.searchsorted(top_p * (running[-1] if total is None else total), side="left")) + 1
