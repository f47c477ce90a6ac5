"""How fast a batch goes and when it will be done, from samples of how far it had come. Pure: knows no database.

The ends of lines are taken for a process of some rate whose noise is measured, not assumed: the dispersion is how many
times more the counts of equal spans scatter than chance alone would have it, at several lengths of span, since
noise that holds on for a while scatters more over longer ones. Only the newest stretch of one kind counts: where
the pace changed beyond its noise (a pause, another batch beside it, a worker more or less), what came before is left
out. The range follows from the noise to come and from not knowing the rate exactly.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import NormalDist, median

LATE = 0.9
"""The quantile that the later one of the two answers is."""
CHANGED, CHANGED_RATIO = 4.5, 1.4
"""Standard deviations between two stretches, and ratio of their rates, that are a change of pace and no noise."""
DRIFT = 0.1
"""A machine's pace drifts by itself: the range is never narrower than this part of the time left."""
FEW_SAMPLES = 10
"""With so many samples the range is twice as wide at least: noise that holds on does not show in a few."""
MAX_SPREAD = 10.0
"""The late answer is at most so many times the likely one: beyond it nothing is known but "long"."""
MAX_CORRELATION = 0.8
STANDSTILL = 1e-9
"""Lines a second: a line in thirty years."""
MIN_ENDS = 2
LIKELY_TAIL, LATE_TAIL = 0.25, 1.0
"""How far the last lines' straggling counts, in times of a line: between lines that take equally long (not at all)
and those whose length is chance."""
_SPANS = (1, 2, 4, 8, 16)
"""Numbers of samples in a row over which the scatter is measured."""
_STRETCHES = (1, 4, 16, 1000)
"""Numbers of spans before a cut that what follows it is compared with."""
_MEDIAN_OF_SQUARE = 0.455
"""Of a normal variable of variance 1."""


@dataclass(frozen=True, slots=True)
class Sample:
    """How far a batch had come at an instant, in seconds on any clock."""

    at: float
    num_ended: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Pace:
    """Rates of the newest stretch. `dispersion` 1: as noisy as chance; `seconds`: how long it is."""

    lines_per_second: float
    tokens_per_second: float
    dispersion: float
    seconds: float
    num_samples: int


@dataclass(frozen=True, slots=True)
class Share:
    """A batch that takes its part of the machine beside others."""

    num_left: int
    lines_per_second: float
    owner: str
    owner_weight: float
    weight: float


def pace(samples: Sequence[Sample]) -> Pace | None:
    """The present pace; None while nothing is known, or while nothing moves that did.

    `samples` are in the order of time, the last one being now.
    """
    stretch = _newest(_since_last_step_back(_one_an_instant(samples)))
    if len(stretch) < 2:
        return None
    spans = _Spans(stretch)
    num, seconds = spans.total(0, len(spans))
    if num < MIN_ENDS:
        return None
    tokens = stretch[-1].num_tokens - stretch[0].num_tokens
    return Pace(num / seconds, max(0, tokens) / seconds, _dispersion(stretch), seconds, len(spans))


def _one_an_instant(samples: Sequence[Sample]) -> Sequence[Sample]:
    return list({sample.at: sample for sample in samples}.values())


def _since_last_step_back(samples: Sequence[Sample]) -> Sequence[Sample]:
    """From the newest sample that counts fewer ends than the one before it: its lines were queued again."""
    for index in range(len(samples) - 1, 0, -1):
        if samples[index].num_ended < samples[index - 1].num_ended:
            return samples[index:]
    return samples


class _Spans:
    """The stretches between samples: ends and seconds, as running sums, so that any run of them costs nothing."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        pairs = [(later.num_ended - earlier.num_ended, later.at - earlier.at) for earlier, later in pairwise(samples)]
        self._rates = [num / seconds for num, seconds in pairs]
        self._num = [0, *accumulate(num for num, _ in pairs)]
        self._seconds = [0.0, *accumulate(seconds for _, seconds in pairs)]
        self._squares = [0.0, *accumulate(num * num / seconds for num, seconds in pairs)]
        self._sums = [0.0, *accumulate(self._rates)]
        self._own = [0.0, *accumulate(rate * rate for rate in self._rates)]
        self._next = [0.0, *accumulate(rate * after for rate, after in pairwise(self._rates))]

    def __len__(self) -> int:
        return len(self._rates)

    def total(self, start: int, end: int) -> tuple[int, float]:
        return self._num[end] - self._num[start], self._seconds[end] - self._seconds[start]

    def scatter(self, start: int, end: int) -> float:
        """Sum of (ends - expected)² / expected over the run."""
        num, seconds = self.total(start, end)
        if num == 0:
            return 0.0
        return max(0.0, (self._squares[end] - self._squares[start]) * seconds / num - num)

    def persistence(self, *runs: tuple[int, int]) -> float:
        """How many times further the sum of many spans scatters because neighbours are alike (1: they are not), with
        the mean of each run taken out."""
        alike = whole = 0.0
        for start, end in runs:
            num = end - start
            total = self._sums[end] - self._sums[start]
            mean = total / num
            whole += self._own[end] - self._own[start] - num * mean * mean
            inner = 2 * total - self._rates[start] - self._rates[end - 1]
            alike += self._next[end - 1] - self._next[start] - mean * inner + (num - 1) * mean * mean
        correlation = min(MAX_CORRELATION, max(0.0, alike / whole)) if whole > 0 else 0.0
        return (1 + correlation) / (1 - correlation)


def _dispersion(samples: Sequence[Sample]) -> float:
    """Variance of the counts beside their mean: the greatest over the lengths of span; at least that of chance."""
    found = [1.0]
    for step in _SPANS:
        spans = _Spans([*reversed(samples[::-1][::step])])
        if len(spans) >= 4:
            found.append(spans.scatter(0, len(spans)) / (len(spans) - 1))
            if step == 1:
                found.append(found[-1] * spans.persistence((0, len(spans))))
    return max(found)


def _newest(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Cut off what came before the last change of pace."""
    jitter = _jitter(samples)
    while (start := _change(samples, jitter)) > 0:
        samples = samples[start:]
    return samples


def _jitter(samples: Sequence[Sample]) -> float:
    """Dispersion as neighbouring spans show it: a change of pace, being between two of them only, does not raise it."""
    found = []
    for first, middle, last in zip(samples, samples[1:], samples[2:], strict=False):
        num = last.num_ended - first.num_ended
        if num > 0:
            rates = [(b.num_ended - a.num_ended) / (b.at - a.at) for a, b in ((first, middle), (middle, last))]
            expected = num / (last.at - first.at) * (1 / (middle.at - first.at) + 1 / (last.at - middle.at))
            found.append((rates[1] - rates[0]) ** 2 / expected)
    return median(found) / _MEDIAN_OF_SQUARE if len(found) > 2 else 1.0


def _change(samples: Sequence[Sample], jitter: float) -> int:
    """Where the pace changed most, as an index of `samples`; 0 where it did not beyond its noise.

    What comes after a cut is compared with stretches of several lengths before it: a pause between two runs is a
    change, although before and after it the pace is the same.
    """
    spans = _Spans(samples)
    end = len(spans)
    best, where = CHANGED, 0
    for cut in range(1, end):
        for before in _STRETCHES:
            start = max(0, cut - before)
            if end - start >= 3:
                apart = _apart(spans, start, cut, jitter)
                if apart > best:
                    best, where = apart, cut
            if start == 0:
                break
    return where


def _apart(spans: _Spans, start: int, cut: int, jitter: float) -> float:
    """Standard deviations between the rates before and after a cut; 0 where they are hardly different at all."""
    end = len(spans)
    (old, old_seconds), (new, new_seconds) = spans.total(start, cut), spans.total(cut, end)
    slow, fast = sorted((new / new_seconds, old / old_seconds))
    if fast <= slow * CHANGED_RATIO:
        return 0.0
    scatter = (spans.scatter(start, cut) + spans.scatter(cut, end)) / (end - start - 2)
    dispersion = max(1.0, jitter, scatter * spans.persistence((start, cut), (cut, end)))
    noise = dispersion * (old + new) / (old_seconds + new_seconds)
    return (fast - slow) / math.sqrt(noise * (1 / new_seconds + 1 / old_seconds))


def seconds_left(now: Pace, num_left: int, num_running: int, relief: float = 1.0) -> tuple[float, float]:
    """Seconds until the last line has ended: as likely sooner as later, and sooner nine times of ten.

    `relief` is the part of the likely time that remains because others will be done before (see `relief`); the late
    answer counts on none. While the last lines run the slots empty one by one: the slowest line of those that run
    decides, and a line takes as long as the running ones need to be replaced once.
    """
    if num_left <= 0:
        return 0.0, 0.0
    rate = now.lines_per_second
    steady = num_left / rate
    a_line = min(num_left, num_running) / rate
    straggling = math.log(1 + min(num_left, num_running))
    likely = steady * relief + LIKELY_TAIL * a_line * straggling
    late = _late(now, num_left) + LATE_TAIL * a_line * (1 + straggling)
    unsure = DRIFT * (1 + FEW_SAMPLES / now.num_samples)
    return likely, min(max(late, likely * (1 + unsure)), likely * MAX_SPREAD)


def _late(now: Pace, num_left: int) -> float:
    """When the work is done nine times of ten: the later root of `rate t - z sqrt(noise (t + t²/seconds)) = num_left`.

    The `t` under the root is the noise to come; `t²/seconds` comes from a rate that was measured over `seconds`.
    """
    rate = now.lines_per_second
    squared = _quantile(now.num_samples - 1) ** 2 * now.dispersion * rate
    a, b = rate**2 - squared / now.seconds, 2 * num_left * rate + squared
    if a <= 0:
        return math.inf
    return (b + math.sqrt(max(0.0, b**2 - 4 * a * num_left**2))) / (2 * a)


def _quantile(freedom: int) -> float:
    """Student's, by the first terms of its expansion about the normal one."""
    z = NormalDist().inv_cdf(LATE)
    n = max(1, freedom)
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)


def relief(own: Share, others: Sequence[Share]) -> float:
    """The part of the time at the present pace that a batch needs when the others, once done, leave it their shares.

    All go at their present rates until the first is done; its share goes to those that are left, by the weights.
    """
    if own.num_left <= 0 or own.lines_per_second < STANDSTILL:
        return 1.0
    left = {index: float(share.num_left) for index, share in enumerate([own, *others])}
    shares = dict(enumerate([own, *others]))
    first = parts(shares)
    passed = 0.0
    while True:
        now = parts(shares)
        rates = {index: share.lines_per_second * now[index] / first[index] for index, share in shares.items()}
        times = {index: left[index] / rates[index] for index in shares if rates[index] > 0}
        next_done = min(times, key=times.__getitem__)
        passed += times[next_done]
        if next_done == 0:
            return min(1.0, passed * own.lines_per_second / own.num_left)
        left = {index: left[index] - rates[index] * times[next_done] for index in shares if index != next_done}
        del shares[next_done]


def parts(shares: Mapping[int, Share]) -> dict[int, float]:
    """Each batch's part of the machine: by its owner's weight, then by its own."""
    owners = {share.owner: share.owner_weight for share in shares.values()}
    beside: dict[str, float] = defaultdict(float)
    for share in shares.values():
        beside[share.owner] += share.weight
    whole = sum(owners.values())
    return {index: share.owner_weight / whole * share.weight / beside[share.owner] for index, share in shares.items()}
