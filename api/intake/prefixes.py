"""Lines that begin alike stand together in the order of dispatch, so that the engine can reuse what they share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

LONG_TOKENS = 256
SHORT_TOKENS = 64
MAX_GROUPS = 16_384


def prefix_of(token_ids: Sequence[int]) -> int | None:
    """What stands for a prompt's beginning; None for one that is too short to share anything worth it."""
    length = len(token_ids)
    if length < SHORT_TOKENS:
        return None
    return hash(token_ids[: LONG_TOKENS if length >= LONG_TOKENS else SHORT_TOKENS])


class PrefixGroups:
    """The first line of each group. Of very many groups, the longest unseen are forgotten: order is a courtesy."""

    def __init__(self, max_groups: int = MAX_GROUPS) -> None:
        self._max_groups = max_groups
        self._first: OrderedDict[int, int] = OrderedDict()

    def order(self, prefix: int | None, number: int) -> int:
        """The `dispatch_order` of line `number`: the number of its group's first line, or its own."""
        if prefix is None:
            return number
        first = self._first.get(prefix)
        if first is not None:
            self._first.move_to_end(prefix)
            return first
        self._first[prefix] = number
        if len(self._first) > self._max_groups:
            self._first.popitem(last=False)
        return number
