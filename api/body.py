"""The bytes of a request as JSON that PostgreSQL can store: strict UTF-8, strict JSON, no NUL, no lone surrogate.

Python's parser takes `NaN`, `Infinity` and half a surrogate pair; none of them is JSON, and all of them break
something further in. Each is refused here, with the name of the field it stands in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Never

from fastapi import Request

from api.errors import Refusal
from api.faults import joined
from jobs.errors import InvalidRequest

MAX_DEPTH = 64
"""Nesting of a body. A job needs five; a JSON schema some more."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

Path = tuple[str | int, ...]


class _NotJson:
    """Stands for a literal that Python reads and JSON does not have."""

    def __init__(self, literal: str) -> None:
        self.literal = literal


async def read_body(request: Request) -> bytes:
    """The raw body, bounded by the middleware in `api.limits`.

    Only `application/json` is taken: a page in a browser cannot send that to another origin without asking first. Nor
    is a compressed body: a few bytes of it may stand for more than there is memory.
    """
    if request.headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "Content-Encoding: send the body as it is, not compressed.",
            code="unsupported_media_type",
            param="Content-Encoding",
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "Send JSON, with the header 'Content-Type: application/json'.",
            code="unsupported_media_type",
            param="Content-Type",
        )
    return await request.body()


def parse_object(raw: bytes) -> dict[str, Any]:
    """The body as a JSON object. Raises InvalidRequest."""
    body = _parse(raw)
    check_values(body, "The request body")
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.", code="invalid_type")
    return body


def fingerprint(body: dict[str, Any]) -> str:
    """SHA-256 of the body, whatever its spacing and the order of its fields."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode(), parse_constant=_NotJson)
    except UnicodeDecodeError as error:
        _refuse(f"The request body is not valid UTF-8 (byte {error.start}).", code="invalid_utf8")
    except json.JSONDecodeError as error:
        _refuse(f"The request body is not valid JSON (line {error.lineno}, column {error.colno}).", code="invalid_json")
    except RecursionError:
        _refuse(_too_deep("The request body"), code="invalid_json")
    except ValueError:  # a number with more digits than Python converts
        _refuse("The request body holds a number that is too long.", code="invalid_json")


def check_values(body: object, what: str) -> None:
    """Walk all of a parsed document (not by recursion) and refuse the first value that cannot be kept.

    `what` names the document in the message. Raises InvalidRequest.
    """
    waiting: list[tuple[Path, object]] = [((), body)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str):
            _check_text(value, path, what)
        elif isinstance(value, _NotJson):
            name = joined("", path)
            _refuse(f"{name or what}: {value.literal} is not JSON; send a finite number.", param=name or None)
        elif isinstance(value, dict | list):
            waiting.extend(_members(value, path, what))


def _members(value: dict[str, Any] | list[Any], path: Path, what: str) -> Iterable[tuple[Path, object]]:
    if len(path) >= MAX_DEPTH:
        _refuse(_too_deep(what), code="invalid_json")
    if isinstance(value, list):
        return (((*path, index), item) for index, item in enumerate(value))
    for key in value:
        _check_text(key, path, what)
    return (((*path, key), item) for key, item in value.items())


def _check_text(text: str, path: Path, what: str) -> None:
    found = _UNSTORABLE.search(text)
    if found is None:
        return
    kind = "a NUL character" if found.group() == "\x00" else "half of a surrogate pair"
    name = joined("", path)
    _refuse(f"{name or what}: holds {kind}, which cannot be stored.", param=name or None, code="invalid_text")


def _too_deep(what: str) -> str:
    return f"{what} is nested deeper than {MAX_DEPTH} levels."


def _refuse(message: str, *, param: str | None = None, code: str = "invalid_json") -> Never:
    raise InvalidRequest(message, param=param, code=code)
