"""Whether a job fits the served model: its name, its vocabulary, the context of a slot. Every way in ends here.

A draft says how the caller named things, so that an error names the field as the caller wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from api.errors import model_not_found
from api.faults import joined
from api.models import ServedModel
from jobs.errors import InvalidRequest
from jobs.parameters import Parameters, draw_seed
from jobs.records import NewJob
from jobs.states import Priority
from worker.engine.vocabulary import Vocabulary

MAX_CHARACTER_BYTES = 4
MAX_REMEMBERED_CHARACTERS = 64 * 1024
"""A longer schema is judged anew each time: what is remembered must stay small."""
KNOBS = set(Parameters.model_fields) - {"seed"}


@dataclass(frozen=True, slots=True)
class Draft:
    """A request whose form is right. Exactly one of `prompt` and `messages` is set, and is not empty."""

    parameters: Parameters
    prompt: str | None = None
    messages: Sequence[Mapping[str, str]] | None = None
    model: str | None = None
    seed: int | None = None
    """None: that of `parameters`."""
    knobs: Mapping[str, Any] | None = None
    """`parameters` as they are stored, where somebody knows them already."""
    fills_context: bool = False
    """`max_tokens` is whatever room the prompt leaves."""
    deadline_seconds: float | None = None
    max_attempts: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    under: str = ""
    """Its place in the body (`jobs[3]`)."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What the caller calls a field that has another name here."""

    def refusal(self, reason: str, first: str, *path: str | int, code: str = "invalid_value") -> InvalidRequest:
        """The error of the field `first` (by its name here)."""
        name = joined(self.under, (self.names.get(first, first), *path))
        return InvalidRequest(f"{name}: {reason}.", param=name, code=code)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A job that can run. `seed` None: one is to be drawn. `token_ids`: of the prompt."""

    draft: Draft
    model: str
    parameters: Mapping[str, Any]
    token_ids: Sequence[int]

    @property
    def seed(self) -> int | None:
        return self.draft.parameters.seed if self.draft.seed is None else self.draft.seed

    def new_job(self, priority: Priority, *, custom_id: str | None = None) -> NewJob:
        """The job as it is stored."""
        draft = self.draft
        return NewJob(
            model=self.model,
            parameters=self.parameters,
            seed=draw_seed() if self.seed is None else self.seed,
            num_prompt_tokens=len(self.token_ids),
            prompt=draft.prompt,
            messages=draft.messages,
            priority=priority,
            deadline_seconds=draft.deadline_seconds,
            max_attempts=draft.max_attempts,
            metadata=dict(draft.metadata),
            custom_id=custom_id,
        )


def fit(draft: Draft, model: ServedModel) -> Fitted:
    """Check a draft against the model. Raises InvalidRequest, model_not_found."""
    if draft.model not in (None, model.name):
        raise model_not_found(model.name, joined(draft.under, ("model",)))
    wanted = draft.parameters
    if wanted.logit_bias:
        _check_logit_bias(draft, model.vocabulary)
    if wanted.response_format is not None:
        _check_response_format(draft, model.vocabulary)
    if wanted.exact and model.exact is False:
        raise draft.refusal("no row class is exact on the workers' machines", "exact", code="exact_unavailable")
    token_ids = _checked_tokens(draft, model)
    parameters = wanted.model_dump(mode="json", include=KNOBS) if draft.knobs is None else draft.knobs
    if draft.fills_context:
        parameters = {**parameters, "max_tokens": model.context_tokens - len(token_ids)}
    return Fitted(draft, model.name, parameters, token_ids)


def _check_logit_bias(draft: Draft, vocabulary: Vocabulary) -> None:
    for token in draft.parameters.logit_bias:
        if len(token) > 10 or int(token) >= vocabulary.size:
            reason = f"the model has no such token; its ids are 0 to {vocabulary.size - 1}"
            raise draft.refusal(reason, "logit_bias", token)


def _check_response_format(draft: Draft, vocabulary: Vocabulary) -> None:
    wanted = draft.parameters.response_format
    if wanted is None or wanted.type == "text":
        return
    if wanted.schema_body is None:
        raise draft.refusal("it is missing", "response_format", "json_schema", code="missing_field")
    schema = json.dumps(wanted.schema_body)
    judge = _why_no_grammar if len(schema) <= MAX_REMEMBERED_CHARACTERS else _why_no_grammar.__wrapped__
    reason = judge(vocabulary, schema)
    if reason is not None:
        raise draft.refusal(reason, "response_format", "json_schema", code="invalid_json_schema")


@lru_cache(maxsize=32)
def _why_no_grammar(vocabulary: Vocabulary, schema: str) -> str | None:
    """What is wrong with a schema; None: nothing. Remembered, because the lines of a batch tend to share one."""
    try:
        vocabulary.grammar(json.loads(schema))
    except ValueError as error:  # its text repeats nothing of the schema
        return str(error)
    return None


def _checked_tokens(draft: Draft, model: ServedModel) -> Sequence[int]:
    """Tokens of the prompt, if they and `max_tokens` fit the context of a slot."""
    name = "prompt" if draft.prompt is not None else "messages"
    context = model.context_tokens
    if _is_far_too_long(draft, model.vocabulary, context):
        reason = f"it is far longer than the context of {context} tokens"
        raise draft.refusal(reason, name, code="context_length_exceeded")
    token_ids = _tokens(draft, model.vocabulary)
    num_tokens, max_tokens = len(token_ids), draft.parameters.max_tokens
    if num_tokens == 0:
        raise draft.refusal("it is empty", name, code="empty_prompt")
    if num_tokens >= context:
        reason = f"{num_tokens} tokens leave no room for a completion; the context is {context} tokens"
        raise draft.refusal(reason, name, code="context_length_exceeded")
    if not draft.fills_context and num_tokens + max_tokens > context:
        field_name = draft.names.get("max_tokens", "max_tokens")
        reason = (
            f"{num_tokens} prompt tokens and {field_name} {max_tokens} are over the context of {context} tokens; "
            f"{field_name} can be {context - num_tokens} at most"
        )
        raise draft.refusal(reason, "max_tokens", code="context_length_exceeded")
    return token_ids


def _tokens(draft: Draft, vocabulary: Vocabulary) -> Sequence[int]:
    if draft.prompt is not None:
        return vocabulary.encode_text(draft.prompt).token_ids
    try:
        return vocabulary.encode_chat(draft.messages or ()).token_ids
    except ValueError as error:
        param, _, reason = str(error).partition(": ")
        first, *path = _parts(param)
        raise draft.refusal(reason.rstrip("."), str(first), *path) from None


def _parts(param: str) -> list[str | int]:
    """`messages[0].role` as a path; the vocabulary names its fields so."""
    words = param.replace("[", ".").replace("]", "").split(".")
    return [int(word) if word.isdigit() else word for word in words]


def _is_far_too_long(draft: Draft, vocabulary: Vocabulary, context: int) -> bool:
    """By a bound from below, without tokenizing: megabytes of prompt are refused in no time."""
    longest = _longest_piece_bytes(vocabulary)
    texts = [draft.prompt] if draft.prompt is not None else [message["content"] for message in draft.messages or ()]
    if sum(map(len, texts)) * MAX_CHARACTER_BYTES < longest * context:
        return False
    return sum(len(text.strip().encode()) for text in texts) // longest >= context


@lru_cache(maxsize=4)
def _longest_piece_bytes(vocabulary: Vocabulary) -> int:
    """Bytes of the longest token; control tokens are not in the pieces, and shorter than 64."""
    return max(64, *(len(vocabulary.piece(token)) for token in range(vocabulary.size)))
