"""The knobs of a generation: names, defaults and limits. One definition for API, store and worker.

Defaults follow the native API of Penstock. Limits that need the model (context window, vocabulary) are checked
where a vocabulary is at hand.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
)

MAX_SEED = 2**32 - 2
"""Largest seed. 2³²−1 and −1 mean "random" to llama.cpp, and larger values are cut to 32 bits there."""
MAX_STOP_STRINGS = 4
MAX_STOP_CHARACTERS = 256
MAX_LOGPROBS = 20
MAX_METADATA_PAIRS = 16

Number = StrictInt | StrictFloat
Token = Annotated[StrictInt, Field(ge=0)]


class ResponseFormat(BaseModel):
    """Constrains the text: `json_object` any JSON object, `json_schema` what the schema admits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None

    @property
    def schema_body(self) -> dict[str, Any] | None:
        """The JSON schema itself: OpenAI nests it as `{"name": …, "schema": {…}}`."""
        if self.type == "json_object":
            return {"type": "object"}
        if self.type != "json_schema" or self.json_schema is None:
            return None
        nested = self.json_schema.get("schema")
        return nested if isinstance(nested, dict) else self.json_schema


class Parameters(BaseModel):
    """Every knob of one generation. Units: `max_tokens` and `repeat_last_n` in tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: Annotated[Number, Field(ge=0, le=100)] = Field(
        default=1.0, description="0 takes the likeliest token each time; higher is more varied."
    )
    max_tokens: Annotated[StrictInt, Field(ge=1)] = Field(
        default=100,
        description="Completion tokens at most. Prompt and completion together must fit the context of a slot.",
    )
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        default=None, description="Only the likeliest tokens that make up this much probability together. None: off."
    )
    top_k: Annotated[StrictInt, Field(ge=1)] | None = Field(
        default=None, description="Only so many of the likeliest tokens. None: off."
    )
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        default=None, description="Only tokens at least this share as likely as the likeliest. None: off."
    )
    repeat_penalty: Annotated[Number, Field(gt=0, le=100)] = Field(
        default=1.2, description="Makes tokens that stand in the newest `repeat_last_n` less likely; 1 is off."
    )
    repeat_last_n: Annotated[StrictInt, Field(ge=0, le=65536)] = Field(
        default=64, description="Tokens that the penalty looks back on; 0 is off."
    )
    seed: Annotated[StrictInt, Field(ge=0, le=MAX_SEED)] | None = Field(
        default=None, description="0 to 4294967294. None: one is drawn, and stored."
    )
    stop: tuple[StrictStr, ...] = Field(
        default=(), description="Up to 4 texts that end the completion, and are not part of it."
    )
    logit_bias: dict[str, Annotated[Number, Field(ge=-100, le=100)]] = Field(
        default_factory=dict, description="Token ids, as strings, to what is added to their logits."
    )
    logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_LOGPROBS)] | None = Field(
        default=None,
        description="Alternatives stored beside each token, with their log probabilities. None: nothing is stored.",
    )
    response_format: ResponseFormat | None = Field(
        default=None, description="Keeps the text to JSON, or to a JSON schema. None: free text."
    )
    exact: StrictBool | None = Field(
        default=None,
        description="True: decoded in a row class that the worker has proven exact, and made again from the start if "
        "its worker is lost. None: that holds for lines of batches where a class is proven.",
    )
    reuse: StrictBool | None = Field(
        default=None,
        description="True: a stored text of yours that must come out the same may be the answer. Decides no text.",
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else () if value is None else value

    @field_validator("stop")
    @classmethod
    def _stop_limits(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > MAX_STOP_STRINGS:
            raise ValueError(f"at most {MAX_STOP_STRINGS} stop strings")
        if any(not text or len(text) > MAX_STOP_CHARACTERS for text in value):
            raise ValueError(f"a stop string has 1 to {MAX_STOP_CHARACTERS} characters")
        return value

    @field_validator("logit_bias")
    @classmethod
    def _token_keys(cls, value: dict[str, float]) -> dict[str, float]:
        if any(not key.isascii() or not key.isdigit() for key in value):
            raise ValueError('keys are token ids, such as "1234"')
        return value


def draw_seed() -> int:
    """Draw a seed from 0 … 2³²−2, for a job whose caller gave none. It is stored, so the job can be replayed."""
    return secrets.randbelow(MAX_SEED + 1)
