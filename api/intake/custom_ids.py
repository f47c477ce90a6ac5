"""Which line brought a `custom_id` first: 12 bytes an id and as many again in reserve, for files of any length."""

from __future__ import annotations

from array import array

_WORD = 2**64 - 1
_START_SLOTS = 2**12
_FULL = 0.75


class SeenIds:
    """A hash table without its keys: 64 bits of an id's hash stand for the id.

    Two ids of a million have the same 64 bits once in 40 million files; the later line would be refused. Python's hash
    is keyed by the process, so nobody can aim for it.
    """

    def __init__(self) -> None:
        self._make(_START_SLOTS)
        self._num_ids = 0

    def first_line(self, custom_id: str, number: int) -> int | None:
        """The line that had this id before; None if line `number` is the first."""
        word = hash(custom_id) & _WORD or 1  # 0 is a free slot.
        slot = self._slot(word)
        if self._words[slot]:
            return self._numbers[slot]
        self._words[slot], self._numbers[slot] = word, number
        self._num_ids += 1
        if self._num_ids > len(self._words) * _FULL:
            self._grow()
        return None

    def _slot(self, word: int) -> int:
        """Where `word` is, or would go: its own slot, or the next that is free."""
        words, mask = self._words, self._mask
        slot = word & mask
        while words[slot] not in (0, word):
            slot = (slot + 1) & mask
        return slot

    def _make(self, num_slots: int) -> None:
        self._words = array("Q", (0,)) * num_slots
        self._numbers = array("I", (0,)) * num_slots
        self._mask = num_slots - 1

    def _grow(self) -> None:
        words, numbers = self._words, self._numbers
        self._make(2 * len(words))
        for word, number in zip(words, numbers, strict=True):
            if word:
                slot = self._slot(word)
                self._words[slot], self._numbers[slot] = word, number
