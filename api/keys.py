"""Who is asking. With API keys configured every `/v1` call needs one; jobs belong to the key that made them.

An owner is a short hash of the key: the database holds no key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.errors import Refusal
from api.services import Services, services

_bearer = HTTPBearer(auto_error=False, description="An API key, where the operator has set `PENSTOCK_API_KEYS`.")


def owner_of(key: str) -> str:
    """The owner that stands for `key` in the database."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def known_owner(key: str, keys: Iterable[str]) -> str | None:
    """The owner of `key` if it is one of `keys`. Takes the same time whichever it is."""
    given = hashlib.sha256(key.encode()).digest()
    matches = [hmac.compare_digest(given, hashlib.sha256(known.encode()).digest()) for known in keys]
    return owner_of(key) if any(matches) else None


def current_owner(
    parts: Annotated[Services, Depends(services)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> str | None:
    """The caller's owner; None where no keys are configured, which means: everything is everybody's."""
    if not parts.settings.api_keys:
        return None
    owner = known_owner(credentials.credentials, parts.settings.api_keys) if credentials else None
    if owner is None:
        raise Refusal(
            HTTPStatus.UNAUTHORIZED,
            "Send a valid API key: 'Authorization: Bearer KEY'.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return owner


Owner = Annotated[str | None, Depends(current_owner)]
