"""The checked file: what a batch's input is once each line was checked, one compact JSON object a line.

    {"n": 7, "id": "a", "url": "/v1/chat/completions", "job": {…}, "order": 7}     a line that can run
    {"n": 8, "id": null, "error": {"code", "message", "param"}}                    a line that never can

`n` is the line of the original file as an editor counts it; blank lines leave no trace. Taking such lines in needs
neither the model nor the API, and no look at their text: whatever a database cannot hold is refused here, where it is
written. Owns the format; knows no file, no store and no database.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from jobs.errors import InvalidRequest

MAX_CUSTOM_ID = 512
JOB_FIELDS = frozenset(
    {
        "model",
        "parameters",
        "seed",
        "num_prompt_tokens",
        "prompt",
        "messages",
        "metadata",
        "max_attempts",
        "deadline_seconds",
    }
)
"""What `job` may hold: fields of `NewJob`. `seed` null or absent: drawn when the line is taken in."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class CheckedLine(NamedTuple):
    """One line as it was checked. `start` and `end` are its bytes in the checked file, its newline included.

    A tuple, because a million of them are made in a row.
    """

    start: int
    end: int
    number: int
    custom_id: str | None
    url: str | None = None
    job: Mapping[str, Any] | None = None
    order: int = 0
    error: Mapping[str, Any] | None = None


def dump_valid(number: int, custom_id: str | None, url: str, job: Mapping[str, Any], order: int) -> bytes:
    """Write a line that can run, newline included. `order`: its `dispatch_order`.

    Raises:
        InvalidRequest: text that no database holds (a NUL, half a surrogate pair), or a number that is not finite.
    """
    unknown = job.keys() - JOB_FIELDS
    if unknown:
        raise ValueError(f"not fields of a job: {sorted(unknown)}")
    if custom_id is not None and len(custom_id) > MAX_CUSTOM_ID:
        raise InvalidRequest(f"custom_id is longer than {MAX_CUSTOM_ID} characters", param="custom_id")
    try:
        text = _encode({"n": number, "id": custom_id, "url": url, "job": job, "order": order})
        line = text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("the line holds half a surrogate pair", code="unstorable_text") from None
    except ValueError:
        raise InvalidRequest("the line holds a number that is not finite") from None
    if "\\u0000" in text and _holds_nul([custom_id, url, job]):
        raise InvalidRequest("the line holds a NUL character", code="unstorable_text")
    return line + b"\n"


def _holds_nul(value: object) -> bool:
    """Look closely: `\\u0000` in the JSON may also be text that says so, behind another backslash."""
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(_holds_nul(name) or _holds_nul(item) for name, item in value.items())
    if isinstance(value, list | tuple):
        return any(map(_holds_nul, value))
    return False


def dump_invalid(number: int, custom_id: str | None, code: str, message: str, param: str | None) -> bytes:
    """Write a line that can never run, newline included. What cannot be stored of it is replaced."""
    if custom_id is not None and len(custom_id) > MAX_CUSTOM_ID:
        custom_id = None
    error = {"code": _clean(code), "message": _clean(message), "param": _clean(param)}
    return _encode({"n": number, "id": _clean(custom_id), "error": error}).encode() + b"\n"


def _clean(text: str | None) -> str | None:
    if text is None:
        return None
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read(chunks: Iterable[bytes], start: int = 0) -> Iterator[CheckedLine]:
    """Read lines from the bytes of a checked file, which come in pieces of any size from byte `start` on.

    `start` is where a line begins: 0, or the `end` of a line read before. One line is held in memory at a time.

    Raises:
        ValueError: the bytes are no checked file, or end within a line.
    """
    rest: list[bytes] = []
    for chunk in chunks:
        *whole, tail = chunk.split(b"\n")
        for piece in whole:
            line = b"".join([*rest, piece]) if rest else piece
            rest = []
            end = start + len(line) + 1
            yield _line(line, start, end)
            start = end
        if tail:
            rest.append(tail)
    if rest:
        raise ValueError(f"the checked file ends within the line at byte {start}")


def _line(text: bytes, start: int, end: int) -> CheckedLine:
    found = orjson.loads(text)
    if "error" in found:
        return CheckedLine(start, end, found["n"], found["id"], error=found["error"])
    return CheckedLine(start, end, found["n"], found["id"], found["url"], found["job"], found["order"])
