"""Shared beginnings and pauses: cells that are copied are the cells that would have been computed, bit for bit."""

from __future__ import annotations

import random
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.engine.conftest import Running
from tests.engine.test_engine import END_TOKENS, WAIT_SECONDS, _ids, ended, request, run_all
from worker.engine.cells import Bytes, UnknownLayout, cut, join
from worker.engine.engine import Engine
from worker.engine.generation import Completion, Generation, Prompt, Request, RowClass, Sampling, TextDelta
from worker.engine.model import Model, ModelOptions, Piece
from worker.engine.prefix import PrefixStore, block_keys


def tokens(key: int, length: int) -> tuple[int, ...]:
    rng = random.Random(key)
    return tuple(rng.randrange(300, 30_000) for _ in range(length))


SYSTEM = tokens(1000, 150)


def with_system(key: int, own: int = 20, max_tokens: int = 8, row_class: RowClass | None = "tile") -> Request:
    """A request that begins with the same 150 tokens as all others made here."""
    sampling = Sampling(seed=key, logit_bias=dict.fromkeys(END_TOKENS, -100.0))
    prompt = Prompt(SYSTEM + tokens(key, own))
    return Request(str(next(_ids)), prompt, sampling, max_tokens, row_class=row_class, interactive=False)


def first_logits(model: Model, prompt: tuple[int, ...], slot: int, taken: Bytes | None = None, num: int = 0) -> Bytes:
    """Logits after `prompt`, its first `num` tokens from saved cells, the rest prefilled a block a call."""
    if taken is not None:
        model.load_cells(slot, taken)
    row = None
    for start in range(num, len(prompt), 64):
        part = prompt[start : start + 64]
        last = start + 64 >= len(prompt)
        row = model.prefill([Piece(slot, start, part, -(-len(part) // 16) * 16)], output_last=last)
    assert row is not None
    logits = row.logits.copy()
    model.forget(slot)
    return logits.view(np.uint8)


@pytest.mark.parametrize("length", [65, 129, 150, 200])
def test_logits_after_a_shared_beginning_are_bitwise_those_without(model: Model, length: int) -> None:
    prompt = tokens(7, length)
    expected = first_logits(model, prompt, 0)
    num_blocks = (length - 1) // 64
    other = prompt[: num_blocks * 64] + tokens(8, 30)
    for start in range(0, len(other), 64):
        part = other[start : start + 64]
        model.prefill([Piece(5, start, part, -(-len(part) // 16) * 16)])
    layout, blocks = cut(model.save(5), 64, 0, num_blocks)
    model.forget(5)
    assert np.array_equal(first_logits(model, prompt, 9, join(layout, blocks), num_blocks * 64), expected)


def test_blocks_put_together_are_the_saved_sequence(model: Model) -> None:
    model.prefill([Piece(0, 0, tokens(1, 64), 64)])
    model.prefill([Piece(0, 64, tokens(2, 64), 64)])
    state = model.save(0)
    model.forget(0)
    assert np.array_equal(join(*cut(state, 64, 0, 2)), state)


def test_a_state_of_another_kind_is_not_cut() -> None:
    with pytest.raises(UnknownLayout):
        cut(np.zeros(100, dtype=np.uint8), 64, 0, 1)


@pytest.mark.parametrize("row_class", ["tile", "lone"])
def test_a_shared_beginning_changes_no_token_and_is_computed_once(running: Running, row_class: RowClass) -> None:
    requests = [with_system(key, own=5 + 9 * key, row_class=row_class) for key in range(10)]
    alone = [run_all(running, [each], spare_cell_bytes=0)[0].token_ids for each in requests]
    with running() as engine:
        shared = [ended(generation).token_ids for generation in [engine.submit(each) for each in requests]]
        details = engine.stats().details
    assert shared == alone
    assert details["num_reused_tokens"] >= 9 * 128
    assert details["prefix_bytes"] > 0


def test_a_beginning_that_comes_again_later_is_kept_from_the_second_time_on(model: Model, running: Running) -> None:
    block = model.options.tile_rows if model.cuts_are_free else model.options.block_tokens
    common = len(SYSTEM) // block * block
    reused = []
    with running() as engine:
        for key in range(4):
            ended(engine.submit(with_system(key)))
            reused.append(engine.stats().details["num_reused_tokens"])
    assert reused == [0, 0, common, 2 * common]


def test_a_beginning_is_nobodys_but_its_realms(running: Running) -> None:
    """Neither what is kept nor what runs just now; and where nothing is shared no token is another."""
    ones, others = ([replace(with_system(key), realm=realm) for key in range(3)] for realm in ("one", "other"))
    alone = [run_all(running, [each], spare_cell_bytes=0)[0].token_ids for each in ones]
    reused = []
    with running() as engine:
        for requests in (ones, others[:1], [*ones[:1], *others[1:2]], others[2:]):
            done = [ended(generation) for generation in [engine.submit(each) for each in requests]]
            reused.append(engine.stats().details["num_reused_tokens"])
            if requests is ones:
                assert [completion.token_ids for completion in done] == alone
    assert reused[0] > 0
    assert reused[1] == reused[0], "the other realm begins with nothing"
    assert reused[2] > reused[1]
    with running() as engine:
        for generation in [engine.submit(each) for each in (ones[0], others[0])]:
            ended(generation)
        assert engine.stats().details["num_reused_tokens"] == 0


def test_an_interactive_request_does_not_wait_behind_others_for_its_beginning(running: Running) -> None:
    """What it needs is computed by a batch line admitted before: that line's prefill goes first now."""
    others = [request(key, length=200, max_tokens=3, interactive=False) for key in range(12)]
    mine = Request("mine", Prompt(SYSTEM + tokens(5, 10)), Sampling(seed=5), 3, row_class="lone")
    with running() as engine:
        for each in [*others, with_system(99)]:
            engine.submit(each)
        shared = ended(engine.submit(mine))
    alone = run_all(running, [mine])[0]
    assert shared.token_ids == alone.token_ids


def test_what_has_come_is_remembered_and_takes_no_more_room_for_it() -> None:
    store = PrefixStore(1)
    tracemalloc.start()
    try:
        for key in range(2000):
            assert store.note(block_keys(tokens(key, 640), 16)) == 0
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2**20
    assert store.note(block_keys(tokens(1999, 320) + tokens(5, 320), 16)) == 20


def test_the_store_never_holds_more_than_it_may(model: Model) -> None:
    store = PrefixStore(1)
    chains = [tokens(key, 128) for key in range(5)]
    sizes = []
    for chain in chains:
        model.prefill([Piece(0, 0, chain[:64], 64)])
        model.prefill([Piece(0, 64, chain[64:], 64)])
        state = model.save(0)
        model.forget(0)
        if not sizes:
            _, blocks = cut(state, 64, 0, 2)
            store.max_bytes = 5 * blocks[0].num_bytes
        store.keep(block_keys(chain, 64), state, 64)
        sizes.append(store.num_bytes)
    assert max(sizes) <= store.max_bytes
    assert store.counts.num_evicted_blocks == 5
    assert [store.num_kept(block_keys(chain, 64)) for chain in chains] == [0, 0, 1, 2, 2]
    store.limit_to(0)
    assert (store.num_bytes, len(store)) == (0, 0)


def test_keys_stand_for_all_tokens_before_them() -> None:
    one, other = block_keys(tokens(1, 130), 64), block_keys(tokens(2, 64) + tokens(1, 130)[64:], 64)
    assert len(one) == 2
    assert one == block_keys(tokens(1, 190)[:190], 64)[:2]
    assert one[1] != other[1]
    assert one != block_keys(tokens(1, 130), 64, b"alone")


LINES = [request(i, 10 + 9 * i, 60, interactive=False) for i in range(16)]


@pytest.fixture
def full(running: Running) -> Iterator[tuple[Engine, list[Generation]]]:
    """An engine, to be stepped or started, whose tile slots are all taken by batch lines that decode."""
    with running(started=False) as engine:
        lines = [engine.submit(each) for each in LINES]
        engine.step()
        while not all(sequence.begun for sequence in engine._slots):
            engine.step()
        assert engine.stats().busy_slots == len(lines)
        yield engine, lines


def test_interactive_requests_pause_batch_lines_and_no_token_changes(
    full: tuple[Engine, list[Generation]],
) -> None:
    engine, batch = full
    singles = [engine.submit(request(100 + i, 12, 20)) for i in range(7)]
    while not all(single.wait(0) for single in singles):
        engine.step()
    assert [ended(single).row_class for single in singles].count("tile") >= 5
    assert not all(generation.wait(0) for generation in batch)
    engine.start()
    paused = [ended(generation).token_ids for generation in batch]
    assert engine.stats().details["num_pauses"] >= 5
    assert engine.stats().details["paused"] == 0
    unpaused = [ended(engine.submit(each)).token_ids for each in LINES]
    assert paused == unpaused


def test_a_paused_line_can_be_cancelled(full: tuple[Engine, list[Generation]]) -> None:
    engine, batch = full
    singles = [engine.submit(request(100 + i, 12, 40)) for i in range(6)]
    while not engine.stats().details["paused"]:
        engine.step()
    for generation in batch:
        generation.cancel()
    engine.start()
    assert {ended(generation).finish_reason for generation in batch} == {"cancelled"}
    assert {ended(single).finish_reason for single in singles} == {"length"}


def test_a_stop_interrupts_paused_lines_too(full: tuple[Engine, list[Generation]]) -> None:
    engine, batch = full
    for i in range(6):
        engine.submit(request(100 + i, 12, 40))
    while not engine.stats().details["paused"]:
        engine.step()
    engine.stop()
    engine.start()
    assert {ended(generation).finish_reason for generation in batch} == {"interrupted"}


def test_without_memory_for_its_cells_nothing_is_paused(running: Running) -> None:
    have_cells = threading.Event()
    speakers: set[str] = set()

    def listen(deltas: list[TextDelta]) -> None:
        speakers.update(delta.request_id for delta in deltas)
        if len(speakers) == 16:
            have_cells.set()

    with running(on_text=listen, spare_cell_bytes=0) as engine:
        batch = [engine.submit(request(i, 20, 60, interactive=False)) for i in range(16)]
        assert have_cells.wait(WAIT_SECONDS)
        singles = [engine.submit(request(100 + i, 12, 10)) for i in range(6)]
        for generation in [*batch, *singles]:
            assert ended(generation).finish_reason == "length"
        assert engine.stats().details["num_pauses"] == 0


@pytest.fixture(scope="module")
def wide(tiny_model_path: Path) -> Iterator[Model]:
    """Two tiles."""
    loaded = Model.load(tiny_model_path, ModelOptions(slots=32, reserve_slots=0, context_tokens=256))
    yield loaded
    loaded.close()


@pytest.mark.parametrize("row_class", ["tile", "lone"])
def test_a_short_sequence_makes_way_for_a_long_prompt_and_no_token_changes(model: Model, row_class: RowClass) -> None:
    """Low slots are decoded first: the long one sits there. A lone one is in nobody's way."""
    short = [request(i, 10, 30, interactive=False, row_class="tile") for i in range(15)]
    long = request(40, 160, 20, interactive=False, row_class=row_class)

    def run(some: list[Request]) -> tuple[list[Completion], int]:
        engine = Engine(model)
        generations = []
        for each in some:
            generations.append(engine.submit(each))
            engine.step()
        if len(some) > 1 and row_class == "tile":
            assert engine._slots.at(0).request is long
            assert engine._slots.at(15).request is short[0]
        engine.start()
        completions = [ended(generation) for generation in generations]
        engine.stop()
        return completions, engine.stats().details["num_moves"]

    together, num_moves = run([*short, long])
    assert num_moves == (1 if row_class == "tile" else 0)
    assert [c.token_ids for c in together] == [run([each])[0][0].token_ids for each in [*short, long]]
    assert [model.num_cells(slot) for slot in range(model.num_slots)] == [0] * model.num_slots


def test_the_last_lines_of_two_tiles_move_into_one_and_no_token_changes(wide: Model) -> None:
    requests = [request(i, 10, 80 if i % 4 == 3 else 40, interactive=False) for i in range(32)]

    def run(some: list[Request]) -> tuple[list[Completion], int]:
        """Each has its slot before the next one comes: the long ones stand in both tiles."""
        engine = Engine(wide)
        generations = []
        for each in some:
            generations.append(engine.submit(each))
            engine.step()
        engine.start()
        completions = [ended(generation) for generation in generations]
        engine.stop()
        return completions, engine.stats().details["num_moves"]

    together, num_moves = run(requests)
    assert num_moves >= 4
    assert [c.token_ids for c in together] == [run([each])[0][0].token_ids for each in requests]
    assert [wide.num_cells(slot) for slot in range(wide.num_slots)] == [0] * wide.num_slots
