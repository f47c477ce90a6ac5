"""Replays: what is queued, and what the comparison says."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import InvalidRequest, NotFound
from jobs.records import Failed, Succeeded
from jobs.replay import Told, compare
from jobs.states import Priority, ReplayResult
from jobs.store import Store
from tests.jobs.support import claim, make_job, make_record, submit_one, success

RECIPE = {"model": "demo", "threads": 2, "row_class": "tile"}


def told(*tokens: int, text: str = "text", **recipe: Any) -> Told:
    return Told(text, tokens, RECIPE | recipe)


def test_the_same_tokens_match() -> None:
    assert compare(told(1, 2, 3), told(1, 2, 3)) == {"result": ReplayResult.MATCH}


@pytest.mark.parametrize(
    ("first", "second", "place", "tokens"),
    [((1, 2, 3), (1, 9, 3), 1, [2, 9]), ((1, 2), (1, 2, 3), 2, [None, 3]), ((1,), (), 0, [1, None])],
)
def test_the_first_token_that_differs_is_named(
    first: tuple[int, ...], second: tuple[int, ...], place: int, tokens: list[int | None]
) -> None:
    answer = compare(told(*first, text="a"), told(*second, text="b"))
    assert (answer["result"], answer["first_difference"], answer["tokens"]) == (ReplayResult.DIFFERS, place, tokens)
    assert answer["texts"] == ["a", "b"]


def test_another_recipe_names_its_fields_and_whether_it_mattered() -> None:
    answer = compare(told(1, 2), told(1, 2, threads=4))
    assert answer == {"result": ReplayResult.RECIPE_DIFFERS, "tokens_match": True, "fields": {"threads": [2, 4]}}
    assert compare(told(1, 2), told(3, threads=4))["tokens_match"] is False


def ended(store: Store, job_id: str, **record: Any) -> None:
    store.finish(claim(store, job_id).ref, Succeeded(make_record(**{"recipe": RECIPE, **record})))


def test_a_replay_is_the_same_job_again_in_the_same_row_class(store: Store) -> None:
    first = submit_one(store, prompt="a prompt", parameters={"temperature": 0.5}, seed=11, metadata={"k": "v"})
    ended(store, first)
    again = store.replay(first, priority=Priority.BATCH)
    assert (again.prompt, again.parameters, again.seed) == ("a prompt", {"temperature": 0.5}, 11)
    assert (again.replay_of, again.priority, again.row_class) == (first, Priority.BATCH, "tile")
    assert claim(store, again.id).row_class == "tile"
    assert again.id != first


def test_a_replay_is_pending_until_it_ends_and_then_compares(store: Store) -> None:
    first = submit_one(store)
    ended(store, first, completion_token_ids=[4, 5])
    same, other = store.replay(first), store.replay(first)
    assert store.replay_verdict(same) == {"of": first, "result": ReplayResult.PENDING}
    ended(store, same.id, completion_token_ids=[4, 5])
    ended(store, other.id, completion_token_ids=[4, 6])
    assert store.replay_verdict(store.get(same.id)) == {"of": first, "result": ReplayResult.MATCH}
    answer = store.replay_verdict(store.get(other.id))
    assert answer is not None
    assert (answer["result"], answer["tokens"]) == (ReplayResult.DIFFERS, [5, 6])
    assert store.replay_verdict(store.get(first)) is None
    assert store.audit() == []


def test_a_replay_that_fails_has_nothing_to_compare(store: Store) -> None:
    first = submit_one(store)
    ended(store, first)
    again = store.replay(first)
    store.finish(claim(store, again.id).ref, Failed("broken", "It broke.", retryable=False))
    answer = store.replay_verdict(store.get(again.id))
    assert answer == {"of": first, "result": ReplayResult.UNAVAILABLE}


def test_only_a_job_that_succeeded_can_be_replayed(store: Store) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        store.replay(submit_one(store))
    assert (refusal.value.param, refusal.value.code) == ("id", "not_replayable")


def test_somebody_elses_job_cannot_be_replayed(store: Store) -> None:
    first = store.submit([make_job()], owner="me").ids[0]
    store.finish(claim(store, first).ref, success())
    with pytest.raises(NotFound):
        store.replay(first, owner="you")
    assert store.replay(first, owner="me").owner == "me"
