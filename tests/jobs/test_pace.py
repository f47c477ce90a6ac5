"""Rates and time left, on simulated batches whose true end is known."""

from __future__ import annotations

import bisect
import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.store import pace
from jobs.store.pace import Pace, Sample, Share


def samples_of(ends: list[float], now: float, *, tokens_a_line: int = 10, every: float = 5.0) -> list[Sample]:
    """What the dispatcher would have noted until `now` of a batch whose lines end at these instants."""
    instants = [now - every * index for index in range(120) if now - every * index > 0]
    counts = [(at, bisect.bisect(ends, at)) for at in [0.0, *reversed(instants)][-120:]]
    return [Sample(at, num, tokens_a_line * num) for at, num in counts]


@dataclass
class Tally:
    """How estimates stood to the truth."""

    num: int = 0
    num_covered: int = 0
    ratios: list[float] | None = None

    def add(self, likely: float, late: float, truth: float) -> None:
        self.num += 1
        self.num_covered += late >= truth
        self.ratios = [*(self.ratios or ()), likely / truth]

    @property
    def covered(self) -> float:
        return self.num_covered / self.num

    @property
    def middle(self) -> float:
        return sorted(self.ratios or [0.0])[self.num // 2]


def ends_of_queue(
    dice: random.Random, num_lines: int, num_slots: int, line: Callable[[random.Random], float]
) -> list[tuple[float, float]]:
    """(begin, end) of lines that run in slots, each begun when one falls free."""
    slots = [0.0] * num_slots
    spans = []
    for _ in range(num_lines):
        begin = heapq.heappop(slots)
        end = begin + line(dice)
        heapq.heappush(slots, end)
        spans.append((begin, end))
    return spans


LINES: dict[str, Callable[[random.Random], float]] = {
    "some longer than others": lambda dice: dice.gammavariate(4, 2.5),
    "many cut at their limit": lambda dice: min(12.0, dice.expovariate(0.08)),
    "of any length": lambda dice: dice.expovariate(0.1),
}


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize(("num_lines", "part_done"), [(5000, 0.1), (5000, 0.5), (400, 0.5), (100, 0.5)])
def test_the_late_answer_is_late_enough_nine_times_of_ten(kind: str, num_lines: int, part_done: float) -> None:
    tally = Tally()
    for number in range(40):
        dice = random.Random(number)
        num_slots = 16 if num_lines > 100 else 4
        spans = ends_of_queue(dice, num_lines, num_slots, LINES[kind])
        ends = sorted(end for _, end in spans)
        now = ends[-1] * part_done * dice.uniform(0.9, 1.1)
        present = pace.pace(samples_of(ends, now))
        assert present is not None
        num_running = sum(begin <= now < end for begin, end in spans)
        likely, late = pace.seconds_left(present, num_lines - bisect.bisect(ends, now), num_running)
        assert likely < late
        tally.add(likely, late, ends[-1] - now)
    assert tally.covered >= 0.85
    assert tally.middle == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize(("alike", "noise", "least"), [(0.0, 0.2, 0.85), (0.0, 0.6, 0.85), (0.5, 0.4, 0.8)])
def test_noise_of_the_machine_widens_the_range(alike: float, noise: float, least: float) -> None:
    """Rates that wander, and stay for a while where they are (`alike`)."""
    tally = Tally()
    for number in range(80):
        dice = random.Random(number)
        state, counts = 0.0, [0.0]
        while counts[-1] < 20_000:
            state = alike * state + math.sqrt(1 - alike**2) * dice.gauss(0, 1)
            counts.append(counts[-1] + 250 * math.exp(noise * state - noise**2 / 2))
        now = len(counts) * 2 // 5
        samples = [Sample(5.0 * index, int(counts[index]), 0) for index in range(max(0, now - 119), now + 1)]
        present = pace.pace(samples)
        assert present is not None
        likely, late = pace.seconds_left(present, 20_000 - samples[-1].num_ended, 16)
        tally.add(likely, late, 5.0 * (len(counts) - 1 - now))
    assert tally.covered >= least
    assert tally.middle == pytest.approx(1.0, abs=0.1)


def steady(rate: float, seconds: float, *, start: float = 0.0, before: int = 0) -> list[Sample]:
    return [
        Sample(start + 5.0 * index, before + int(rate * 5 * index), 10 * (before + int(rate * 5 * index)))
        for index in range(int(seconds / 5) + 1)
    ]


def test_nothing_is_said_before_something_is_known() -> None:
    assert pace.pace([]) is None
    assert pace.pace([Sample(0, 0, 0)]) is None
    assert pace.pace([Sample(0, 0, 0), Sample(5, 0, 0), Sample(10, 1, 10)]) is None
    assert pace.pace([Sample(0, 0, 0), Sample(0, 9, 0)]) is None  # one instant has no rate


def test_a_steady_batch_has_its_rate_and_a_narrow_range() -> None:
    present = pace.pace(steady(4.0, 300))
    assert present is not None
    assert (present.lines_per_second, present.tokens_per_second) == pytest.approx((4.0, 40.0))
    likely, late = pace.seconds_left(present, 4000, 0)
    assert likely == pytest.approx(1000)
    assert 1050 < late < 1200


def test_after_a_pause_only_what_came_after_it_counts() -> None:
    """An hour's pause between two runs at the same pace."""
    first = steady(4.0, 200)
    again = steady(4.0, 30, start=3800.0, before=first[-1].num_ended)
    present = pace.pace([*first, *again])
    assert present is not None
    assert present.lines_per_second == pytest.approx(4.0, rel=0.05)


def test_a_batch_that_stands_still_says_nothing() -> None:
    moving = steady(4.0, 200)
    assert pace.pace([*moving, Sample(260.0, moving[-1].num_ended, moving[-1].num_tokens)]) is None


def test_a_slow_batch_is_not_taken_for_one_that_stands_still() -> None:
    slow = [Sample(60.0 * index, index, 10 * index) for index in range(10)]
    present = pace.pace([*slow, Sample(590.0, 9, 90)])
    assert present is not None
    assert present.lines_per_second == pytest.approx(1 / 60, rel=0.2)


@pytest.mark.parametrize(("before", "after"), [(8.0, 4.0), (4.0, 8.0)])
def test_a_pace_that_changed_is_taken_at_what_it_is_now(before: float, after: float) -> None:
    """Another batch came beside it, or left."""
    first = steady(before, 400)
    then = steady(after, 60, start=405.0, before=first[-1].num_ended + int(after * 5))
    present = pace.pace([*first, *then])
    assert present is not None
    assert present.lines_per_second == pytest.approx(after, rel=0.1)


def test_lines_that_were_queued_again_begin_a_new_count() -> None:
    first = steady(4.0, 200)
    present = pace.pace([*first, *steady(2.0, 60, start=205.0, before=100)])
    assert present is not None
    assert present.lines_per_second == pytest.approx(2.0, rel=0.1)


def test_the_last_lines_take_as_long_as_a_line_does() -> None:
    """Sixteen lines run, one a second ends: a line takes 16 seconds, and so may the last one."""
    present = Pace(1.0, 10.0, 1.0, 600.0, 120)
    likely, late = pace.seconds_left(present, 16, 16)
    assert 16 < likely < late
    assert late > 48
    assert pace.seconds_left(present, 0, 0) == (0.0, 0.0)


def test_a_pace_hardly_known_has_a_wide_range_and_never_none() -> None:
    wild = pace.pace([Sample(0, 0, 0), Sample(5, 20, 0), Sample(10, 21, 0), Sample(15, 60, 0), Sample(20, 61, 0)])
    assert wild is not None
    likely, late = pace.seconds_left(wild, 10_000, 0)
    assert 3 * likely < late <= pace.MAX_SPREAD * likely


def share(num_left: int, rate: float, *, owner: str = "a", weight: float = 1.0, owner_weight: float = 1.0) -> Share:
    return Share(num_left, rate, owner, owner_weight, weight)


def test_a_batch_beside_that_is_done_leaves_its_share() -> None:
    """Both at half the machine's ten lines a second: after 20 seconds the other is done; 900 at ten take 90 more."""
    own, other = share(1000, 5.0), share(100, 5.0)
    assert pace.relief(own, [other]) == pytest.approx((20 + 90) / 200)
    assert pace.relief(own, []) == 1.0


def test_a_batch_that_outlasts_this_one_is_no_relief() -> None:
    assert pace.relief(share(100, 5.0), [share(1_000_000, 5.0)]) == 1.0
    assert pace.relief(share(100, 5.0), [share(100, 0.0)]) == 1.0  # it does not move: nobody knows when it is done


def test_shares_that_are_left_go_by_the_weights() -> None:
    """One owner's batch ends: its other batch takes the owner's part, and not the other owner's batch."""
    own = share(1000, 5.0, owner="b")
    beside = [share(25, 2.5, owner="a"), share(100_000, 2.5, owner="a")]
    assert pace.relief(own, beside) == 1.0
    assert pace.parts({0: own, 1: beside[0], 2: beside[1]}) == pytest.approx({0: 0.5, 1: 0.25, 2: 0.25})
    heavy = share(10, 1.0, owner="b", weight=3.0, owner_weight=3.0)
    assert pace.parts({0: share(10, 1.0), 1: heavy}) == pytest.approx({0: 0.25, 1: 0.75})


SHARES = st.builds(
    share,
    st.integers(0, 10**6),
    st.floats(0, 1000, allow_nan=False),
    owner=st.sampled_from("abc"),
    weight=st.floats(0.1, 10),
)


@given(own=SHARES, others=st.lists(SHARES, max_size=8))
@example(own=share(1, 5e-324, owner="a"), others=[share(0, 0.0, owner="a")])
def test_relief_is_never_a_burden(own: Share, others: list[Share]) -> None:
    assert 0 < pace.relief(own, others) <= 1.0


@given(
    steps=st.lists(st.tuples(st.integers(0, 1000), st.floats(0.001, 1000), st.integers(0, 10**6)), max_size=130),
    num_left=st.integers(0, 10**7),
    num_running=st.integers(0, 10_000),
)
def test_whatever_was_sampled_the_answer_is_a_range(
    steps: list[tuple[int, float, int]], num_left: int, num_running: int
) -> None:
    counts = list(accumulate((num for num, _, _ in steps), initial=0))
    instants = list(accumulate((seconds for _, seconds, _ in steps), initial=0.0))
    samples = [Sample(at, num, num * 7) for at, num in zip(instants, counts, strict=True)]
    present = pace.pace(samples)
    if present is not None:
        likely, late = pace.seconds_left(present, num_left, num_running)
        assert 0 <= likely <= late
        assert math.isfinite(late)
