"""The same call twice makes one thing: by a caller's key, and by a client's own silent retry."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from jobs.errors import IdempotencyConflict
from jobs.records import NewFile
from jobs.store import Store
from jobs.tables import IdempotencyKey
from tests.jobs.batch_support import make_file, new_batch
from tests.jobs.support import Clock, make_job

NEW_FILE = NewFile("batch", "in.jsonl", 1, [("a", 1)])


def make(store: Store, kind: str, **call: Any) -> tuple[str, bool]:
    """Create one of the kind; its id, and whether an earlier call had made it."""
    if kind == "file":
        filed = store.create_file(NEW_FILE, **call)
        return filed.id, filed.replayed
    if kind == "batch":
        batch, replayed = store.create_batch(new_batch(make_file(store, 1, owner=call.get("owner", ""))), **call)
        return batch.id, replayed
    made = store.submit([make_job()], **call)
    return made.ids[0], made.replayed


KINDS = ["job", "file", "batch"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_makes_one_object(store: Store, kind: str) -> None:
    first, replayed = make(store, kind, idempotency_key="k", body_sha256="a")
    assert not replayed
    assert make(store, kind, idempotency_key="k", body_sha256="a") == (first, True)
    assert make(store, kind, idempotency_key="k", body_sha256="a", owner="you")[0] != first
    with pytest.raises(IdempotencyConflict):
        make(store, kind, idempotency_key="k", body_sha256="b")
    assert store.audit() == []


def test_kinds_keep_their_keys_apart(store: Store) -> None:
    answers = [make(store, kind, idempotency_key="k", body_sha256=kind) for kind in KINDS]
    assert [replayed for _, replayed in answers] == [False] * 3
    assert make(store, "job", idempotency_key="batches:k", body_sha256="x")[1] is False


def test_a_key_as_long_as_the_column_has_room(store: Store) -> None:
    first, _ = make(store, "batch", idempotency_key="k" * 255, body_sha256="a")
    assert make(store, "batch", idempotency_key="k" * 255, body_sha256="a") == (first, True)


def test_a_key_of_older_code_means_its_jobs(store: Store, clock: Clock) -> None:
    old = make(store, "job")[0]
    row = {"owner": "", "key": "k", "body_sha256": "a", "object_ids": [old], "created_at": clock.now}
    with store._writing() as scope:
        scope.connection.execute(sa.insert(IdempotencyKey), [row])
    assert make(store, "job", idempotency_key="k", body_sha256="a") == (old, True)
    with pytest.raises(IdempotencyConflict):
        make(store, "job", idempotency_key="k", body_sha256="b")
    assert make(store, "file", idempotency_key="k", body_sha256="b")[1] is False


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_retry_finds_what_its_first_call_made(store: Store, clock: Clock, kind: str) -> None:
    first, _ = make(store, kind, body_sha256="a")
    clock.move(599)
    assert make(store, kind, body_sha256="a", silent_retry=True) == (first, True)
    assert make(store, kind, body_sha256="b", silent_retry=True)[1] is False
    assert make(store, kind, body_sha256="a", silent_retry=True, owner="you")[1] is False


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_call_made_on_purpose_makes_another_object(store: Store, kind: str) -> None:
    first, _ = make(store, kind, body_sha256="a")
    second, replayed = make(store, kind, body_sha256="a")
    assert (replayed, second != first) == (False, True)
    assert make(store, kind, body_sha256="a", silent_retry=True) == (second, True)


def test_a_silent_retry_that_comes_late_makes_another_object(store: Store, clock: Clock) -> None:
    first, _ = make(store, "job", body_sha256="a")
    clock.move(601)
    second, replayed = make(store, "job", body_sha256="a", silent_retry=True)
    assert (replayed, second != first) == (False, True)
    assert make(store, "job", body_sha256="a", silent_retry=True) == (second, True)


def test_a_silent_retry_without_a_trace_of_the_first_call_is_the_first_call(store: Store) -> None:
    first, replayed = make(store, "job", body_sha256="a", silent_retry=True)
    assert not replayed
    assert make(store, "job", body_sha256="a", silent_retry=True) == (first, True)
