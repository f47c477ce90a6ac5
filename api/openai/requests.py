"""The bodies of OpenAI's chat completions and completions, with OpenAI's names and defaults.

Here stands which fields there are and what form they have. Limits of numbers that a native job has too are those of
`jobs.parameters`; `api.openai.mapping` applies them. `null` means the default, as it does there.

Three sorts of fields are served no further than this: those that change nothing about a text (`IGNORED`), those that
are taken at the one value that means "off" (`_OFF`), and extensions of ours, by their native names. Any other field is
refused by its name: a request that is not understood whole must not run as something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from api.wire import MAX_ATTEMPTS, MAX_DEADLINE_SECONDS, Metadata
from jobs.parameters import Number, ResponseFormat

MAX_CHOICES = 128
COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for `/v1/completions`. A chat has none: it may fill the context."""

IGNORED = frozenset(
    {
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "store",
        "parallel_tool_calls",
    }
)
"""They say who asks, what it costs and what is kept; the text is the same without them."""

_OFF: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
_INSTEAD = {
    "frequency_penalty": "only 0 is taken here; `repeat_penalty` is what there is",
    "presence_penalty": "only 0 is taken here; `repeat_penalty` is what there is",
    "tools": "tools are not served here",
    "tool_choice": "tools are not served here",
    "functions": "functions are not served here",
    "function_call": "functions are not served here",
    "modalities": "only text is served here",
    "best_of": "only 1 is taken here",
    "echo": "only false is taken here",
    "suffix": "only an empty one is taken here",
}
_INERT = IGNORED | set(_OFF)


class _Request(BaseModel):
    """What both kinds of request have."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    model: StrictStr | None = Field(default=None, description="None: the one that is served.")
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: StrictBool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: StrictInt | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    stop: StrictStr | tuple[StrictStr, ...] | None = None
    seed: StrictInt | None = None
    logit_bias: dict[str, Number] | None = None
    metadata: Metadata | None = None

    top_k: StrictInt | None = Field(default=None, description="An extension.")
    min_p: Number | None = Field(default=None, description="An extension.")
    repeat_penalty: Number | None = Field(default=None, description="An extension.")
    repeat_last_n: StrictInt | None = Field(default=None, description="An extension.")
    exact: StrictBool | None = Field(default=None, description="An extension: the text depends on nothing else.")
    reuse: StrictBool | None = Field(
        default=None, description="An extension: a stored text that must come out the same will do."
    )
    max_attempts: Annotated[StrictInt, Field(ge=1, le=MAX_ATTEMPTS)] | None = Field(
        default=None, description="An extension."
    )
    deadline_seconds: Annotated[Number, Field(gt=0, le=MAX_DEADLINE_SECONDS)] | None = Field(
        default=None, description="An extension."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_inert_fields(cls, body: Any) -> Any:
        if not isinstance(body, dict) or _INERT.isdisjoint(body):
            return body
        return {name: value for name, value in body.items() if not is_inert(name, value)}


def is_inert(name: str, value: object) -> bool:
    """Whether a field changes nothing."""
    return name in IGNORED or (name in _OFF and (value is None or value in _OFF[name]))


def refused_field(body: Mapping[str, Any]) -> tuple[str, str] | None:
    """A field of `body` that OpenAI has and that cannot be served at its value, and what to do instead."""
    for name in _OFF:
        if name in body and not is_inert(name, body[name]):
            return name, _INSTEAD[name]
    return None


class TextPart(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["text"]
    text: StrictStr


class ChatMessage(BaseModel):
    """One message of a chat. `developer` is what newer clients call `system`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | tuple[TextPart, ...]
    name: StrictStr | None = Field(default=None, description="Taken, and changes nothing.")

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, message: Any) -> Any:
        """What clients send back of an answer: fields that would hold a tool call or a refusal, and hold none."""
        if not isinstance(message, dict) or len(message) <= 2:
            return message
        return {name: value for name, value in message.items() if name not in _OF_ANSWERS or value not in (None, [])}

    @property
    def text(self) -> str:
        """The content as one text; parts stand on lines of their own."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


_OF_ANSWERS = frozenset({"refusal", "tool_calls", "function_call", "audio", "annotations"})


class ChatRequest(_Request):
    """`POST /v1/chat/completions`."""

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)]
    max_completion_tokens: StrictInt | None = Field(
        default=None, description="None: as many as the context leaves room for. `max_tokens` is its older name."
    )
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = None
    response_format: ResponseFormat | None = None


class CompletionRequest(_Request):
    """`POST /v1/completions`. A text only: a prompt of token ids is refused."""

    prompt: StrictStr | tuple[StrictStr, ...]
    max_tokens: StrictInt | None = Field(default=None, description=f"None: {COMPLETION_MAX_TOKENS}.")
    logprobs: StrictInt | None = None
    response_format: ResponseFormat | None = Field(default=None, description="An extension.")
