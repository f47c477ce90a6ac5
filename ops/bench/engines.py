"""Tokens a second of the engine, and of the high-level `Llama` run one job after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.bench.workload import CONTEXT_TOKENS, END_TOKENS, REPEAT_PENALTY, Work
from worker.engine.engine import Engine
from worker.engine.generation import Request, Sampling
from worker.engine.model import Model, ModelOptions


@dataclass(frozen=True, slots=True)
class Rate:
    """Completion tokens made in `seconds` of wall time, prefill included."""

    num_tokens: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.num_tokens / self.seconds


def engine_rate(path: Path, work: Sequence[Work], slots: int, *, sampling_threads: int) -> Rate:
    """Run `work` through the bare engine with `slots` slots: no queue, no database, text handed to nobody."""
    model = Model.load(path, ModelOptions(slots=slots, reserve_slots=0, context_tokens=CONTEXT_TOKENS))
    engine = Engine(model, sampling_threads=sampling_threads)
    engine.start()
    requests = [_request(model, job) for job in work]
    started = time.perf_counter()
    generations = [engine.submit(request) for request in requests]
    completions = [generation.wait() for generation in generations]
    seconds = time.perf_counter() - started
    engine.stop()
    model.close()
    return Rate(sum(len(completion.token_ids) for completion in completions if completion), seconds)


def one_by_one_rate(path: Path, work: Sequence[Work]) -> Rate:
    """Run `work` on llama-cpp-python's high-level `Llama`, one job after another, with the same sampling."""
    import llama_cpp

    llama = llama_cpp.Llama(str(path), n_ctx=CONTEXT_TOKENS, flash_attn=True, verbose=False)
    started = time.perf_counter()
    num_tokens = 0
    for job in work:
        result = llama.create_completion(
            job.prompt, max_tokens=job.max_tokens, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0,
            repeat_penalty=REPEAT_PENALTY, seed=job.seed, logit_bias=dict.fromkeys(END_TOKENS, -100.0),
        )  # fmt: skip
        num_tokens += result["usage"]["completion_tokens"]
    seconds = time.perf_counter() - started
    llama.close()
    return Rate(num_tokens, seconds)


def _request(model: Model, job: Work) -> Request:
    sampling = Sampling(seed=job.seed, repeat_penalty=REPEAT_PENALTY, logit_bias=dict.fromkeys(END_TOKENS, -100.0))
    prompt = model.vocabulary.encode_text(job.prompt)
    return Request(str(job.seed), prompt, sampling, job.max_tokens, interactive=False)
