"""The demo model in every kind of company: joining, leaving, pausing, shared beginnings, preemption; one text each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.test_engine import END_TOKENS, WAIT_SECONDS, _ids, ended
from worker.engine.engine import Engine
from worker.engine.generation import Generation, Request, RowClass, Sampling, TextDelta
from worker.engine.model import Model, ModelOptions

NUM_SLOTS = 16
SHARED = " ".join(["Write of ice and of the river and of the lamp."] * 14)
"""Two blocks and more that prompts begin with together."""


@pytest.fixture(scope="module")
def demo(demo_model_path: Path) -> Iterator[Model]:
    loaded = Model.load(demo_model_path, ModelOptions(slots=NUM_SLOTS, reserve_slots=2, context_tokens=384))
    yield loaded
    loaded.close()


def asked(demo: Model, key: int, row_class: RowClass | None = "tile", *, interactive: bool = False) -> Request:
    """Short and long prompts, some with one beginning; drawn and greedy; with and without a penalty."""
    text = f"{SHARED if key % 3 == 0 else ''} Write a haiku about {key} lamps"
    prompt = demo.vocabulary.encode_chat([{"role": "user", "content": text}])
    sampling = Sampling(
        seed=key,
        temperature=(1.0, 0.0, 1.3)[key % 3],
        repeat_penalty=(1.2, 1.0)[key % 2],
        logit_bias=dict.fromkeys(END_TOKENS, -100.0),
    )
    return Request(str(next(_ids)), prompt, sampling, 30 + 5 * (key % 8), row_class=row_class, interactive=interactive)


class Speakers:
    """Says when so many requests have begun to speak."""

    def __init__(self, count: int) -> None:
        self._count, self._ids = count, set[str]()
        self.all = threading.Event()

    def __call__(self, deltas: list[TextDelta]) -> None:
        self._ids.update(delta.request_id for delta in deltas)
        if len(self._ids) >= self._count:
            self.all.set()


def alone(demo: Model, request: Request) -> tuple[int, ...]:
    engine = Engine(demo, spare_cell_bytes=0)
    engine.start()
    completion = ended(engine.submit(request))
    engine.stop()
    assert completion.row_class == request.row_class
    return completion.token_ids


def test_exact_texts_survive_every_kind_of_company(demo: Model) -> None:
    """Sixteen lines fill the tiles; others wait to join; single jobs take the lanes and pause lines; some leave."""
    lines = [asked(demo, key) for key in range(20)]
    singles = [asked(demo, 100 + key, "tile" if key < 5 else "lone", interactive=True) for key in range(8)]
    leavers = [asked(demo, 200 + key, None, interactive=key % 2 == 0) for key in range(8)]
    expected = [alone(demo, each) for each in (*lines, *singles)]
    speakers = Speakers(NUM_SLOTS)
    engine = Engine(demo, on_text=speakers)
    engine.start()
    running: list[Generation] = [engine.submit(each) for each in lines]
    assert speakers.all.wait(WAIT_SECONDS)
    running += [engine.submit(each) for each in singles]
    leaving = [engine.submit(each) for each in leavers]
    for generation in leaving[::2]:
        generation.cancel()
    found = [ended(generation).token_ids for generation in running]
    details = engine.stats().details
    engine.stop()
    assert found == expected
    assert details["num_pauses"] >= 3, "single jobs found no slot"
    assert details["num_reused_tokens"] >= 5 * 128, "beginnings were shared"
    assert [demo.num_cells(slot) for slot in range(demo.num_slots)] == [0] * demo.num_slots


def test_an_exact_prompt_has_no_company_where_that_is_not_proven(demo: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not to be exact has, and says so."""
    monkeypatch.setattr(demo, "blocks_are_exact", False)
    exact = [asked(demo, key) for key in range(6)]
    expected = [alone(demo, each) for each in exact]
    others = [replace(asked(demo, 300 + key), exact=False) for key in range(6)]
    engine = Engine(demo)
    engine.start()
    running = [engine.submit(each) for each in (*others, *exact)]
    completions = [ended(generation) for generation in running]
    engine.stop()
    assert [completion.isolated for completion in completions] == [False] * 6 + [True] * 6
    assert [completion.token_ids for completion in completions[6:]] == expected
