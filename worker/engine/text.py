"""From token bytes to text that may be shown: whole characters only, and nothing of a stop string.

Knows bytes and strings; no tokens, no model.
"""

from __future__ import annotations

import codecs


class TextAssembler:
    """Text of one completion as it grows.

    Bytes of a character that is not whole yet are held back, and so is any tail that may still become a stop
    string. What `feed` and `finish` returned, joined, is the completion.
    """

    def __init__(self, stop: tuple[str, ...] = (), *, drop_leading_space: bool = False) -> None:
        self._stop = stop
        self._drop_leading_space = drop_leading_space
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.num_characters = 0
        self.stopped = False
        """Whether a stop string has come; nothing is released after it."""

    def feed(self, piece: bytes) -> str:
        """Take the bytes of one token; return the text that is now certain."""
        return self._release(self._decode(piece), final=False)

    def finish(self) -> str:
        """No more bytes will come: return what was held back (a cut character as U+FFFD)."""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _decode(self, piece: bytes) -> str:
        text = self._decoder.decode(piece)
        if self._drop_leading_space and text:
            self._drop_leading_space = False
            return text.removeprefix(" ")
        return text

    def _release(self, text: str, *, final: bool) -> str:
        if not self._stop:  # as with most: nothing is ever held
            self.num_characters += len(text)
            return text
        if self.stopped:
            return ""
        held = self._held + text
        cut = min((at for stop in self._stop if (at := held.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            ready, self._held = held[:cut], ""
        else:
            keep = 0 if final else self._num_to_hold(held)
            ready, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.num_characters += len(ready)
        return ready

    def _num_to_hold(self, text: str) -> int:
        """Length of the longest tail of `text` that is the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            tail = text[-length:]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0
