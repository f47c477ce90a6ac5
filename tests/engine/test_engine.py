"""The engine on a real model: many sequences at once, each as if alone."""

from __future__ import annotations

import itertools
import json
import random
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.conftest import Running
from worker.engine.engine import Engine, EngineStopped
from worker.engine.generation import Completion, Generation, Prompt, Request, RowClass, Sampling, TextDelta
from worker.engine.model import Model, Piece
from worker.engine.sampling import Row

WAIT_SECONDS = 60.0
END_TOKENS = (2, 32000, 32007)
_ids = itertools.count()


def request(key: int = 0, length: int = 12, max_tokens: int = 12, **options: object) -> Request:
    """A request with a random prompt of `length` tokens; what is not named here goes to its sampling."""
    rng = random.Random(key)
    prompt = Prompt((1, *(rng.randrange(300, 30_000) for _ in range(length - 1))))
    own = {name: options.pop(name) for name in list(options) if name in Request.__dataclass_fields__}
    endless = dict.fromkeys(END_TOKENS, -100.0)
    sampling = Sampling(**{"seed": key, "repeat_penalty": 1.2, "logit_bias": endless, **options})  # type: ignore[arg-type]
    return Request(**{"id": str(next(_ids)), "prompt": prompt, "sampling": sampling, "max_tokens": max_tokens, **own})  # type: ignore[arg-type]


def ended(generation: Generation) -> Completion:
    completion = generation.wait(WAIT_SECONDS)
    assert completion is not None, "the generation did not end"
    return completion


def step(engine: Engine, number: int = 1) -> None:
    for _ in range(number):
        engine.step()


def run_all(running: Running, requests: list[Request], **options: object) -> list[Completion]:
    with running(**options) as engine:
        return [ended(generation) for generation in [engine.submit(each) for each in requests]]


@pytest.mark.parametrize("row_class", ["tile", "lone"])
def test_a_sequence_has_the_same_tokens_alone_and_in_any_company(running: Running, row_class: RowClass) -> None:
    lengths = [3, 17, 64, 65, 130, 9]
    mine = [request(seed, lengths[seed % 6], row_class=row_class, interactive=False) for seed in range(12)]
    others = [request(100 + i, 20 + 7 * i, 5 + i, interactive=i % 2 == 0) for i in range(12)]
    alone = [run_all(running, [each])[0].token_ids for each in mine]
    together = [c.token_ids for c in run_all(running, mine)]
    crowd = others[:6] + mine[::-1] + others[6:]
    beside = run_all(running, crowd, sampling_threads=2)
    assert together == alone
    assert [c.token_ids for c in beside[6:18]] == alone[::-1]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_arrivals_cancels_stops_pauses_and_lengths_leave_every_other_sequence_untouched(
    running: Running, data: st.DataObject
) -> None:
    """Lengths below, at and above a block's; beginnings shared; urgent ones that pause others; cells all given back."""
    plan = st.tuples(
        st.integers(0, 4),
        st.sampled_from([1, 2, 20, 64, 65, 120, 130]),
        st.integers(1, 15),
        st.sampled_from(["keep", "keep", "cancel", "stop"]),
        st.booleans(),
    )
    plans = data.draw(st.lists(plan, min_size=1, max_size=36))
    with running() as engine:
        started = []
        for seed, length, max_tokens, fate, urgent in plans:
            stop = ("e", "a") if fate == "stop" else ()
            each = request(seed, length, max_tokens, row_class="tile", interactive=urgent, stop=stop)
            generation = engine.submit(each)
            started.append((each, generation, fate))
            if fate == "cancel":
                generation.cancel()
        completions = [(each, ended(generation), fate) for each, generation, fate in started]
    for each, completion, fate in completions:
        reference = tokens_alone(running, each)
        assert completion.token_ids == reference[: len(completion.token_ids)]
        assert fate != "keep" or len(completion.token_ids) == each.max_tokens


_alone: dict[tuple[int, int], tuple[int, ...]] = {}


def tokens_alone(running: Running, each: Request) -> tuple[int, ...]:
    key = (each.sampling.seed, len(each.prompt.token_ids))
    if key not in _alone:
        longest = request(*key, 15, row_class="tile", interactive=False)
        _alone[key] = run_all(running, [longest])[0].token_ids
    return _alone[key]


def test_the_same_seed_gives_the_same_text_and_another_seed_another(running: Running) -> None:
    one, again, other = run_all(running, [request(5), request(5), request(5, seed=6)])
    assert one.token_ids == again.token_ids
    assert one.token_ids != other.token_ids


def test_text_comes_in_order_and_adds_up_to_the_completion(running: Running) -> None:
    seen: list[TextDelta] = []
    requests = [request(seed, max_tokens=30) for seed in range(6)]
    completions = run_all(running, requests, on_text=seen.extend)
    for each, completion in zip(requests, completions, strict=True):
        mine = [delta for delta in seen if delta.request_id == each.id]
        assert "".join(delta.text for delta in mine) == completion.text
        assert [delta.end for delta in mine] == list(itertools.accumulate(len(delta.text) for delta in mine))


def test_max_tokens_ends_with_length_and_counts_tokens_decoded(running: Running) -> None:
    (completion,) = run_all(running, [request(1, max_tokens=7)])
    assert completion.finish_reason == "length"
    assert len(completion.token_ids) == 7
    assert completion.num_prompt_tokens == 12


def test_a_slot_filled_to_its_last_cell_ends_with_length(model: Model, running: Running) -> None:
    filled = request(1, length=6, max_tokens=model.context_tokens - 6, interactive=False)
    (completion, _) = run_all(running, [filled, request(2, interactive=False)])
    assert len(completion.token_ids) == model.context_tokens - 6


def test_a_stop_string_ends_the_text_before_it(running: Running) -> None:
    (whole,) = run_all(running, [request(3, max_tokens=40)])
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 3]
    (cut,) = run_all(running, [request(3, max_tokens=40, stop=(stop,))])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"


def test_an_end_token_ends_with_stop_and_is_not_part_of_the_completion(running: Running) -> None:
    (completion,) = run_all(running, [request(3, logit_bias={32007: 100.0})])
    assert completion.finish_reason == "stop"
    assert completion.token_ids == ()
    assert completion.text == ""


def test_cancel_comes_within_a_step_and_keeps_the_text_so_far(running: Running) -> None:
    with running(started=False) as engine:
        generation = engine.submit(request(1, max_tokens=200))
        step(engine, 3)
        generation.cancel()
        step(engine)
        completion = generation.wait(0)
    assert completion is not None
    assert completion.finish_reason == "cancelled"
    assert 0 < len(completion.token_ids) < 5


def test_a_cancel_before_admission_ends_at_once(running: Running) -> None:
    with running(started=False) as engine:
        crowd = [engine.submit(request(i, max_tokens=40, interactive=False)) for i in range(16)]
        waiting = engine.submit(request(99, interactive=False))
        waiting.cancel()
        engine.start()
        assert ended(waiting).finish_reason == "cancelled"
        assert all(ended(generation).finish_reason == "length" for generation in crowd)


def test_a_cancel_of_one_that_waits_behind_others_comes_within_a_step(running: Running) -> None:
    with running(started=False) as engine:
        busy = [engine.submit(request(seed, max_tokens=200, interactive=False)) for seed in range(17)]
        behind = engine.submit(request(18, max_tokens=10, interactive=False))
        step(engine, 2)
        behind.cancel()
        step(engine)
        assert ended(behind).finish_reason == "cancelled"
        assert sum(generation.wait(0) is None for generation in busy) == 17


def test_of_a_batch_that_waits_the_longest_request_gets_the_next_slot(running: Running) -> None:
    order: list[str] = []
    with running(started=False, on_text=lambda deltas: order.extend(delta.request_id for delta in deltas)) as engine:
        busy = [engine.submit(request(seed, max_tokens=20, interactive=False)) for seed in range(16)]
        step(engine)
        late = [engine.submit(request(20 + n, max_tokens=n, interactive=False)) for n in (5, 60, 3, 30)]
        engine.start()
        for generation in busy + late:
            ended(generation)
    begun = sorted(late, key=lambda generation: order.index(generation.request.id))
    assert [generation.request.max_tokens for generation in begun] == [60, 30, 5, 3]


def test_a_longer_request_that_comes_while_another_is_admitted_is_neither_lost_nor_run_in_its_place(
    model: Model, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race of the engine's question whose turn it is with a submission on another thread."""
    with running() as engine:
        choose = engine._class_for
        late: list[Generation] = []

        def choose_while_another_comes(asked: Request) -> RowClass | None:
            if not late:
                late.append(engine.submit(request(2, max_tokens=30, interactive=False)))
            return choose(asked)

        monkeypatch.setattr(engine, "_class_for", choose_while_another_comes)
        first = engine.submit(request(1, max_tokens=5, interactive=False))
        assert len(ended(first).token_ids) == 5
        assert len(ended(late[0]).token_ids) == 30


def test_a_deadline_ends_as_expired_with_what_there_is(running: Running) -> None:
    with running() as engine:
        past = engine.submit(request(1, deadline=time.monotonic() - 1))
        soon = engine.submit(request(1, max_tokens=240, deadline=time.monotonic() + 0.05))
        assert ended(past).finish_reason == "expired"
        assert ended(past).token_ids == ()
        assert ended(soon).finish_reason == "expired"


def test_an_interactive_request_finds_a_lane_while_a_batch_fills_every_tile(running: Running) -> None:
    with running(started=False) as engine:
        crowd = [engine.submit(request(i, max_tokens=150, interactive=False)) for i in range(40)]
        step(engine, 3)
        single = engine.submit(request(99, max_tokens=3))
        step(engine, 5)
        assert ended(single).row_class == "lone"
        assert not any(generation.wait(0) for generation in crowd)


def test_the_first_token_of_an_interactive_request_waits_for_nobodys_decode_call(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    decode = model.decode_tiles
    monkeypatch.setattr(model, "decode_tiles", lambda *given: order.append("decode") or decode(*given))
    engine = Engine(model, on_text=lambda deltas: order.extend(delta.request_id for delta in deltas))
    crowd = [engine.submit(request(seed, max_tokens=30, interactive=False)) for seed in range(16)]
    while not order or order[-1] != crowd[-1].request.id:
        engine.step()
    order.clear()
    engine.submit(request(50, interactive=True, id="urgent", row_class="lone"))
    engine.step()
    assert order[:2] == ["urgent", "decode"]
    engine.stop()
    while engine._has_work:
        engine.step()
    for slot in range(model.num_slots):
        model.forget(slot)


def test_greedy_takes_the_likeliest_token_and_its_logprob_says_so(running: Running) -> None:
    (completion,) = run_all(running, [request(4, temperature=0.0, repeat_penalty=1.0, num_logprobs=3)])
    assert completion.logprobs is not None
    assert len(completion.logprobs) == len(completion.token_ids)
    for token, entry in zip(completion.token_ids, completion.logprobs, strict=True):
        assert entry.token_id == token == entry.top[0][0]
        assert entry.logprob == entry.top[0][2] >= entry.top[1][2] >= entry.top[2][2]


def test_logprobs_equal_a_direct_computation(model: Model, running: Running) -> None:
    each = request(4, num_logprobs=0, row_class="lone", max_tokens=1)
    (completion,) = run_all(running, [each])
    row = model.prefill([Piece(0, 0, each.prompt.token_ids, 16)], output_last=True)
    assert row is not None
    logits = row.logits.astype(np.float64)
    model.forget(0)
    assert completion.logprobs is not None
    expected = logits[completion.token_ids[0]] - np.log(np.exp(logits).sum())
    assert completion.logprobs[0].logprob == pytest.approx(expected, abs=1e-9)


def test_top_k_of_one_is_greedy_whatever_the_seed(running: Running) -> None:
    kinds = [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}]
    results = [run_all(running, [request(4, **kind)])[0].token_ids for kind in kinds]
    assert results.count(results[0]) == len(kinds)


def test_a_banned_token_never_comes(running: Running) -> None:
    (free,) = run_all(running, [request(4, temperature=0.0)])
    (banned,) = run_all(running, [request(4, temperature=0.0, logit_bias={free.token_ids[0]: -100.0})])
    assert free.token_ids[0] not in banned.token_ids


def test_the_repeat_penalty_is_llama_cpps(model: Model) -> None:
    import llama_cpp

    prompt = [5, 9, 9, 300, 7]
    logits = np.random.default_rng(0).normal(size=model.vocabulary.size).astype(np.float32) * 4
    sampler = model.sampler(Sampling(seed=1, temperature=0.0, repeat_penalty=1.7, repeat_last_n=4), prompt)
    data = (llama_cpp.llama_token_data * len(logits))(*((i, float(x), 0.0) for i, x in enumerate(logits)))
    array = llama_cpp.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
    theirs = llama_cpp.llama_sampler_init_penalties(model.vocabulary.size, 4, 1.7, 0.0, 0.0)
    for token in prompt:
        llama_cpp.llama_sampler_accept(theirs, token)
    llama_cpp.llama_sampler_apply(theirs, array)
    mine = logits.copy()
    sampler._adjust(mine)
    llama_cpp.llama_sampler_free(theirs)
    sampler.close()
    assert np.array_equal(mine, np.array([entry.logit for entry in data], dtype=np.float32))
    assert not np.array_equal(mine, logits)


def test_sampling_follows_the_models_distribution(model: Model) -> None:
    """20,000 draws over eight likely tokens: chi-square below the 99.9 % quantile for 7 degrees of freedom."""
    logits = np.full(model.vocabulary.size, -40.0, dtype=np.float32)
    logits[100:108] = np.log(np.arange(1, 9))
    expected = np.arange(1, 9) / 36
    sampler = model.sampler(Sampling(seed=7), ())
    draws = np.bincount([sampler.sample(Row(logits)) - 100 for _ in range(20_000)], minlength=8)
    sampler.close()
    chi_square = ((draws - 20_000 * expected) ** 2 / (20_000 * expected)).sum()
    assert chi_square < 24.3


def test_a_grammar_admits_only_what_the_schema_says(model: Model, running: Running) -> None:
    schema = {
        "type": "object",
        "properties": {"goals": {"type": "integer", "maximum": 99, "minimum": 0}, "won": {"type": "boolean"}},
        "required": ["goals", "won"],
        "additionalProperties": False,
    }
    grammar = model.vocabulary.grammar(schema)
    completions = run_all(running, [request(i, max_tokens=80, grammar=grammar) for i in range(4)])
    for completion in completions:
        value = json.loads(completion.text)
        assert set(value) == {"goals", "won"}
        assert isinstance(value["won"], bool)


def test_a_request_that_cannot_fit_a_slot_is_refused(model: Model, running: Running) -> None:
    with running() as engine, pytest.raises(ValueError, match=str(model.context_tokens)):
        engine.submit(request(1, length=10, max_tokens=model.context_tokens - 9))


def test_a_drain_lets_what_runs_finish_and_gives_back_what_waits(running: Running) -> None:
    with running(started=False) as engine:
        crowd = [engine.submit(request(i, max_tokens=20, interactive=False)) for i in range(30)]
        step(engine, 3)
        engine.stop(drain_seconds=WAIT_SECONDS)
        engine.start()
        reasons = [ended(generation).finish_reason for generation in crowd]
        assert set(reasons) == {"length", "interrupted"}
        with pytest.raises(EngineStopped):
            engine.submit(request(1))


def test_a_stop_without_a_drain_interrupts_what_runs(running: Running) -> None:
    with running(started=False) as engine:
        generation = engine.submit(request(1, max_tokens=200))
        step(engine, 3)
        engine.stop()
        engine.start()
        assert ended(generation).finish_reason == "interrupted"


def test_a_failure_of_the_engine_ends_every_generation(model: Model) -> None:
    def broken(_: list[TextDelta]) -> None:
        raise RuntimeError("listener")

    engine = Engine(model, on_text=broken)
    engine.start()
    crowd = [engine.submit(request(i)) for i in range(30)]
    assert {ended(generation).finish_reason for generation in crowd} == {"failed"}
    assert isinstance(engine.failure, RuntimeError)
    engine.stop()
    with pytest.raises(EngineStopped):
        engine.submit(request(1))
    for slot in range(model.num_slots):
        model.forget(slot)


def test_stats_count_slots_tokens_and_generations(running: Running) -> None:
    with running(details={"model": "tiny"}) as engine:
        ended(engine.submit(request(1, max_tokens=5)))
        stats = engine.stats()
    assert (stats.num_generations, stats.num_completion_tokens) == (1, 5)
    assert stats.tokens_per_second > 0
    assert stats.details["model"] == "tiny"
    assert stats.details["num_prompt_tokens"] == 12


@pytest.mark.parametrize("row_class", ["tile", "lone"])
@pytest.mark.parametrize("num_tokens", [1, 7, 19])
def test_a_completion_goes_on_behind_the_tokens_of_an_earlier_run(
    running: Running, row_class: RowClass, num_tokens: int
) -> None:
    """Its text and its tokens begin with theirs, its seed goes on behind the draws they took, and it ends as long."""
    (whole,) = run_all(running, [request(5, 30, 20, row_class=row_class, temperature=1.0)])
    taken = whole.token_ids[:num_tokens]
    (rest,) = run_all(running, [request(5, 30, 20, row_class=row_class, temperature=1.0, taken_over=taken)])
    assert rest.token_ids[:num_tokens] == taken
    assert (len(rest.token_ids), rest.finish_reason, rest.num_prompt_tokens) == (20, "length", 30)


def test_a_completion_that_was_at_its_end_ends_at_once(running: Running) -> None:
    (whole,) = run_all(running, [request(6, 30, 9)])
    (again,) = run_all(running, [request(6, 30, 9, taken_over=whole.token_ids)])
    assert (again.token_ids, again.text, again.finish_reason) == (whole.token_ids, whole.text, "length")


def test_the_text_taken_over_is_told_again_from_its_first_character(running: Running) -> None:
    """A reader of the attempt that is gone finds its place in it."""
    (whole,) = run_all(running, [request(7, 12, 12)])
    told: list[TextDelta] = []
    with running(on_text=told.extend) as engine:
        end = ended(engine.submit(request(7, 12, 12, taken_over=whole.token_ids[:6])))
    assert "".join(delta.text for delta in told) == end.text
    assert tuple(token for delta in told for token in delta.token_ids) == end.token_ids
