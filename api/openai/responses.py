"""OpenAI's responses: their requests as drafts of jobs, and jobs as their objects and events. Pure.

A response is a job: `resp_…` and `job_…` have the same digits. The number of an event follows from the text, not from
how it was cut into pieces, so that a stream may be resumed anywhere, on any connection: the events before the text
have the numbers 0 to 3, a delta has `LAST_OPENING` and the length of all text with it, those behind it follow. What a
later attempt told has numbers from a range of its own (`NUMBERS`): a number says whose text its reader has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from api.checking import validated
from api.faults import joined
from api.fitting import Draft
from api.openai.mapping import NO_PENALTY, read_parameters
from api.wire import MAX_ATTEMPTS, MAX_DEADLINE_SECONDS, Metadata
from jobs.errors import InvalidRequest
from jobs.lines import chat_body
from jobs.parameters import Number
from jobs.states import ENDED, FinishReason, JobState
from jobs.tables import Generation, Job

Document = dict[str, Any]

URL = "/v1/responses"
LAST_OPENING = 3
NUMBERS = 10_000_000
"""Numbers for the events of each attempt: more than any text has code points."""
_ROLES = {"developer": "system"}
_SERVED = "only input of text is served here: no images, audio, files or calls of tools"


class InputText(BaseModel):
    """A part of a message: what was asked, or what was answered before."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    type: Literal["input_text", "output_text", "text"]
    text: StrictStr


class InputMessage(BaseModel):
    """An item of the input. An item of an earlier output may be sent back as it came."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | tuple[InputText, ...]
    id: StrictStr | None = None
    status: StrictStr | None = None
    phase: StrictStr | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class TextOptions(BaseModel):
    """`format`: `{"type": "text" | "json_object" | "json_schema", "schema": …}`."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    format: dict[str, Any] | None = None


class ResponseRequest(BaseModel):
    """`POST /v1/responses`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    input: StrictStr | Annotated[tuple[InputMessage, ...], Field(min_length=1)]
    instructions: StrictStr | None = None
    previous_response_id: StrictStr | None = None
    model: StrictStr | None = Field(default=None, description="None: the one that is served.")
    background: StrictBool | None = None
    stream: StrictBool | None = None
    store: StrictBool | None = Field(default=None, description="False: a caller that leaves cancels it.")
    max_output_tokens: StrictInt | None = Field(default=None, description="None: what the context leaves room for.")
    temperature: Number | None = None
    top_p: Number | None = None
    top_logprobs: StrictInt | None = None
    include: tuple[StrictStr, ...] | None = Field(default=None, description="`message.output_text.logprobs`.")
    text: TextOptions | None = None
    metadata: Metadata | None = None
    stream_options: dict[str, Any] | None = None

    seed: StrictInt | None = Field(default=None, description="An extension.")
    stop: StrictStr | tuple[StrictStr, ...] | None = Field(default=None, description="An extension.")
    logit_bias: dict[str, Number] | None = Field(default=None, description="An extension.")
    top_k: StrictInt | None = Field(default=None, description="An extension.")
    min_p: Number | None = Field(default=None, description="An extension.")
    repeat_penalty: Number | None = Field(default=None, description="An extension.")
    repeat_last_n: StrictInt | None = Field(default=None, description="An extension.")
    exact: StrictBool | None = Field(default=None, description="An extension.")
    reuse: StrictBool | None = Field(default=None, description="An extension.")
    max_attempts: Annotated[StrictInt, Field(ge=1, le=MAX_ATTEMPTS)] | None = Field(
        default=None, description="An extension."
    )
    deadline_seconds: Annotated[Number, Field(gt=0, le=MAX_DEADLINE_SECONDS)] | None = Field(
        default=None, description="An extension."
    )


LOGPROBS = "message.output_text.logprobs"
_IGNORED = frozenset(
    {"user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier", "parallel_tool_calls"}
)
_OFF: Mapping[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "truncation": ("disabled",),
    "reasoning": ({},),
    "max_tool_calls": (),
    "prompt": (),
    "conversation": (),
}
"""Fields of OpenAI's that are taken at these values and at null only."""


@dataclass(frozen=True, slots=True)
class AskedResponse:
    """A request, read. `origin` is what the job has to remember for its object."""

    draft: Draft
    stream: bool
    background: bool
    keep: bool
    previous: str | None
    origin: Document


def read_response(body: Mapping[str, Any]) -> AskedResponse:
    """The body of `POST /v1/responses`. The messages of `previous` are still to be put before its own (`after`).

    Raises InvalidRequest.
    """
    _refuse_unserved(body)
    _refuse_other_items(body.get("input"))
    request = validated(ResponseRequest, {name: body[name] for name in body if name not in _IGNORED | set(_OFF)})
    names = {"max_tokens": "max_output_tokens", "logprobs": "top_logprobs", "response_format": "text.format"}
    messages = _messages(request)
    draft = Draft(
        parameters=read_parameters(_wanted(request), names),
        messages=messages,
        model=request.model,
        fills_context=request.max_output_tokens is None,
        deadline_seconds=request.deadline_seconds,
        max_attempts=request.max_attempts,
        metadata=request.metadata or {},
        names={**names, "messages": "input"},
    )
    background = bool(request.background)
    if background and request.store is False:
        raise InvalidRequest("store: a background response is always stored.", param="store")
    origin = {
        "url": URL,
        "background": background,
        "instructions": request.instructions,
        "previous_response_id": request.previous_response_id,
    }
    keep = request.store is not False
    return AskedResponse(draft, bool(request.stream), background, keep, request.previous_response_id, origin)


def after(asked: AskedResponse, job: Job, completion: str) -> list[Document]:
    """The messages of a request that goes on from an earlier response. Its instructions are not carried over."""
    before = list(job.messages or [])
    if (job.origin or {}).get("instructions") is not None and before:
        before = before[1:]
    own = list(asked.draft.messages or [])
    first = [own.pop(0)] if asked.origin["instructions"] is not None else []
    return [*map(dict, first), *before, {"role": "assistant", "content": completion}, *map(dict, own)]


def _messages(request: ResponseRequest) -> list[Document]:
    items = (
        [{"role": "user", "content": request.input}]
        if isinstance(request.input, str)
        else [{"role": _ROLES.get(item.role, item.role), "content": item.text} for item in request.input]
    )
    if items[-1]["role"] == "assistant":
        name = joined("", ("input", len(items) - 1, "role"))
        raise InvalidRequest(f"{name}: the last item must not be the assistant's.", param=name)
    if any(not item["content"] for item in items):
        raise InvalidRequest("input: it is empty.", param="input", code="empty_prompt")
    told = [] if request.instructions is None else [{"role": "system", "content": request.instructions}]
    return told + items


def _wanted(request: ResponseRequest) -> Document:
    names = ("temperature", "top_p", "seed", "stop", "logit_bias", "top_k", "min_p", "repeat_penalty", "repeat_last_n")
    wanted: Document = {"repeat_penalty": NO_PENALTY}
    for name in (*names, "exact", "reuse"):
        value = getattr(request, name)
        if value is not None:
            wanted[name] = value
    if request.max_output_tokens is not None:
        wanted["max_tokens"] = request.max_output_tokens
    if request.top_logprobs is not None or LOGPROBS in (request.include or ()):
        wanted["logprobs"] = request.top_logprobs or 0
    if request.text is not None and request.text.format is not None:
        wanted["response_format"] = _format(request.text.format)
    return wanted


def _format(given: Mapping[str, Any]) -> Document:
    """Here the schema stands beside its name; in a chat it is nested."""
    if given.get("type") != "json_schema":
        return dict(given)
    return {"type": "json_schema", "json_schema": {name: given[name] for name in given if name != "type"}}


def _refuse_unserved(body: Mapping[str, Any]) -> None:
    for name, taken in _OFF.items():
        if body.get(name) is not None and body[name] not in taken:
            raise InvalidRequest(f"{name}: it is not served here.", param=name, code="unsupported_value")


def _refuse_other_items(items: object) -> None:
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if not isinstance(item, dict):
            continue
        if item.get("type", "message") != "message":
            name = joined("", ("input", index, "type"))
            raise InvalidRequest(f"{name}: {_SERVED}.", param=name, code="unsupported_value")
        content = item.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and part.get("type") not in ("input_text", "output_text", "text"):
                name = joined("", ("input", index, "content", place, "type"))
                raise InvalidRequest(f"{name}: {_SERVED}.", param=name, code="unsupported_value")


# -- objects


def response_id(job_id: str) -> str:
    return "resp_" + job_id.removeprefix("job_")


def job_id_of(id: str) -> str:  # noqa: A002
    return "job_" + id.removeprefix("resp_")


def response_object(job: Job, generation: Generation | None) -> Document:
    """OpenAI's `response`. A job that came in on another wire is shown as far as it can be."""
    origin, parameters = job.origin or {}, job.parameters
    output = [] if generation is None else [message_item(job, generation.completion, generation)]
    return {
        "id": response_id(job.id),
        "object": "response",
        "created_at": int(job.created_at.timestamp()),
        "completed_at": int(job.ended_at.timestamp()) if job.ended_at and job.state == JobState.SUCCEEDED else None,
        "status": status_of(job, generation),
        "background": bool(origin.get("background")),
        "error": _error(job),
        "incomplete_details": _incomplete(job, generation),
        "instructions": origin.get("instructions"),
        "max_output_tokens": parameters.get("max_tokens"),
        "metadata": job.job_metadata,
        "model": job.model,
        "output": output,
        "parallel_tool_calls": False,
        "previous_response_id": origin.get("previous_response_id"),
        "store": True,
        "temperature": parameters.get("temperature"),
        "text": {"format": _told_format(parameters.get("response_format"))},
        "tool_choice": "none",
        "tools": [],
        "top_p": parameters.get("top_p") or 1.0,
        "truncation": "disabled",
        "usage": None if generation is None else _usage(generation),
        "system_fingerprint": generation.recipe_id if generation else None,
        "penstock": {
            "job_id": job.id,
            "seed": job.seed,
            "recipe": generation.recipe_id if generation else None,
            "reused_from": (generation.continuity or {}).get("of") if generation else None,
        },
    }


def status_of(job: Job, generation: Generation | None) -> str:
    """OpenAI's word for where a job stands. A job that came to `max_tokens` is incomplete there."""
    if job.state == JobState.SUCCEEDED:
        return "incomplete" if generation and generation.finish_reason == FinishReason.LENGTH else "completed"
    words = {JobState.QUEUED: "queued", JobState.RUNNING: "in_progress", JobState.CANCELLED: "cancelled"}
    return words.get(JobState(job.state), "failed")


def message_item(job: Job, text: str, generation: Generation | None = None) -> Document:
    """The one item of the output; without `generation`, as it begins."""
    status = "in_progress" if generation is None or job.state not in ENDED else "completed"
    if status == "completed" and status_of(job, generation) != "completed":
        status = "incomplete"
    content = [] if generation is None and not text else [text_part(job, text, generation)]
    return {
        "id": "msg_" + job.id.removeprefix("job_"),
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def text_part(job: Job, text: str, generation: Generation | None = None) -> Document:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": _logprobs(job, generation)}


def input_items(job: Job) -> list[Document]:
    """What the job was asked, as items."""
    messages: Sequence[Mapping[str, Any]] = job.messages or [{"role": "user", "content": job.prompt or ""}]
    shown = messages[1:] if (job.origin or {}).get("instructions") is not None else messages
    return [
        {
            "id": f"msg_{job.id.removeprefix('job_')}_{number}",
            "type": "message",
            "status": "completed",
            "role": message["role"],
            "content": [{"type": "input_text", "text": message["content"]}],
        }
        for number, message in enumerate(shown)
    ]


def _logprobs(job: Job, generation: Generation | None) -> list[Document]:
    if generation is None or generation.logprobs is None:
        return []
    body = chat_body(job, generation)
    found: list[Document] = body["choices"][0]["logprobs"]["content"]
    return found


def _usage(generation: Generation) -> Document:
    prompt, completion = generation.num_prompt_tokens, generation.num_completion_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }


def _error(job: Job) -> Document | None:
    if job.state == JobState.EXPIRED:
        return {"code": "deadline_exceeded", "message": "The job's deadline passed before it had ended."}
    if job.state != JobState.FAILED:
        return None
    told = job.error or {}
    return {"code": told.get("code", "server_error"), "message": told.get("message", "The job failed.")}


def _incomplete(job: Job, generation: Generation | None) -> Document | None:
    return {"reason": "max_output_tokens"} if status_of(job, generation) == "incomplete" else None


def _told_format(stored: Mapping[str, Any] | None) -> Document:
    if not stored:
        return {"type": "text"}
    nested = stored.get("json_schema")
    if stored.get("type") != "json_schema" or not isinstance(nested, dict):
        return {"type": stored.get("type", "text")}
    inner = nested.get("schema", nested)
    return {"type": "json_schema", "name": nested.get("name", "schema"), "schema": inner}


# -- events


def event(kind: str, number: int, **fields: object) -> bytes:
    """One frame of a stream of events."""
    data = {"type": kind, "sequence_number": number, **fields}
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def opening_events(job: Job, later_than: int) -> list[bytes]:
    """The events before the text, but for those up to the number `later_than`."""
    unstarted = response_object(job, None) | {"status": "in_progress"}
    item = message_item(job, "")
    frames: list[tuple[str, Document]] = [
        ("response.created", {"response": unstarted}),
        ("response.in_progress", {"response": unstarted}),
        ("response.output_item.added", {"output_index": 0, "item": item}),
        (
            "response.content_part.added",
            {"item_id": item["id"], "output_index": 0, "content_index": 0, "part": text_part(job, "")},
        ),
    ]
    return [event(kind, number, **fields) for number, (kind, fields) in enumerate(frames) if number > later_than]


def number_of(attempt: int, length: int) -> int:
    """Number of the delta after which there are `length` code points of what `attempt` told."""
    return (max(attempt, 1) - 1) * NUMBERS + LAST_OPENING + length


def place_of(number: int) -> tuple[int, int]:
    """The attempt and the code points that a reader has who saw the event `number`; perhaps past the text's end."""
    attempt, rest = divmod(max(number, 0), NUMBERS)
    return attempt + 1, max(0, rest - LAST_OPENING)


def delta_event(job: Job, text: str, number: int) -> bytes:
    """New text."""
    return event(
        "response.output_text.delta",
        number,
        item_id=message_item(job, "")["id"],
        output_index=0,
        content_index=0,
        delta=text,
        logprobs=[],
    )


def closing_events(job: Job, generation: Generation | None, later_than: int) -> list[bytes]:
    """The events behind the text. A job that failed has the last of them only; where its text is gone, with the last
    number of its attempt, for how much of it was told nobody knows."""
    whole = response_object(job, generation)
    text = generation.completion if generation is not None else ""
    last_of_all = max(job.attempt, 1) * NUMBERS - 1
    first = last_of_all if generation is None else number_of(generation.attempt, len(text)) + 1
    ends = {"completed": "response.completed", "incomplete": "response.incomplete"}
    last = (ends.get(whole["status"], "response.failed"), {"response": whole})
    frames: list[tuple[str, Document]] = [last]
    if generation is not None and whole["status"] in ends:
        item = message_item(job, text, generation)
        part = item["content"][0]
        where = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        frames = [
            ("response.output_text.done", {**where, "text": text, "logprobs": part["logprobs"]}),
            ("response.content_part.done", {**where, "part": part}),
            ("response.output_item.done", {"output_index": 0, "item": item}),
            last,
        ]
    numbered = [(kind, number, fields) for number, (kind, fields) in enumerate(frames, first)]
    return [event(kind, number, **fields) for kind, number, fields in numbered if number > later_than]


def error_event(message: str, code: str, number: int) -> bytes:
    """The last frame of a cut stream. `number`: of the last event before it, so that a reader may go on from either."""
    return event("error", number, code=code, message=message, param=None)
