"""API keys: what is stored of them, who is found by one, and how they end."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
import sqlalchemy as sa

from jobs.errors import InvalidRequest, NotFound
from jobs.keys import USUAL_SCOPES, KeyScope, NewKey, Quota, hint_of, is_same, new_secret_key, read_scopes
from jobs.store import Store
from tests.jobs.support import Clock


def test_a_key_is_recognised_by_its_form_and_never_the_same() -> None:
    keys = {new_secret_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"psk_[0-9a-f]{12}_[\w-]{43}", key) for key in keys)
    assert all(hint_of(key) == key[:16] for key in keys)


@pytest.mark.parametrize("text", ["", "psk_", "sk-abc", "psk_3f9a1c2b7d04_short", "x" * 10_000, "psk_é", "\ud800"])
def test_what_is_no_key_is_nobody(store: Store, text: str) -> None:
    assert hint_of(text) is None
    assert store.find_key(text) is None


def test_a_key_finds_its_row_and_the_database_holds_only_its_hash(store: Store) -> None:
    row, key = store.create_key(NewKey("tonight's run", owner="alice"))
    found = store.find_key(key)
    assert found is not None
    assert (found.id, found.owner, found.scopes) == (row.id, "alice", list(USUAL_SCOPES))
    with store.engine.connect().execution_options(writes=False) as connection:
        stored = str(connection.execute(sa.text("SELECT * FROM api_keys")).mappings().one())
    assert hashlib.sha256(key.encode()).hexdigest() in stored
    assert key[17:] not in stored


def test_a_key_with_the_right_beginning_and_another_secret_is_nobody(store: Store) -> None:
    _, key = store.create_key(NewKey("a key"))
    forged = key[:-1] + ("A" if key[-1] != "A" else "B")
    assert hint_of(forged) == hint_of(key)
    assert store.find_key(forged) is None
    assert not is_same(forged, hashlib.sha256(key.encode()).hexdigest())


def test_without_an_owner_a_key_has_one_of_its_own(store: Store) -> None:
    owners = {store.create_key(NewKey("a key"))[0].owner for _ in range(2)}
    assert len(owners) == 2


def test_a_key_ends_at_its_time_or_when_it_is_revoked(store: Store, clock: Clock) -> None:
    _, short = store.create_key(NewKey("short", expires_in_seconds=60))
    long_row, long = store.create_key(NewKey("long"))
    clock.move(59.9)
    assert store.find_key(short) is not None
    clock.move(0.1)
    assert store.find_key(short) is None
    assert store.any_key(alive=True)
    assert store.revoke_key(long_row.hint).revoked_at == clock.now
    assert store.find_key(long) is None
    assert (store.any_key(alive=True), store.any_key(alive=False)) == (False, True)


def test_revoking_twice_keeps_the_first_time(store: Store, clock: Clock) -> None:
    row, _ = store.create_key(NewKey("a key"))
    first = store.revoke_key(row.id).revoked_at
    clock.move(10)
    assert store.revoke_key(row.id).revoked_at == first


def test_rotation_makes_the_same_key_anew_and_gives_the_old_one_a_while(store: Store, clock: Clock) -> None:
    quota = Quota(queued_tokens=5, open_batches=2)
    new = NewKey("a key", "alice", (KeyScope.READ,), 3600.0, requests_per_minute=7, quota=quota)
    old_row, old = store.create_key(new)
    clock.move(1800)
    row, key = store.rotate_key(old_row.id, 60.0)
    same = ("name", "owner", "scopes", "requests_per_minute", "queued_tokens", "open_batches", "batch_lines")
    assert [getattr(row, name) for name in same] == [getattr(old_row, name) for name in same]
    assert row.expires_at is not None
    assert (row.expires_at - clock.now).total_seconds() == 3600.0
    assert store.find_key(old) is not None
    clock.move(60)
    assert store.find_key(old) is None
    assert store.find_key(key) is not None


def test_rotation_without_grace_ends_the_old_key_at_once_and_never_prolongs_it(store: Store) -> None:
    row, old = store.create_key(NewKey("a key", expires_in_seconds=10.0))
    store.rotate_key(row.id, 3600.0)
    (kept,) = [key for key in store.list_keys() if key.id == row.id]
    assert kept.expires_at == row.expires_at
    store.rotate_key(row.id, 0.0)
    assert store.find_key(old) is None
    with pytest.raises(InvalidRequest, match="ended already"):
        store.rotate_key(row.id, 0.0)


def test_only_a_key_that_has_ended_can_be_forgotten(store: Store) -> None:
    row, _ = store.create_key(NewKey("a key"))
    with pytest.raises(InvalidRequest, match="revoke it first"):
        store.forget_key(row.id)
    store.revoke_key(row.id)
    store.forget_key(row.id)
    assert store.list_keys() == []
    with pytest.raises(NotFound):
        store.forget_key(row.id)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"owner": ""}, "owner"),
        ({"owner": "-x"}, "owner"),
        ({"owner": "x" * 65}, "owner"),
        ({"scopes": ()}, "scopes"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"quota": Quota(queued_tokens=2**31)}, "queued_tokens"),
        ({"expires_in_seconds": 1e20}, "expires"),
    ],
)
def test_a_key_that_cannot_be_is_refused_by_name(store: Store, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        store.create_key(NewKey(**{"name": "a key", **changes}))
    assert refused.value.param == param
    assert store.list_keys() == []


def test_scopes_are_read_by_name() -> None:
    assert read_scopes(["metrics", "jobs:read", "metrics"]) == (KeyScope.METRICS, KeyScope.READ)
    with pytest.raises(InvalidRequest, match="'everything' is none of jobs:read"):
        read_scopes(["everything"])
