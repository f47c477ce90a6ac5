"""The engine's state of one completion: where its cells are, what it has, what comes next."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from worker.engine.generation import (
    Completion,
    FinishReason,
    Generation,
    Request,
    RowClass,
    TextDelta,
    TokenLogprob,
)
from worker.engine.text import TextAssembler


class Sequence:
    """One request that was admitted. `position` counts its KV cells; `pending` is the token to be decoded next.

    A tile sequence's last prompt token is decoded like a completion's, since only decode calls have whole tiles of
    outputs; a lone one's prefill gives its first logits itself. `serial` grows with each admission.
    """

    def __init__(
        self, generation: Generation, slot: int, row_class: RowClass, sampler: Any, *, submitted: float, serial: int
    ) -> None:
        self.generation = generation
        self.request: Request = generation.request
        self.slot = slot
        self.row_class = row_class
        self.sampler = sampler
        self.serial = serial
        self.position = 0
        self.prefix_ids = self.request.prefix_ids
        self.prefill_end = len(self.prefix_ids) - (row_class == "tile")
        self.block = 0
        self.joins = True
        self.isolated = True
        self.keys: tuple[bytes, ...] = ()
        self.num_known_blocks = 0
        self.saved: Any = None
        """The cells of a paused sequence."""
        self.pending: int | None = None
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason | None = None
        self._text = TextAssembler(self.request.stop, drop_leading_space=self.request.prompt.opens_turn)
        self._parts: list[str] = []
        self._fresh: list[str] = []
        self._submitted = submitted
        self._admitted = time.monotonic()
        self._prefilled = self._first_token = 0.0
        self._num_told = 0

    @property
    def prefilling(self) -> bool:
        """Whether some of the prompt that is to be prefilled has no cells yet."""
        return self.position < self.prefill_end

    @property
    def saved_bytes(self) -> int:
        """Memory for the cells of a paused sequence."""
        return 0 if self.saved is None else int(self.saved.nbytes)

    @property
    def begun(self) -> bool:
        """Whether the prompt is whole: it decodes, or has ended."""
        return self._prefilled > 0

    def take(self, token: int, *, is_end: bool, piece: Callable[[int], bytes]) -> None:
        """Take a sampled token: it ends the completion, or adds its text and waits to be decoded."""
        self._first_token = self._first_token or time.monotonic()
        if is_end:
            self.finish_reason = "stop"
            return
        self.token_ids.append(token)
        self._add(self._text.feed(piece(token)))
        if self._text.stopped:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.request.max_tokens:
            self.finish_reason = "length"
        self.pending = token if self.finish_reason is None else None

    def take_over(self, piece: Callable[[int], bytes]) -> None:
        """Begin with the tokens and the text of an earlier run."""
        for token in self.request.taken_over:
            self.token_ids.append(token)
            self._add(self._text.feed(piece(token)))
        if self._text.stopped:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.request.max_tokens:
            self.finish_reason = "length"

    def mark_prefilled(self) -> None:
        """The prompt is whole; a tile sequence decodes its last token now."""
        self._prefilled = time.monotonic()
        if self.row_class == "tile":
            self.pending = self.prefix_ids[-1]

    def flush(self) -> None:
        """No more tokens will come: release the text held back."""
        self._add(self._text.finish())

    def drain_text(self) -> TextDelta | None:
        """New text since the last call."""
        if not self._fresh:
            return None
        text = "".join(self._fresh)
        self._fresh.clear()
        token_ids = tuple(self.token_ids[self._num_told :])
        self._num_told = len(self.token_ids)
        return TextDelta(
            self.request.id, text, self._text.num_characters, token_ids, self.row_class, isolated=self.isolated
        )

    def completion(self, error: str | None = None) -> Completion:
        """The end, as the caller gets it."""
        now = time.monotonic()
        first = self._first_token or now
        return Completion(
            text="".join(self._parts),
            token_ids=tuple(self.token_ids),
            finish_reason=self.finish_reason or "failed",
            num_prompt_tokens=len(self.request.prompt.token_ids),
            row_class=self.row_class,
            timings={
                "queued": self._admitted - self._submitted,
                "prefill": max(self._prefilled - self._admitted, 0.0),
                "first_token": first - self._submitted,
                "decode": now - first,
                "total": now - self._submitted,
            },
            logprobs=tuple(self.logprobs[: len(self.token_ids)]) if self.request.num_logprobs is not None else None,
            error=error,
            isolated=self.isolated,
        )

    def _add(self, text: str) -> None:
        if text:
            self._parts.append(text)
            self._fresh.append(text)
