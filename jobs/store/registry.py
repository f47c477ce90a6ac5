"""Who is there: models that workers announced, workers' heartbeats, and who holds an office."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import defer

from jobs.errors import ModelUnknown
from jobs.records import recipe_id
from jobs.store import reading
from jobs.store.ending import ensure_recipes, storable
from jobs.store.scope import Scope, insert_into
from jobs.tables import Model, Office, Worker

BACKUP_OFFICE = "backup"
"""Whoever makes a backup holds it: objects of files are not deleted meanwhile."""


def announce_model(
    scope: Scope,
    name: str,
    *,
    sha256: str,
    context_tokens: int,
    vocabulary: bytes,
    recipe: Mapping[str, Any] | None,
    details: Mapping[str, Any],
) -> None:
    """Write what the API needs to know of a model; the newest announcement counts."""
    if recipe is not None:
        ensure_recipes(scope, [recipe])
    row = {
        "sha256": sha256,
        "context_tokens": context_tokens,
        "vocabulary": zlib.compress(vocabulary),
        "recipe_id": None if recipe is None else recipe_id(recipe),
        "details": storable(details),
        "announced_at": scope.now,
    }
    statement = scope.insert(Model).values({"name": name, **row})
    scope.connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))


def model(scope: Scope, name: str) -> Model:
    found = reading.rows(scope, sa.select(Model).where(Model.name == name))
    if not found:
        raise ModelUnknown(name)
    return found[0]


def list_models(scope: Scope) -> list[Model]:
    """All models, without their vocabularies, which are large."""
    return list(reading.rows(scope, sa.select(Model).options(defer(Model.vocabulary)).order_by(Model.name)))


def heartbeat(
    scope: Scope,
    name: str,
    *,
    model: str,
    slots: int,
    busy_slots: int,
    tokens_per_second: float,
    details: Mapping[str, Any],
) -> None:
    row = {
        "model": model,
        "slots": slots,
        "busy_slots": busy_slots,
        "tokens_per_second": tokens_per_second,
        "details": storable(details),
        "seen_at": scope.now,
    }
    statement = scope.insert(Worker).values({"name": name, "started_at": scope.now, **row})
    scope.connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_=row))


def list_workers(scope: Scope, alive_within_seconds: float | None) -> Sequence[Worker]:
    query = sa.select(Worker).order_by(Worker.name)
    if alive_within_seconds is not None:
        query = query.where(Worker.seen_at >= scope.now - timedelta(seconds=alive_within_seconds))
    return reading.rows(scope, query)


@cache
def _take_office(dialect: str) -> Any:
    """One guarded upsert: it changes a row only for the holder itself, or once the holder stayed silent too long.
    Three offices ask for it every second, so it is put together once."""
    holder = sa.bindparam("who", type_=Office.holder.type)
    until = sa.bindparam("until", type_=Office.expires_at.type)
    statement = insert_into(Office, dialect).values(role=sa.bindparam("what"), holder=holder, expires_at=until)
    free = sa.or_(Office.holder == holder, Office.expires_at <= sa.bindparam("now", type_=Office.expires_at.type))
    taken = statement.on_conflict_do_update(
        index_elements=["role"], set_={"holder": holder, "expires_at": until}, where=free
    )
    return taken.returning(Office.holder)


def hold_office(scope: Scope, role: str, holder: str) -> bool:
    """Take or keep an office. See `Store.hold_office`."""
    until = scope.now + timedelta(seconds=scope.settings.leader_seconds)
    row = {"what": role, "who": holder, "until": until, "now": scope.now}
    return scope.connection.execute(_take_office(scope.connection.dialect.name), row).first() is not None


def office_is_held(scope: Scope, role: str) -> bool:
    query = sa.select(Office.role).where(Office.role == role, Office.expires_at > scope.now)
    return scope.connection.scalar(query) is not None


def resign_office(scope: Scope, role: str, holder: str) -> None:
    scope.connection.execute(sa.delete(Office).where(Office.role == role, Office.holder == holder))
