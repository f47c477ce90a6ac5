"""Who gets the next free place: owners by their weights, then each owner's lanes by theirs. Pure: knows no database.

A lane is a batch, or an owner's lines without one. A place goes to the owner with the least in flight for its weight,
and of its lanes to the one with the least. Whoever has none in flight comes before everybody who has some, so a tie
at nothing is where more lanes than places queue up: it goes to the lane that has waited longest, each second counted
by its weight. A lane that was served starts to wait again, so nobody waits for ever, however many there are.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

LaneKey = tuple[str, str | None]
"""An owner and one of its batches; None stands for its lines without a batch."""

MAX_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane that has lines to dispatch. `served_at`: its last place; before the first one, when it came to be."""

    key: LaneKey
    weight: float
    num_in_flight: int
    served_at: datetime

    @property
    def owner(self) -> str:
        return self.key[0]


class Turns:
    """When owners and lanes were last served, as this process remembers it. Used by one thread.

    A batch's row says so too, but lines without a batch have no such row, nor have owners. Forgotten at a restart:
    then ties fall differently once, and the shares stay what they are.
    """

    def __init__(self) -> None:
        self._served: OrderedDict[LaneKey | str, datetime] = OrderedDict()
        self.loose_from = -1
        """Where the next round goes on among very many owners of lines without a batch."""

    def note(self, lane: LaneKey, now: datetime) -> None:
        for key in (lane, lane[0]):
            self._served[key] = now
            self._served.move_to_end(key)
        while len(self._served) > MAX_REMEMBERED:
            self._served.popitem(last=False)

    def last(self, key: LaneKey | str, otherwise: datetime) -> datetime:
        """When it was last served: what is remembered or `otherwise`, whichever is later."""
        return max(self._served.get(key, otherwise), otherwise)


_Standing = tuple[float, float, str]
"""Load for its weight; how long it has waited, negated; its name, so that the order is total."""


class Shares:
    """Hands out places one at a time. `next_lane` names who gets one; then say `gave` or `is_empty`."""

    def __init__(
        self,
        lanes: Iterable[Lane],
        loads: Mapping[str, int],
        weights: Mapping[str, float],
        turns: Turns,
        now: datetime,
    ) -> None:
        """`loads`: lines in flight by owner, those of lanes that have nothing to dispatch included."""
        self._weights = weights
        self._lanes = {lane.key: lane for lane in lanes}
        self._num_given: dict[LaneKey | str, int] = defaultdict(int)
        self._loads = loads
        self._now = now
        self._waiting_since: dict[LaneKey | str, datetime] = {}
        self._queues: dict[str, list[tuple[_Standing, LaneKey]]] = defaultdict(list)
        for lane in self._lanes.values():
            since = turns.last(lane.key, lane.served_at)
            self._waiting_since[lane.key] = since
            self._waiting_since[lane.owner] = min(since, self._waiting_since.get(lane.owner, since))
            self._queues[lane.owner].append((self._of_lane(lane), lane.key))
        for owner, queue in self._queues.items():
            self._waiting_since[owner] = turns.last(owner, self._waiting_since[owner])
            heapq.heapify(queue)
        self._owners = [self._of_owner(owner) for owner in self._queues]
        heapq.heapify(self._owners)

    def next_lane(self) -> LaneKey | None:
        """The lane that gets the next place; None when no lane has anything left."""
        if not self._owners:
            return None
        return self._queues[self._owners[0][2]][0][1]

    def gave(self, key: LaneKey) -> None:
        """The lane that `next_lane` named took the place."""
        owner = key[0]
        for each in (key, owner):
            self._num_given[each] += 1
            self._waiting_since[each] = self._now
        heapq.heapreplace(self._queues[owner], (self._of_lane(self._lanes[key]), key))
        heapq.heapreplace(self._owners, self._of_owner(owner))

    def is_empty(self, key: LaneKey) -> None:
        """The lane that `next_lane` named had nothing left."""
        heapq.heappop(self._queues[key[0]])
        if not self._queues[key[0]]:
            heapq.heappop(self._owners)

    def _of_lane(self, lane: Lane) -> _Standing:
        load = lane.num_in_flight + self._num_given[lane.key]
        return self._standing(load, lane.weight, self._waiting_since[lane.key], lane.key[1] or "")

    def _of_owner(self, owner: str) -> _Standing:
        load = self._loads.get(owner, 0) + self._num_given[owner]
        return self._standing(load, self._weights.get(owner, 1.0), self._waiting_since[owner], owner)

    def _standing(self, load: int, weight: float, since: datetime, name: str) -> _Standing:
        return load / weight, -weight * max(0.0, (self._now - since).total_seconds()), name
