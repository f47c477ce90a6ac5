"""Who gets the next place: the rule by itself, driven round by round without a database."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.store import fairness
from jobs.store.fairness import Lane, LaneKey, Shares, Turns

START = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class Window:
    """Endless lanes, a window, and lines that end in the order in which they began, a few each round."""

    weights: dict[LaneKey, float]
    owner_weights: dict[str, float]
    size: int
    turns: Turns = field(default_factory=Turns)
    forgets: bool = False
    now: datetime = START
    in_flight: list[LaneKey] = field(default_factory=list)
    served_at: dict[LaneKey, datetime] = field(default_factory=dict)

    def round(self, num_ends: int) -> list[LaneKey]:
        """End the oldest lines, fill their places; who got one."""
        self.now += timedelta(seconds=1)
        del self.in_flight[:num_ends]
        loads = Counter(self.in_flight)
        lanes = [Lane(key, weight, loads[key], self.served_at.get(key, START)) for key, weight in self.weights.items()]
        by_owner = Counter(owner for owner, _ in self.in_flight)
        turns = Turns() if self.forgets else self.turns
        shares = Shares(lanes, by_owner, self.owner_weights, turns, self.now)
        given_to: list[LaneKey] = []
        while len(self.in_flight) < self.size and (key := shares.next_lane()) is not None:
            shares.gave(key)
            turns.note(key, self.now)
            self.served_at[key] = self.now
            self.in_flight.append(key)
            given_to.append(key)
        return given_to


LANES = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from([0.1, 0.5, 1.0, 3.0, 10.0])), min_size=1, max_size=40
)
OWNERS = st.fixed_dictionaries({owner: st.sampled_from([0.5, 1.0, 4.0]) for owner in "abc"})


def made(lanes: list[tuple[str, float]]) -> dict[LaneKey, float]:
    return {(owner, f"batch_{number:03d}"): weight for number, (owner, weight) in enumerate(lanes)}


@settings(max_examples=60)
@given(lanes=LANES, owners=OWNERS, size=st.integers(1, 24), ends=st.integers(1, 24), forgets=st.booleans())
def test_every_lane_is_served_within_a_bounded_number_of_rounds(
    lanes: list[tuple[str, float]], owners: dict[str, float], size: int, ends: int, forgets: bool
) -> None:
    """However many lanes there are for the places, and whatever their weights: with a memory and, as after restarts
    of the dispatcher in every round, without one."""
    window = Window(made(lanes), owners, size, forgets=forgets)
    a_round = min(ends, size)
    owner_turn = sum(owners.values()) / min(owners.values())
    lane_turn = sum(weight for _, weight in lanes) / min(weight for _, weight in lanes)
    bound = math.ceil((owner_turn + 3) * (lane_turn + len(lanes) + size) / a_round) + size
    waited = Counter(dict.fromkeys(window.weights, 0))
    for _ in range(2 * bound):
        served = set(window.round(ends))
        for key in window.weights:
            waited[key] = 0 if key in served or key in window.in_flight else waited[key] + 1
        assert max(waited.values()) <= bound


@settings(max_examples=60)
@given(lanes=LANES.filter(lambda lanes: len(lanes) <= 6), owners=OWNERS)
def test_shares_are_those_of_the_weights_where_places_are_plenty(
    lanes: list[tuple[str, float]], owners: dict[str, float]
) -> None:
    window = Window(made(lanes), owners, 400)
    for _ in range(40):
        window.round(37)
    held = Counter(window.in_flight)
    present = {owner for owner, _ in lanes}
    for key, weight in window.weights.items():
        beside = sum(other for (owner, _), other in window.weights.items() if owner == key[0])
        share = owners[key[0]] / sum(owners[owner] for owner in present) * weight / beside
        assert held[key] == pytest.approx(400 * share, abs=2 * len(lanes))


def test_weights_count_over_time_where_lanes_are_more_than_places() -> None:
    weights = made([("a", 1.0)] * 20 + [("a", 4.0)] * 5)
    window = Window(weights, {}, 4)
    served: Counter[LaneKey] = Counter()
    for _ in range(2000):
        served.update(window.round(2))
    light = sum(served[key] for key, weight in weights.items() if weight == 1.0) / 20
    heavy = sum(served[key] for key, weight in weights.items() if weight == 4.0) / 5
    assert heavy / light == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize("forgets", [False, True])
def test_new_batches_of_one_line_never_push_an_old_batch_back(forgets: bool) -> None:
    """One place, and an owner who keeps bringing short batches: a batch is not preferred for being new."""
    window = Window({("a", "old"): 1.0}, {}, 1, forgets=forgets)
    served: list[LaneKey] = []
    for number in range(40):
        key = ("a", f"new_{number:03d}")
        window.weights[key] = 1.0
        window.served_at[key] = window.now + timedelta(seconds=0.5)  # created now
        for taken in window.round(1):
            served.append(taken)
            if taken[1] != "old":
                del window.weights[taken]
    assert served[0] == ("a", "old")
    assert served.count(("a", "old")) > 3


def test_an_owner_whose_batches_end_with_their_first_line_takes_turns_all_the_same() -> None:
    weights: dict[LaneKey, float] = {("many", f"batch_{number:03d}"): 1.0 for number in range(100)}
    weights["one", "batch_999"] = 1.0
    window = Window(weights, {}, 1)
    served = Counter[str]()
    for _ in range(40):
        for taken in window.round(1):
            served[taken[0]] += 1
            if taken[0] == "many":
                del window.weights[taken]
    assert served == {"many": 20, "one": 20}


def given_places(shares: Shares, num: int, *, empty: Callable[[LaneKey], bool] = lambda key: False) -> list[LaneKey]:
    taken: list[LaneKey] = []
    while len(taken) < num and (key := shares.next_lane()) is not None:
        if empty(key):
            shares.is_empty(key)
        else:
            shares.gave(key)
            taken.append(key)
    return taken


def test_what_an_empty_lane_leaves_goes_to_the_others() -> None:
    lanes = [Lane(("a", "1"), 1.0, 0, START), Lane(("a", "2"), 1.0, 0, START), Lane(("b", "3"), 1.0, 0, START)]
    shares = Shares(lanes, {}, {}, Turns(), START)
    taken = given_places(shares, 4, empty=lambda key: key[1] in {"1", "3"})
    assert taken == [("a", "2")] * 4
    assert given_places(shares, 1, empty=lambda key: True) == []
    assert shares.next_lane() is None


def test_lines_in_flight_of_a_batch_that_has_no_more_count_for_its_owner() -> None:
    lanes = [Lane(("a", "1"), 1.0, 0, START), Lane(("b", "2"), 1.0, 0, START)]
    assert given_places(Shares(lanes, {"a": 3}, {}, Turns(), START), 3) == [("b", "2")] * 3


def test_only_so_many_turns_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "MAX_REMEMBERED", 4)
    turns = Turns()
    for number in range(10):
        turns.note(("a", str(number)), START)
    assert turns.last("a", START - timedelta(seconds=1)) == START
    assert turns.last(("a", "9"), START - timedelta(seconds=1)) == START
    assert turns.last(("a", "0"), START - timedelta(seconds=1)) < START
