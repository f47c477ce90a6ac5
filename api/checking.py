"""From a parsed body to jobs that can run: everything is checked here, before anything is stored.

What needs the model is exact: tokens are counted with its own vocabulary. Errors name the field as the caller wrote
it (`jobs[3].temperature`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from api.errors import model_not_found
from api.faults import first_fault, joined
from api.models import ServedModel
from api.wire import JobRequest, ManyJobsRequest
from jobs.errors import InvalidRequest
from jobs.parameters import Parameters, draw_seed
from jobs.records import NewJob
from jobs.states import Priority
from worker.engine.vocabulary import Vocabulary

Body = TypeVar("Body", bound=BaseModel)

_PARAMETERS = set(Parameters.model_fields) - {"seed"}


@dataclass(frozen=True, slots=True)
class Submission:
    """What one call submits. `many`: in the list form, which makes or extends a batch."""

    jobs: Sequence[NewJob]
    many: bool = False
    batch_id: str | None = None
    batch_metadata: Mapping[str, str] = field(default_factory=dict)


def check_submission(body: dict[str, Any], served: Callable[[], ServedModel], *, max_jobs: int) -> Submission:
    """Check the body of `POST /v1/jobs`. `served` is called once the body's form is right.

    Raises InvalidRequest, model_not_found, and what `served` raises.
    """
    if "jobs" not in body:
        request = _validated(JobRequest, body)
        return Submission([new_job(request, served(), Priority.INTERACTIVE)])
    lines = body["jobs"]
    if isinstance(lines, list) and len(lines) > max_jobs:
        raise InvalidRequest(f"jobs: {len(lines)} jobs; the limit is {max_jobs} in one request.", param="jobs")
    many = _validated(ManyJobsRequest, body)
    model = served()
    jobs = [new_job(job, model, Priority.BATCH, under=f"jobs[{index}]") for index, job in enumerate(many.jobs)]
    return Submission(jobs, many=True, batch_id=many.batch_id, batch_metadata=many.metadata)


def new_job(request: JobRequest, model: ServedModel, priority: Priority, *, under: str = "") -> NewJob:
    """Check one job against the model. `under` is its place in the body; `priority` its default."""
    if request.model not in (None, model.name):
        raise model_not_found(model.name)
    _check_input(request, under)
    _check_logit_bias(request, model.vocabulary, under)
    _check_response_format(request, model.vocabulary, under)
    if request.exact and model.exact is False:
        raise _refusal("no row class is exact on the workers' machines", under, "exact", code="exact_unavailable")
    num_prompt_tokens = _checked_prompt_tokens(request, model, under)
    return NewJob(
        model=model.name,
        parameters=request.model_dump(mode="json", include=_PARAMETERS),
        seed=draw_seed() if request.seed is None else request.seed,
        num_prompt_tokens=num_prompt_tokens,
        prompt=request.prompt,
        messages=_plain(request),
        priority=request.priority or priority,
        deadline_seconds=request.deadline_seconds,
        max_attempts=request.max_attempts,
        metadata=dict(request.metadata),
    )


def _validated(kind: type[Body], body: dict[str, Any]) -> Body:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise first_fault(error.errors(include_url=False, include_input=False), body) from None


def _plain(request: JobRequest) -> list[dict[str, str]] | None:
    if request.messages is None:
        return None
    return [{"role": message.role, "content": message.content} for message in request.messages]


def _check_input(request: JobRequest, under: str) -> None:
    """Exactly one of prompt and messages, not empty, and a chat ends with the user."""
    if request.prompt is not None and request.messages is not None:
        raise _refusal("give `prompt` or `messages`, not both", under, "prompt")
    if request.prompt is None and request.messages is None:
        raise _refusal("it is missing; give `prompt` or `messages`", under, "prompt", code="missing_field")
    if request.prompt is not None and not request.prompt:
        raise _refusal("it is empty", under, "prompt", code="empty_prompt")
    if request.messages is not None and not request.messages:
        raise _refusal("it is empty; at least one message is needed", under, "messages", code="empty_prompt")
    if request.messages and request.messages[-1].role != "user":
        last = len(request.messages) - 1
        raise _refusal("the last message must be the user's", under, "messages", last, "role")


def _check_logit_bias(request: JobRequest, vocabulary: Vocabulary, under: str) -> None:
    for token in request.logit_bias:
        if len(token) > 10 or int(token) >= vocabulary.size:
            reason = f"the model has no such token; its ids are 0 to {vocabulary.size - 1}"
            raise _refusal(reason, under, "logit_bias", token)


def _check_response_format(request: JobRequest, vocabulary: Vocabulary, under: str) -> None:
    wanted = request.response_format
    if wanted is None or wanted.type == "text":
        return
    if wanted.schema_body is None:
        raise _refusal("it is missing", under, "response_format", "json_schema", code="missing_field")
    if not _has_grammar(vocabulary, json.dumps(wanted.schema_body)):
        reason = "llama.cpp cannot turn this JSON schema into a grammar"
        raise _refusal(reason, under, "response_format", "json_schema", code="invalid_json_schema")


@lru_cache(maxsize=32)
def _has_grammar(vocabulary: Vocabulary, schema: str) -> bool:
    """Remembered, because the lines of a batch tend to share one schema."""
    try:
        vocabulary.grammar(json.loads(schema))
    except ValueError:
        return False
    return True


def _checked_prompt_tokens(request: JobRequest, model: ServedModel, under: str) -> int:
    """Tokens of the prompt, if they and `max_tokens` fit the context of a slot."""
    name = "prompt" if request.prompt is not None else "messages"
    context = model.context_tokens
    if _fewest_tokens(request, model.vocabulary) >= context:
        reason = f"it is far longer than the context of {context} tokens"
        raise _refusal(reason, under, name, code="context_length_exceeded")
    num_tokens = _count_tokens(request, model.vocabulary, under)
    if num_tokens == 0:
        raise _refusal("it is empty", under, name, code="empty_prompt")
    if num_tokens >= context:
        reason = f"{num_tokens} tokens leave no room for a completion; the context is {context} tokens"
        raise _refusal(reason, under, name, code="context_length_exceeded")
    if num_tokens + request.max_tokens > context:
        reason = (
            f"{num_tokens} prompt tokens and max_tokens {request.max_tokens} are over the context of {context} tokens; "
            f"max_tokens can be {context - num_tokens} at most"
        )
        raise _refusal(reason, under, "max_tokens", code="context_length_exceeded")
    return num_tokens


def _count_tokens(request: JobRequest, vocabulary: Vocabulary, under: str) -> int:
    if request.prompt is not None:
        return len(vocabulary.encode_text(request.prompt).token_ids)
    try:
        return len(vocabulary.encode_chat(_plain(request) or []).token_ids)
    except ValueError as error:
        param, _, reason = str(error).partition(": ")
        raise _refusal(reason.rstrip("."), under, *_parts(param)) from None


def _parts(param: str) -> list[str | int]:
    """`messages[0].role` as a path; the vocabulary names its fields so."""
    words = param.replace("[", ".").replace("]", "").split(".")
    return [int(word) if word.isdigit() else word for word in words]


def _fewest_tokens(request: JobRequest, vocabulary: Vocabulary) -> int:
    """A bound from below, without tokenizing: megabytes of prompt are refused in no time."""
    texts = [request.prompt or "", *(message.content.strip() for message in request.messages or ())]
    return sum(len(text.encode()) for text in texts) // _longest_piece_bytes(vocabulary)


@lru_cache(maxsize=4)
def _longest_piece_bytes(vocabulary: Vocabulary) -> int:
    """Bytes of the longest token; control tokens are not in the pieces, and shorter than 64."""
    return max(64, *(len(vocabulary.piece(token)) for token in range(vocabulary.size)))


def _refusal(reason: str, under: str, *path: str | int, code: str = "invalid_value") -> InvalidRequest:
    name = joined(under, path)
    return InvalidRequest(f"{name}: {reason}.", param=name, code=code)
