"""How a create was called: with a key of the caller's, or again by a client that retries by itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, TypedDict

from fastapi import Depends, Header, Response

from jobs.errors import InvalidRequest

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class CallTerms(TypedDict):
    """Arguments of every creating method of the store."""

    idempotency_key: str | None
    body_sha256: str
    silent_retry: bool


@dataclass(frozen=True, slots=True)
class Caller:
    """`key`: the same one with the same body makes its objects once. `retries`: OpenAI's client says that it sends
    this again by itself, because it has not heard an answer."""

    key: str | None
    retries: bool

    def terms(self, body_sha256: str) -> CallTerms:
        """`body_sha256`: of what was sent, as far as it makes a difference."""
        return {"idempotency_key": self.key, "body_sha256": body_sha256, "silent_retry": self.retries}


def read_caller(
    key: Annotated[
        str | None,
        Header(alias="Idempotency-Key", description="The same key with the same body makes its objects once."),
    ] = None,
    retry_count: Annotated[
        str | None, Header(alias="x-stainless-retry-count", description="Sent by OpenAI's clients.")
    ] = None,
) -> Caller:
    """Raises InvalidRequest."""
    if key is not None and not _KEY.fullmatch(key):
        raise InvalidRequest("Idempotency-Key: must be 1 to 255 visible ASCII characters.", param="Idempotency-Key")
    return Caller(key, bool(retry_count and retry_count.isascii() and retry_count.isdigit() and int(retry_count[:9])))


Calling = Annotated[Caller, Depends(read_caller)]


def note_replay(response: Response, replayed: bool) -> None:
    """Tell the caller that an earlier call had made what is answered."""
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
