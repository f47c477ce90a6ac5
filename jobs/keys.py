"""API keys: what one looks like, what it may do, and how much. Knows no database and no HTTP.

    psk_3f9a1c2b7d04_Qm9u…        `psk_`, 12 hexadecimal digits (the hint, which may be shown), 43 characters of secret

The secret is 256 random bits, so one SHA-256 of the whole key is all that need be stored: there is nothing to guess.
The hint finds the row; the hash decides, compared in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from jobs.errors import InvalidRequest

SECRET_BYTES = 32
HINT_CHARACTERS = len("psk_") + 12
MAX_NAME = 128
_KEY = re.compile(r"psk_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class KeyScope(StrEnum):
    """What a key may do."""

    READ = "jobs:read"
    """Look at its owner's jobs, files, batches, streams, responses and webhooks."""
    WRITE = "jobs:write"
    """Make and change them."""
    METRICS = "metrics"
    """Read the numbers of the whole system, which name no job: `/metrics`; with `jobs:read`, workers and queues too."""
    ADMIN = "admin"
    """All of that, and see everybody's."""


USUAL_SCOPES = (KeyScope.READ, KeyScope.WRITE)


@dataclass(frozen=True, slots=True)
class Quota:
    """What an owner may have open at a time. None: as much as they like."""

    queued_tokens: int | None = None
    """Prompt tokens and `max_tokens` of all that is queued or running."""
    open_batches: int | None = None
    batch_lines: int | None = None
    """Of one batch."""

    @property
    def is_open(self) -> bool:
        return self == UNLIMITED


UNLIMITED = Quota()


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a key is to be. `owner` None: an owner of its own. `expires_in_seconds` None: never."""

    name: str
    owner: str | None = None
    scopes: tuple[KeyScope, ...] = USUAL_SCOPES
    expires_in_seconds: float | None = None
    requests_per_minute: int | None = None
    quota: Quota = UNLIMITED


def new_secret_key() -> str:
    """Draw a key. It is shown once and never stored."""
    return f"psk_{secrets.token_hex(6)}_{secrets.token_urlsafe(SECRET_BYTES)}"


def hint_of(key: str) -> str | None:
    """The part of a key that may be shown; None for what is no key of ours."""
    return key[:HINT_CHARACTERS] if _KEY.fullmatch(key) else None


def sha256_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def is_same(key: str, sha256: str) -> bool:
    """Whether `sha256` is of `key`; takes the same time whichever it is."""
    return hmac.compare_digest(sha256_of(key), sha256)


def check_new(new: NewKey) -> None:
    """Raise InvalidRequest for a key that cannot be."""
    if not 1 <= len(new.name) <= MAX_NAME or not new.name.isprintable():
        raise InvalidRequest(f"name: must have 1 to {MAX_NAME} printable characters.", param="name")
    if new.owner is not None and not _OWNER.fullmatch(new.owner):
        message = "owner: must have 1 to 64 letters, digits, dots, hyphens or underscores, and begin with one of the "
        raise InvalidRequest(message + "first two.", param="owner")
    if not new.scopes:
        raise InvalidRequest("scopes: at least one is needed.", param="scopes")
    limits = {"requests_per_minute": new.requests_per_minute, "queued_tokens": new.quota.queued_tokens}
    limits |= {"open_batches": new.quota.open_batches, "batch_lines": new.quota.batch_lines}
    for name, limit in limits.items():
        if limit is not None and not 1 <= limit < 2**31:
            raise InvalidRequest(f"{name}: must be from 1 to {2**31 - 1}.", param=name)


def read_scopes(names: Iterable[str]) -> tuple[KeyScope, ...]:
    """Scopes by their names, each once. Raises InvalidRequest."""
    found: dict[KeyScope, None] = {}
    for name in names:
        try:
            found[KeyScope(name)] = None
        except ValueError:
            message = f"scope: {name!r} is none of {', '.join(KeyScope)}."
            raise InvalidRequest(message, param="scope") from None
    return tuple(found)
