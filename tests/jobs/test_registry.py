"""Models, workers, offices, health."""

from __future__ import annotations

import pytest

from jobs.errors import ModelUnknown
from jobs.records import recipe_id
from jobs.store import Store
from tests.jobs.support import Clock


def test_an_announced_model_comes_back_whole(store: Store) -> None:
    recipe = {"file": "abc", "threads": 2}
    store.announce_model("demo", "a" * 64, 512, b"GGUF" * 100, recipe, {"size": 1})
    model = store.model("demo")
    assert (model.context_tokens, model.vocabulary_gguf, model.details) == (512, b"GGUF" * 100, {"size": 1})
    assert model.recipe_id == recipe_id(recipe)
    assert len(model.vocabulary) < 100


def test_the_newest_announcement_counts(store: Store) -> None:
    store.announce_model("demo", "a" * 64, 512, b"GGUF")
    store.announce_model("demo", "b" * 64, 1024, b"GGUF2", {"x": 1})
    assert store.model("demo").context_tokens == 1024
    assert [model.name for model in store.list_models()] == ["demo"]


def test_a_model_that_nobody_announced_is_unknown(store: Store) -> None:
    with pytest.raises(ModelUnknown):
        store.model("demo")


def test_a_silent_worker_is_no_longer_alive(store: Store, clock: Clock) -> None:
    store.heartbeat("one", "demo", 16, 3, 12.5, {"pid": 1})
    clock.move(20)
    store.heartbeat("two", "demo", 16, 0, 0.0)
    assert [worker.name for worker in store.list_workers(15)] == ["two"]
    assert [(worker.name, worker.busy_slots) for worker in store.list_workers()] == [("one", 3), ("two", 0)]
    store.heartbeat("one", "demo", 16, 4, 12.5)
    assert [worker.busy_slots for worker in store.list_workers(15)] == [4, 0]


def test_an_office_has_one_holder_until_it_falls_silent(store: Store, clock: Clock) -> None:
    assert store.hold_office("dispatcher", "a")
    assert not store.hold_office("dispatcher", "b")
    assert store.hold_office("other", "b")
    term = store.settings.leader_seconds
    clock.move(term - 1)
    assert store.hold_office("dispatcher", "a")
    clock.move(term - 1)
    assert not store.hold_office("dispatcher", "b")
    clock.move(1)
    assert store.hold_office("dispatcher", "b")
    assert not store.hold_office("dispatcher", "a")


def test_an_office_that_was_left_is_free_at_once(store: Store) -> None:
    store.hold_office("dispatcher", "a")
    store.resign_office("dispatcher", "b")
    assert not store.hold_office("dispatcher", "b")
    store.resign_office("dispatcher", "a")
    assert store.hold_office("dispatcher", "b")


def test_a_healthy_database_answers_a_ping(store: Store) -> None:
    store.ping()
