"""One line of a batch's file: can it run, and if not, why. The answer depends on the line and the model alone.

    {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {…}}

What depends on other lines (a `custom_id` that came before, the order of dispatch) is `api.intake.upload`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from api.body import MAX_DEPTH, check_values
from api.checking import draft_of, validated
from api.errors import Refusal
from api.fitting import Draft, Fitted, fit
from api.intake.familiar import FamiliarBodies
from api.intake.lines import RawLine
from api.intake.prefixes import prefix_of
from api.models import ServedModel
from api.openai.mapping import READERS
from api.wire import JobRequest
from jobs.checked import MAX_CUSTOM_ID
from jobs.errors import InvalidRequest
from jobs.states import Priority

JOBS_URL = "/v1/jobs"
URLS = (*READERS, JOBS_URL)
BODY = "body"
_FIELDS = ("custom_id", "method", "url", BODY)


@dataclass(frozen=True, slots=True)
class GoodLine:
    number: int
    custom_id: str
    url: str
    job: Mapping[str, Any]
    prefix: int | None


@dataclass(frozen=True, slots=True)
class BadLine:
    """`message` says what is wrong and where; who writes it down adds the line's number."""

    number: int
    custom_id: str | None
    code: str
    message: str
    param: str | None


class LineChecker:
    """Checks the lines of one file, for one thread. What it remembers of them changes no outcome."""

    def __init__(self, model: ServedModel, max_line_bytes: int) -> None:
        self._model = model
        self._max_line_bytes = max_line_bytes
        self._bodies = FamiliarBodies(read_body)

    def check(self, line: RawLine) -> GoodLine | BadLine:
        """Check one line. Never raises for what stands in it."""
        if line.data is None:
            return BadLine(line.number, None, "line_too_long", f"it is longer than {self._max_line_bytes} bytes.", None)
        custom_id: str | None = None
        try:
            found = _parse(line.data)
            custom_id = _custom_id(found)
            url = _envelope(found)
            fitted = fit(self._bodies.draft(url, found[BODY]), self._model)
        except (InvalidRequest, Refusal) as error:
            return BadLine(line.number, custom_id, error.code, error.message, error.param)
        return GoodLine(line.number, custom_id, url, _job(fitted), prefix_of(fitted.token_ids))


def read_body(url: str, body: dict[str, Any]) -> Draft:
    """The draft that a line's body asks for. Raises InvalidRequest."""
    if url == JOBS_URL:
        return _native(body)
    asked = READERS[url](body, BODY)
    if asked.num_choices > 1:
        raise _refusal(f"{BODY}.n", "a line of a batch makes one choice; write a line for each", "unsupported_value")
    if asked.more:
        raise _refusal(f"{BODY}.prompt", "a line of a batch has one prompt; write a line for each", "unsupported_value")
    if asked.stream:
        raise _refusal(f"{BODY}.stream", "a line of a batch cannot be streamed", "unsupported_value")
    return asked.draft


def _parse(data: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _not_json(data, error) from None
    if not isinstance(found, dict):
        raise InvalidRequest("it must be a JSON object.", code="invalid_type")
    # Most lines can hold neither a NUL nor deep nesting; only what could is walked through.
    if b"\\u0000" in data or data.count(b"{") + data.count(b"[") > MAX_DEPTH:
        check_values(found, "it")
    return found


def _not_json(data: bytes, error: orjson.JSONDecodeError) -> InvalidRequest:
    try:
        data.decode()
    except UnicodeDecodeError as fault:
        return InvalidRequest(f"it is not valid UTF-8 (byte {fault.start + 1}).", code="invalid_utf8")
    return InvalidRequest(f"it is not valid JSON (column {error.colno}).", code="invalid_json")


def _custom_id(found: Mapping[str, Any]) -> str:
    custom_id = found.get("custom_id")
    if custom_id is None:
        raise _refusal("custom_id", "it is missing", "missing_field")
    if not isinstance(custom_id, str):
        raise _refusal("custom_id", "must be a string", "invalid_type")
    if not 1 <= len(custom_id) <= MAX_CUSTOM_ID:
        raise _refusal("custom_id", f"must have 1 to {MAX_CUSTOM_ID} characters")
    return custom_id


def _envelope(found: Mapping[str, Any]) -> str:
    """The line's url, with all around it checked."""
    for name in _FIELDS:
        if found.get(name) is None:
            raise _refusal(name, "it is missing", "missing_field")
    if len(found) > len(_FIELDS):
        name = next(name for name in found if name not in _FIELDS)[:MAX_CUSTOM_ID]
        raise _refusal(name, "there is no such field", "unknown_field")
    if found["method"] != "POST":
        raise _refusal("method", "must be 'POST'")
    url = found["url"]
    if url != JOBS_URL and (not isinstance(url, str) or url not in READERS):
        raise _refusal("url", f"must be one of {', '.join(URLS)}", "invalid_url")
    if not isinstance(found[BODY], dict):
        raise _refusal(BODY, "must be a JSON object", "invalid_type")
    return str(url)


def _native(body: dict[str, Any]) -> Draft:
    request = validated(JobRequest, body, under=BODY)
    if request.priority == Priority.INTERACTIVE:
        raise _refusal(f"{BODY}.priority", "a line of a batch cannot be interactive")
    return draft_of(request, BODY)


def _job(fitted: Fitted) -> dict[str, Any]:
    """The job in the form of `jobs.checked`."""
    draft = fitted.draft
    job: dict[str, Any] = {
        "model": fitted.model,
        "parameters": fitted.parameters,
        "seed": fitted.seed,
        "num_prompt_tokens": len(fitted.token_ids),
    }
    job |= {"prompt": draft.prompt} if draft.messages is None else {"messages": draft.messages}
    for name in ("metadata", "max_attempts", "deadline_seconds"):
        value = getattr(draft, name)
        if value:
            job[name] = value
    return job


def _refusal(name: str, reason: str, code: str = "invalid_value") -> InvalidRequest:
    return InvalidRequest(f"{name}: {reason}.", param=name, code=code)
