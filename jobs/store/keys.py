"""API keys: made, found by what a caller sends, listed, revoked, rotated. Their form is `jobs.keys`'s.

Rows are never changed but to end a key, so whoever has read one may go on with it for as long as they accept to hear
of its end late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from jobs.errors import InvalidRequest, NotFound
from jobs.ids import new_id
from jobs.keys import KeyScope, NewKey, Quota, check_new, hint_of, is_same, new_secret_key, sha256_of
from jobs.store.reading import rows
from jobs.store.scope import Scope
from jobs.tables import ApiKey


def create(scope: Scope, new: NewKey) -> tuple[ApiKey, str]:
    """Make a key: its row, and the key itself, which nobody can read again. Raises InvalidRequest."""
    check_new(new)
    secret = new_secret_key()
    key_id = new_id("key")
    row = {
        "id": key_id,
        "hint": hint_of(secret),
        "sha256": sha256_of(secret),
        "name": new.name,
        "owner": new.owner or key_id.removeprefix("key_"),
        "scopes": list(new.scopes),
        "requests_per_minute": new.requests_per_minute,
        "queued_tokens": new.quota.queued_tokens,
        "open_batches": new.quota.open_batches,
        "batch_lines": new.quota.batch_lines,
        "created_at": scope.now,
        "expires_at": _after(scope, new.expires_in_seconds),
    }
    scope.connection.execute(sa.insert(ApiKey), [row])
    return get(scope, key_id), secret


def _after(scope: Scope, seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else scope.now + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise InvalidRequest("expires: no calendar has that day.", param="expires") from None


def get(scope: Scope, key_id: str) -> ApiKey:
    """A key by its id or its hint. Raises NotFound."""
    found = rows(scope, sa.select(ApiKey).where(sa.or_(ApiKey.id == key_id, ApiKey.hint == key_id)))
    if not found:
        raise NotFound("key", key_id)
    return found[0]


def find(scope: Scope, secret: str) -> ApiKey | None:
    """The living key that `secret` is, if it is one."""
    hint = hint_of(secret)
    found = rows(scope, sa.select(ApiKey).where(ApiKey.hint == hint, _alive(scope))) if hint else ()
    return found[0] if found and is_same(secret, found[0].sha256) else None


def _alive(scope: Scope) -> sa.ColumnElement[bool]:
    return sa.and_(ApiKey.revoked_at.is_(None), sa.or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > scope.now))


def any_key(scope: Scope, *, alive: bool) -> bool:
    """Whether there is a key; `alive`: one that is taken."""
    query = sa.select(ApiKey.id).limit(1)
    return scope.connection.scalar(query.where(_alive(scope)) if alive else query) is not None


def every(scope: Scope) -> Sequence[ApiKey]:
    """All keys, those that have ended too, the oldest first."""
    return rows(scope, sa.select(ApiKey).order_by(ApiKey.id))


def revoke(scope: Scope, key_id: str) -> ApiKey:
    """End a key now. Raises NotFound."""
    key = get(scope, key_id)
    revoked = sa.func.coalesce(ApiKey.revoked_at, scope.now)
    scope.connection.execute(sa.update(ApiKey).where(ApiKey.id == key.id).values(revoked_at=revoked))
    return get(scope, key.id)


def rotate(scope: Scope, key_id: str, grace_seconds: float) -> tuple[ApiKey, str]:
    """Make a key like this one, for the same owner, and let this one end after a while.

    Raises:
        NotFound: no such key.
        InvalidRequest: it has ended already.
    """
    old = get(scope, key_id)
    if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= scope.now):
        raise InvalidRequest(f"{old.id} has ended already; make a new key for the owner {old.owner!r}.", param="id")
    lifetime = None if old.expires_at is None else (old.expires_at - old.created_at).total_seconds()
    made = create(scope, replace(_like(old), expires_in_seconds=lifetime))
    ends_at = _after(scope, grace_seconds) or scope.now
    sooner = ends_at if old.expires_at is None else min(ends_at, old.expires_at)
    scope.connection.execute(sa.update(ApiKey).where(ApiKey.id == old.id).values(expires_at=sooner))
    return made


def _like(key: ApiKey) -> NewKey:
    return NewKey(
        key.name,
        key.owner,
        tuple(KeyScope(name) for name in key.scopes),
        requests_per_minute=key.requests_per_minute,
        quota=Quota(key.queued_tokens, key.open_batches, key.batch_lines),
    )


def forget(scope: Scope, key_id: str) -> None:
    """Delete the row of a key that has ended. With the last row gone, a server on loopback is open again.

    Raises:
        NotFound: no such key.
        InvalidRequest: it is still taken.
    """
    key = get(scope, key_id)
    ended = sa.not_(_alive(scope))
    gone = scope.connection.execute(sa.delete(ApiKey).where(ApiKey.id == key.id, ended)).rowcount
    if not gone:
        raise InvalidRequest(f"{key.id} is still taken; revoke it first.", param="id")
