"""What makes the same call twice make one thing: a caller's key, and the recognition of a client's silent retry.

Kinds of objects are kept apart by a prefix in the `key` column: `jobs:`, `files:`, `batches:`, `webhooks:`; a create
without a key leaves `silent:<kind>:<sha256 of its body>`. Rows of older code have no prefix: they made jobs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from jobs.errors import IdempotencyConflict
from jobs.store.scope import Scope
from jobs.tables import IdempotencyKey

MAX_KEY = 255
JOBS = "jobs"
FILES = "files"
BATCHES = "batches"
WEBHOOKS = "webhooks"
_PREFIXES = tuple(f"{kind}:" for kind in (JOBS, FILES, BATCHES, WEBHOOKS, "silent"))


@dataclass(frozen=True, slots=True)
class Call:
    """How a create was called. `silent_retry`: the client says that it sends this again by itself."""

    key: str | None = None
    body_sha256: str | None = None
    silent_retry: bool = False


def earlier(scope: Scope, kind: str, owner: str, call: Call, ids: Sequence[str]) -> list[str] | None:
    """Claim the call for `ids`; answer what it made before, if it was made before.

    On PostgreSQL the INSERT waits for another transaction that holds the same new key, so of two calls at once one
    makes the objects and the other finds them.

    Raises:
        IdempotencyConflict: the key was used with another body.
    """
    if call.key is not None:
        return _keyed(scope, kind, owner, call, ids)
    if call.body_sha256 is not None:
        return _silent(scope, f"silent:{kind}:{call.body_sha256}", owner, call, ids)
    return None


def _keyed(scope: Scope, kind: str, owner: str, call: Call, ids: Sequence[str]) -> list[str] | None:
    key, body_sha256 = call.key or "", call.body_sha256 or ""
    if kind == JOBS and not key.startswith(_PREFIXES):
        old = _taken(scope, owner, key)
        if old is not None:
            return _same(key, old, body_sha256)
    name = _name(kind, key)
    row = _row(scope, owner, name, body_sha256, ids)
    insert = scope.insert(IdempotencyKey).values(row).on_conflict_do_nothing().returning(IdempotencyKey.key)
    if scope.connection.execute(insert).first() is not None:
        return None
    taken = _taken(scope, owner, name)
    return None if taken is None else _same(key, taken, body_sha256)


def _silent(scope: Scope, name: str, owner: str, call: Call, ids: Sequence[str]) -> list[str] | None:
    """Record the call in place of an older one like it; a silent retry gives way to one that is fresh."""
    insert = scope.insert(IdempotencyKey).values(_row(scope, owner, name, call.body_sha256 or "", ids))
    fresh_since = scope.now - timedelta(seconds=scope.settings.silent_retry_seconds)
    stale = IdempotencyKey.created_at < fresh_since
    record = insert.on_conflict_do_update(
        index_elements=[IdempotencyKey.owner, IdempotencyKey.key],
        set_={"object_ids": insert.excluded.object_ids, "created_at": insert.excluded.created_at},
        where=stale if call.silent_retry else None,
    ).returning(IdempotencyKey.key)
    if scope.connection.execute(record).first() is not None:
        return None
    taken = _taken(scope, owner, name)
    return None if taken is None else taken[1]


def _name(kind: str, key: str) -> str:
    """The row's key; one too long for the column is told by its hash."""
    name = f"{kind}:{key}"
    return name if len(name) <= MAX_KEY else f"{kind}:sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def _row(scope: Scope, owner: str, name: str, body_sha256: str, ids: Sequence[str]) -> dict[str, object]:
    return {
        "owner": owner,
        "key": name,
        "body_sha256": body_sha256,
        "object_ids": list(ids),
        "created_at": scope.now,
    }


def _taken(scope: Scope, owner: str, name: str) -> tuple[str, list[str]] | None:
    query = sa.select(IdempotencyKey.body_sha256, IdempotencyKey.object_ids)
    row = scope.connection.execute(query.where(IdempotencyKey.owner == owner, IdempotencyKey.key == name)).one_or_none()
    return None if row is None else (row.body_sha256, list(row.object_ids))


def _same(key: str, taken: tuple[str, list[str]], body_sha256: str) -> list[str]:
    if taken[0] != body_sha256:
        raise IdempotencyConflict(key)
    return taken[1]
