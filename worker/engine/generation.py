"""What goes into the engine and what comes out: `Request` in, a live `Generation`, a `Completion` at its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

FinishReason = Literal["stop", "length", "cancelled", "expired", "interrupted", "failed"]
"""`stop`: end token or stop string. `length`: `max_tokens`. `cancelled`, `expired`, `interrupted`: cut short, with
the text it had. `failed`: the engine could not go on; `Completion.error` says why."""

RowClass = Literal["lone", "tile"]
"""How a sequence's tokens are decoded: in calls of its own (`lone`), or in calls padded to a whole tile of rows
(`tile`). Part of the recipe: the bits of the logits depend on it, and on nothing else that runs."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy; None means off; `grammar` is GBNF with the root `root`."""

    seed: int
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    grammar: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenized prompt. `opens_turn`: it ends in a control token (a chat prompt does), so that the tokenizer's
    own leading space is not part of the completion."""

    token_ids: tuple[int, ...]
    opens_turn: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to make. `id` is opaque to the engine; `deadline` is on `time.monotonic()`."""

    id: str
    prompt: Prompt
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...] = ()
    num_logprobs: int | None = None
    deadline: float | None = None
    row_class: RowClass | None = None
    """None: the engine chooses at admission; what it chose is in the completion."""
    interactive: bool = True
    """Admitted before the others, may use the slots in reserve, and pauses another where no slot is free."""
    taken_over: tuple[int, ...] = ()
    """Tokens of the completion that an earlier run of it has told: they are prefilled, and it goes on behind them. Its
    text and its tokens begin with theirs. Not exact: prefilled cells have other bits than decoded ones."""
    exact: bool = True
    """Whether its bits must depend on itself alone. Where the machine has not proven that for prompts prefilled
    together, an exact one is prefilled by itself; others are not."""
    realm: str = ""
    """Beginnings of prompts are shared with the same one only: how soon a prompt is prefilled tells whether another had
    its beginning."""

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What has cells before the first new token: the prompt, and what was taken over."""
        return self.prompt.token_ids + self.taken_over


class TextDelta(NamedTuple):
    """New text of one generation. `end` is the length of all its text so far, in code points, this included;
    `token_ids` are the tokens since the last delta, whose text may be held back in part."""

    request_id: str
    text: str
    end: int
    token_ids: tuple[int, ...] = ()
    row_class: RowClass = "lone"
    isolated: bool = True
    """As `Completion.isolated`."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural log of the probability the model gave a token, before penalties and temperature."""

    token_id: int
    piece: bytes
    logprob: float
    top: tuple[tuple[int, bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of a generation. `text` is what was emitted; `token_ids` every token decoded, the end token excluded.

    Timings are in seconds: `queued` (submit to admission), `prefill`, `first_token` (submit to first token),
    `decode` (first token to end), `total`.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    row_class: RowClass
    timings: Mapping[str, float]
    logprobs: Sequence[TokenLogprob] | None = None
    error: str | None = None
    isolated: bool = True
    """False where its prompt was prefilled beside others on a machine on which that is not proven to change no bit."""


class Generation:
    """The live handle of one request. Any thread may cancel it or wait for it; only the engine ends it."""

    def __init__(self, request: Request, on_cut: Callable[[], None] = lambda: None) -> None:
        """`on_cut` is called whenever somebody cancels or interrupts it, on their thread."""
        self.request = request
        self._ended = threading.Event()
        self._completion: Completion | None = None
        self._cut: Literal["cancelled", "interrupted"] | None = None
        self._on_cut = on_cut

    def cancel(self) -> None:
        """Ask for an early end; it comes within one step, with the text so far and the reason `cancelled`."""
        self._cut = self._cut or "cancelled"
        self._on_cut()

    def interrupt(self) -> None:
        """As `cancel`, with the reason `interrupted`: the job goes back to the queue."""
        self._cut = self._cut or "interrupted"
        self._on_cut()

    @property
    def cut(self) -> Literal["cancelled", "interrupted"] | None:
        """Why somebody asked for an early end, or None."""
        return self._cut

    def wait(self, timeout_seconds: float | None = None) -> Completion | None:
        """Block until the end; None if it has not come by the timeout."""
        return self._completion if self._ended.wait(timeout_seconds) else None

    def end(self, completion: Completion) -> None:
        """The engine's: hand over the end. A second call is an error."""
        if self._ended.is_set():
            raise RuntimeError("a generation ends once")
        self._completion = completion
        self._ended.set()


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A look at the engine. `tokens_per_second` counts completion tokens over the last seconds."""

    slots: int
    busy_slots: int
    waiting: int
    tokens_per_second: float
    num_completion_tokens: int
    num_generations: int
    details: Mapping[str, Any] = field(default_factory=dict)
