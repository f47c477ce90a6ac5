"""`system_fingerprint`: the id of the stored recipe, in every answer and in every chunk of every stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai import OpenAI

from jobs.records import recipe_id
from jobs.tables import Generation
from tests.support.system import System

CHAT: Any = [{"role": "user", "content": "Write a haiku about ice hockey"}]
Stored = Callable[[Any], list[Generation]]


def ask(client: OpenAI, kind: str, **options: Any) -> Any:
    if kind == "chat":
        return client.chat.completions.create(model="demo", messages=CHAT, **options)
    return client.completions.create(model="demo", prompt="<|user|>\nWrite a haiku<|end|>\n<|assistant|>\n", **options)


@pytest.mark.parametrize("kind", ["chat", "text"])
def test_an_answer_has_the_id_of_its_recipe(system: System, client: OpenAI, stored: Stored, kind: str) -> None:
    answer = ask(client, kind)
    (generation,) = stored(answer)
    assert answer.system_fingerprint == generation.recipe_id
    assert recipe_id(system.store.get_recipe(generation.recipe_id)) == generation.recipe_id


@pytest.mark.parametrize("kind", ["chat", "text"])
@pytest.mark.parametrize("options", [{}, {"n": 3}, {"max_tokens": 1}, {"exact": False}], ids=str)
def test_every_chunk_has_the_id_of_its_choices_recipe(
    client: OpenAI, stored: Stored, kind: str, options: dict[str, Any]
) -> None:
    wanted = {"include_usage": True}
    extra = {"extra_body": options} if "exact" in options else options
    *chunks, last = ask(client, kind, stream=True, stream_options=wanted, **extra)
    recipes = {c.choices[0].index: stored(c)[0].recipe_id for c in chunks if c.choices[0].finish_reason}
    assert len(recipes) == options.get("n", 1)
    assert all(chunk.system_fingerprint == recipes[chunk.choices[0].index] for chunk in chunks)
    assert last.system_fingerprint == recipes[0]


def test_a_response_has_the_id_of_its_recipe(system: System, client: OpenAI) -> None:
    response: Any = client.responses.create(model="demo", input="Write a haiku")
    generation = system.store.get_generation(response.penstock["job_id"])
    assert generation is not None
    assert response.system_fingerprint == generation.recipe_id
    last: Any = list(client.responses.create(model="demo", input="Write a haiku", stream=True))[-1]
    assert last.response.system_fingerprint == generation.recipe_id
