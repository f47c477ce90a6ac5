"""Who is asking, and what they may do: the dependencies of every endpoint.

Objects belong to the owner of the key that made them; with another one's key they are not there (404). An endpoint
reads or writes as its method says, and the key's scopes must hold that; what is neither names its scope (`needs`). A
key with the scope `admin` sees all. How much others have to do is for keys with the scope `metrics` or `admin`: the
rest learn of it what their own jobs' places and estimates say.

Where no key is asked for (on loopback), everything is everybody's, and only calls that cannot come from a page of
another site are served: a browser lets any page send some requests to this machine, and a name whose DNS answers
127.0.0.1 makes a page of elsewhere look like one of this machine's.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.errors import Refusal
from api.key_ring import EVERYBODY, Identity
from api.rates import charge, note_late, note_limit
from api.services import Services, services
from jobs.errors import StoreUnavailable
from jobs.keys import KeyScope
from jobs.settings import Settings
from jobs.store import Store

_bearer = HTTPBearer(auto_error=False, description="An API key, where keys are asked for.")
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


def current_identity(
    request: Request, parts: Annotated[Services, Depends(services)], credentials: Credentials
) -> Identity:
    """The caller; counted against its rate. Raises Refusal, StoreUnavailable."""
    if not parts.keys.asks:
        _refuse_other_sites(request, parts.settings)
        return EVERYBODY
    identity = parts.keys.identify(credentials.credentials) if credentials else None
    if credentials is None or identity is None:
        raise Refusal(
            HTTPStatus.UNAUTHORIZED,
            "Send a valid API key: 'Authorization: Bearer KEY'.",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    request.state.still_known = lambda: parts.keys.identify(credentials.credentials) is not None
    if identity.requests_per_minute is not None:
        charge(request, parts.buckets, identity.key_id or "", identity.requests_per_minute)
    return identity


Asking = Annotated[Identity, Depends(current_identity)]


def check_scope(identity: Identity, scope: KeyScope) -> None:
    """Raise Refusal unless the caller may."""
    if not identity.may(scope):
        message = f"This API key lacks the scope '{scope}'."
        raise Refusal(HTTPStatus.FORBIDDEN, message, code="insufficient_scope", kind="permission_error")


def needs(scope: KeyScope) -> Callable[[Identity], Identity]:
    """A dependency for endpoints that need a scope of their own."""

    def checked(identity: Asking) -> Identity:
        check_scope(identity, scope)
        return identity

    return checked


def current_caller(request: Request, parts: Annotated[Services, Depends(services)], identity: Asking) -> Identity:
    """The caller, who may do what the request's method does."""
    if request.method in _READING:
        check_scope(identity, KeyScope.READ)
        return identity
    check_scope(identity, KeyScope.WRITE)
    if identity.quota.queued_tokens is not None:
        note_late(request, lambda: _note_tokens(request, parts.store, identity))
    return identity


def _note_tokens(request: Request, store: Store, identity: Identity) -> None:
    """What the caller may still queue, once what this request did is done."""
    limit = identity.quota.queued_tokens or 0
    with contextlib.suppress(StoreUnavailable):
        note_limit(request, "tokens", limit, limit - store.queued_tokens(identity.owner))


Maker = Annotated[Identity, Depends(current_caller)]
"""The caller of an endpoint that makes things: they become `owner`'s, within `quota`."""


def current_owner(maker: Maker) -> str | None:
    """Whose objects the caller sees; None: everybody's."""
    return maker.sees


Owner = Annotated[str | None, Depends(current_owner)]


def counted_owner(maker: Maker) -> str | None:
    """Whose jobs the caller may know the number of; None: everybody's."""
    return maker.counts


Counted = Annotated[str | None, Depends(counted_owner)]
"""For endpoints that tell how much there is to do, where `Owner` is for those that show objects."""


def _refuse_other_sites(request: Request, settings: Settings) -> None:
    """Without keys: no call from a page of another site, and none under a name that is not this machine's."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    strange = request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}
    try:
        strange = strange or not _is_of_this_machine(urlsplit(f"//{host}").hostname or "", settings)
        strange = strange or (origin is not None and urlsplit(origin).netloc != host)
    except ValueError:  # a name that is none
        strange = True
    if strange:
        message = (
            "Without API keys, only this machine's own programs and pages are served. Make a key: penstock keys create."
        )
        raise Refusal(HTTPStatus.FORBIDDEN, message, code="cross_site_request", kind="permission_error")


def _is_of_this_machine(host: str, settings: Settings) -> bool:
    """An address, a name without a dot, or one below `localhost`: no DNS of somebody else's answers for them."""
    if not host or "." not in host or host.endswith(".localhost") or host in settings.trusted_hosts:
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
