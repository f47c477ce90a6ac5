"""Proven reuse: which stored generation a job may be answered with."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.parameters import Parameters
from jobs.records import Failed, Succeeded, recipe_id
from jobs.reuse import fingerprint
from jobs.store import Store
from tests.jobs.support import claim, make_job, make_record, submit_one

RECIPE = {"model": "demo", "row_class": "tile", "exact": True}
HERE = [recipe_id(RECIPE)]


def submitted(store: Store, owner: str = "ann") -> str:
    return store.submit([make_job()], owner=owner).ids[0]


def ended(store: Store, owner: str = "ann", **record: Any) -> str:
    job_id = submitted(store, owner)
    given = {"recipe": RECIPE, "fingerprint": "f" * 32, "completion_token_ids": [4, 5], **record}
    store.finish(claim(store, job_id).ref, Succeeded(make_record(**given)))
    return job_id


def test_a_generation_with_the_same_fingerprint_and_recipe_is_found(store: Store) -> None:
    first = ended(store, logprobs=[{"token_id": 4}])
    found = store.reusable(submitted(store), "f" * 32, HERE)
    assert found is not None
    assert (found.completion_token_ids, found.recipe, found.logprobs) == ([4, 5], RECIPE, [{"token_id": 4}])
    assert found.continuity == {"mode": "reused", "of": first}
    assert found.fingerprint is None, "an answer from the store answers no others"


@pytest.mark.parametrize(
    ("record", "asked"),
    [
        ({"fingerprint": "e" * 32}, {}),
        ({"fingerprint": None}, {}),
        ({"recipe": {**RECIPE, "threads": 3}}, {}),
        ({}, {"owner": "bob"}),
    ],
)
def test_anything_else_is_not(store: Store, record: dict[str, Any], asked: dict[str, str]) -> None:
    ended(store, **record)
    assert store.reusable(submitted(store, **asked), "f" * 32, HERE) is None


def test_a_replay_never_takes_the_stored_text_for_its_own(store: Store) -> None:
    first = submit_one(store, parameters={"reuse": True, "top_k": 3})
    store.finish(claim(store, first).ref, Succeeded(make_record(recipe=RECIPE)))
    assert store.replay(first).parameters == {"top_k": 3}


def test_what_failed_is_not_found(store: Store) -> None:
    job_id = submitted(store)
    store.finish(claim(store, job_id).ref, Failed("broken", "It broke.", retryable=False))
    assert store.reusable(submitted(store), "f" * 32, HERE) is None


def test_the_fingerprint_covers_all_that_decides_a_text_and_nothing_else() -> None:
    base = fingerprint([1, 2], Parameters(), 7)
    assert fingerprint([1, 2], Parameters(exact=True, reuse=True, seed=7), 7) == base
    others = [
        fingerprint([1, 3], Parameters(), 7),
        fingerprint([1, 2], Parameters(), 8),
        *(
            fingerprint([1, 2], Parameters(**{name: value}), 7)
            for name, value in (
                ("temperature", 0.5),
                ("max_tokens", 5),
                ("top_p", 0.5),
                ("top_k", 5),
                ("min_p", 0.1),
                ("repeat_penalty", 1.0),
                ("repeat_last_n", 5),
                ("stop", ("a",)),
                ("logit_bias", {"5": 1.0}),
                ("logprobs", 3),
                ("response_format", {"type": "json_object"}),
            )
        ),
    ]
    assert len({base, *others}) == 1 + len(others)
    assert len(others) - 2 == len(Parameters.model_fields) - 3, (
        "a new parameter decides the text or does not: say which"
    )
