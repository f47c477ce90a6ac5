"""The endpoints, a module each kind of object. They parse, call, and shape; what they call is elsewhere in `api`."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from api.wire import ErrorReply

_MEANINGS = {
    400: "The request is wrong; `param` names the field.",
    401: "The API key is missing or wrong.",
    403: "The API key lacks the scope for this.",
    404: "There is no such object, or it belongs to another key.",
    409: "The idempotency key was used with another body; or what is to be deleted has not ended.",
    413: "The body is over the limit.",
    415: "The body is not of the kind that is taken here.",
    416: "The range lies beyond the end of what there is.",
    429: "The API key is at a limit, which `param` names; ask again after `Retry-After` seconds.",
    503: "What this needs is away (the database, Redis, the storage of files, a model), or too much is asked at once; "
    "ask again after `Retry-After` seconds.",
}


JSON_OR_STREAM: dict[str, Any] = {
    "application/json": {"schema": {"type": "object"}},
    "text/event-stream": {},
}
"""What an endpoint answers whose caller chooses, for its documentation."""


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What an endpoint may answer instead, for its documentation. One that asks for a key may miss a scope of it, or be
    over its limits."""
    with_keys = {403, 429} if 401 in statuses else set()
    found = sorted({*statuses, *with_keys})
    return {status: {"model": ErrorReply, "description": _MEANINGS[status]} for status in found}


def note_poll(response: Response, seconds: int | None) -> None:
    """Say when it pays to ask again; nothing of what has ended."""
    if seconds is not None:
        response.headers["Retry-After"] = str(seconds)
