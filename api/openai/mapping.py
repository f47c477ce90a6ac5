"""From OpenAI's requests to drafts of jobs: one mapping for the lines of batches and for live requests.

Errors name fields as OpenAI does. Where the two differ in a default, OpenAI's holds here: no repeat penalty, `top_p` 1,
and a chat without `max_tokens` may fill the context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from api.checking import validated
from api.faults import first_fault, joined
from api.fitting import Draft
from api.openai.requests import (
    COMPLETION_MAX_TOKENS,
    MAX_CHOICES,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    refused_field,
)
from jobs.errors import InvalidRequest
from jobs.parameters import Parameters

CHAT_URL = "/v1/chat/completions"
COMPLETIONS_URL = "/v1/completions"

NO_PENALTY = 1.0
_ROLES = {"developer": "system"}
_TOOL_ROLES = ("tool", "function")
_SHARED = (
    "temperature",
    "top_p",
    "seed",
    "stop",
    "logit_bias",
    "top_k",
    "min_p",
    "repeat_penalty",
    "repeat_last_n",
    "exact",
    "reuse",
)
"""Fields that a native job has under the same name."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of OpenAI's, read: the job it asks for (`num_choices` times), and how to answer."""

    draft: Draft
    num_choices: int
    stream: bool
    include_usage: bool = False
    """A stream ends with a chunk of usage."""
    more: tuple[Draft, ...] = ()
    """One for each prompt after the first; their choices come after its own."""

    @property
    def drafts(self) -> tuple[Draft, ...]:
        return (self.draft, *self.more)


def read_chat(body: Mapping[str, Any], under: str = "") -> Asked:
    """The body of `/v1/chat/completions`, which lies at `under`. Raises InvalidRequest."""
    _refuse_unserved(body, under)
    _refuse_unserved_messages(body.get("messages"), under)
    request = validated(ChatRequest, dict(body), under=under)
    _check_last(request.messages, under)
    named = "max_completion_tokens" if request.max_completion_tokens is not None else "max_tokens"
    max_tokens = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    names = {"max_tokens": named, "logprobs": "top_logprobs"}
    draft = Draft(
        parameters=_parameters(request, max_tokens, _num_logprobs(request, under), names, under),
        messages=[{"role": _ROLES.get(m.role, m.role), "content": m.text} for m in request.messages],
        model=request.model,
        fills_context=max_tokens is None,
        deadline_seconds=request.deadline_seconds,
        max_attempts=request.max_attempts,
        metadata=request.metadata or {},
        under=under,
        names=names,
    )
    return Asked(draft, request.n or 1, bool(request.stream), _include_usage(request))


def read_completion(body: Mapping[str, Any], under: str = "") -> Asked:
    """The body of `/v1/completions`, which lies at `under`. Raises InvalidRequest."""
    _refuse_unserved(body, under)
    _refuse_token_ids(body.get("prompt"), under)
    request = validated(CompletionRequest, dict(body), under=under)
    max_tokens = COMPLETION_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    parameters = _parameters(request, max_tokens, request.logprobs, {}, under)
    first, *more = [
        Draft(
            parameters=parameters,
            prompt=prompt,
            model=request.model,
            deadline_seconds=request.deadline_seconds,
            max_attempts=request.max_attempts,
            metadata=request.metadata or {},
            under=under,
        )
        for prompt in _prompts(request, under)
    ]
    return Asked(first, request.n or 1, bool(request.stream), _include_usage(request), tuple(more))


def _include_usage(request: ChatRequest | CompletionRequest) -> bool:
    return bool((request.stream_options or {}).get("include_usage"))


READERS: Mapping[str, Callable[[Mapping[str, Any], str], Asked]] = {
    CHAT_URL: read_chat,
    COMPLETIONS_URL: read_completion,
}


def _parameters(
    request: ChatRequest | CompletionRequest,
    max_tokens: int | None,
    logprobs: int | None,
    names: Mapping[str, str],
    under: str,
) -> Parameters:
    """The knobs, within the limits of a native job."""
    wanted: dict[str, Any] = {"repeat_penalty": NO_PENALTY, "logprobs": logprobs}
    for name in _SHARED:
        value = getattr(request, name)
        if value is not None:
            wanted[name] = value
    if max_tokens is not None:
        wanted["max_tokens"] = max_tokens
    if request.response_format is not None:
        wanted["response_format"] = request.response_format
    return read_parameters(wanted, names, under)


def read_parameters(wanted: dict[str, Any], names: Mapping[str, str], under: str = "") -> Parameters:
    """The knobs, within the limits of a native job. `names`: what the caller calls a knob. Raises InvalidRequest."""
    try:
        return Parameters.model_validate(wanted)
    except ValidationError as error:
        fault = first_fault(error.errors(include_url=False, include_input=False), wanted)
        first, _, rest = (fault.param or "").partition(".")
        raise fault.named(joined(under, (names.get(first, first) + (f".{rest}" if rest else ""),))) from None


def _num_logprobs(request: ChatRequest, under: str) -> int | None:
    if request.top_logprobs is not None and not request.logprobs:
        raise _refusal("it needs `logprobs` to be true", under, "top_logprobs")
    return (request.top_logprobs or 0) if request.logprobs else None


def _prompts(request: CompletionRequest, under: str) -> tuple[str, ...]:
    prompts = (request.prompt,) if isinstance(request.prompt, str) else request.prompt
    if not prompts or not all(prompts):
        raise _refusal("it is empty", under, "prompt", code="empty_prompt")
    if len(prompts) * (request.n or 1) > MAX_CHOICES:
        reason = f"{len(prompts)} prompts with {request.n or 1} choices each; {MAX_CHOICES} choices is the limit"
        raise _refusal(reason, under, "prompt")
    return prompts


def _check_last(messages: tuple[ChatMessage, ...], under: str) -> None:
    if messages[-1].role == "assistant":
        reason = "the last message must not be the assistant's: its turn comes after it"
        raise _refusal(reason, under, "messages", len(messages) - 1, "role")


def _refuse_unserved(body: Mapping[str, Any], under: str) -> None:
    found = refused_field(body)
    if found is not None:
        raise _refusal(found[1], under, found[0], code="unsupported_value")


def _refuse_unserved_messages(messages: object, under: str) -> None:
    """Name what is not served, before a model that knows only text calls it a wrong type."""
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict):
            continue
        if message.get("role") in _TOOL_ROLES:
            raise _refusal("tools are not served here", under, "messages", index, "role", code="unsupported_value")
        if message.get("tool_calls") or message.get("function_call"):
            name = "tool_calls" if message.get("tool_calls") else "function_call"
            raise _refusal("tools are not served here", under, "messages", index, name, code="unsupported_value")
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] != "text":
                path = ("messages", index, "content", place, "type")
                reason = "only parts of the type 'text' are served here: no images, audio or files"
                raise _refusal(reason, under, *path, code="unsupported_value")


def _refuse_token_ids(prompt: object, under: str) -> None:
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int | list):
        raise _refusal("send text; a prompt of token ids is not served here", under, "prompt", code="unsupported_value")


def _refusal(reason: str, under: str, *path: str | int, code: str = "invalid_value") -> InvalidRequest:
    name = joined(under, path)
    return InvalidRequest(f"{name}: {reason}.", param=name, code=code)
