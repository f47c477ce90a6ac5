"""Contestants that run in this process: the engine, the bare calls it made, and the high-level `Llama`."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import llama_cpp

from ops.bench.workload import END_TOKENS, REPEAT_PENALTY, Work
from worker.engine import attention
from worker.engine.engine import Engine
from worker.engine.generation import Completion, Prompt, Request, Sampling
from worker.engine.model import Model, ModelOptions, Piece, TileRow
from worker.engine.sampling import Row
from worker.engine.sequence import Sequence as Running

Kind = Literal["full", "chain", "greedy"]
"""How tokens are chosen. `full`: all of the vocabulary, with a repeat penalty, as Penstock does unless told otherwise.
`chain`: llama-server's own knobs (top_k 40, top_p 0.95, min_p 0.05, temperature 0.8). `greedy`: the likeliest."""

KNOBS: dict[Kind, dict[str, float | int]] = {
    "full": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": REPEAT_PENALTY},
    "chain": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.0},
    "greedy": {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0},
}


@dataclass(frozen=True, slots=True)
class Rate:
    """Completion tokens made in `seconds` of wall time, prefill included."""

    num_tokens: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.num_tokens / self.seconds


@dataclass(frozen=True, slots=True)
class EngineRun:
    """One run of a workload, times in seconds: `first_token` from submission, `gap` between two tokens of a job."""

    rate: Rate
    first_token_p50: float
    gap_p50: float
    gap_p99: float
    gap_max: float
    details: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        own = asdict(self)
        return {"tokens_per_second": self.rate.per_second, **{k: v for k, v in own.items() if k != "rate"}}


class Recorder(Model):
    """A model that notes every call that was made of it, so that the same calls can be made again by themselves."""

    def record(self) -> list[tuple[str, tuple[Any, ...]]]:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        return self.calls

    def prefill(self, pieces: Sequence[Piece], *, output_last: bool = False) -> Any:
        self._note("prefill", tuple(pieces), output_last)
        return super().prefill(pieces, output_last=output_last)

    def decode_lone(self, slot: int, token: int, position: int) -> Any:
        self._note("decode_lone", slot, token, position)
        return super().decode_lone(slot, token, position)

    def decode_tiles(self, rows: Sequence[TileRow], first_slot: int) -> Any:
        self._note("decode_tiles", tuple(rows), first_slot)
        return super().decode_tiles(rows, first_slot)

    def forget(self, slot: int, start: int = 0) -> None:
        if start == 0:
            self._note("forget", slot, 0)
        super().forget(slot, start)

    def load_cells(self, slot: int, state: Any) -> None:
        self._note("load_cells", slot, state)
        super().load_cells(slot, state)

    def _note(self, name: str, *arguments: Any) -> None:
        calls = getattr(self, "calls", None)
        if calls is not None:
            calls.append((name, arguments))


class Bench:
    """A loaded model on which workloads are run, one after another."""

    def __init__(self, path: Path, slots: int, context_tokens: int, *, reserve_slots: int = 0, **options: Any) -> None:
        self.options = ModelOptions(slots=slots, reserve_slots=reserve_slots, context_tokens=context_tokens, **options)
        self.model: Recorder = Recorder.load(path, self.options)  # type: ignore[assignment]

    def close(self) -> None:
        self.model.close()

    def run(
        self,
        work: Sequence[Work],
        kind: Kind = "full",
        *,
        interactive: bool = False,
        spare_cell_bytes: int = 512 * 2**20,
    ) -> EngineRun:
        """Run `work` through the bare engine: no queue, no database, text handed to nobody. `interactive`: as
        single jobs, which take the lanes beside the tiles first."""
        engine = TimedEngine(self.model, on_text=lambda _deltas: None, spare_cell_bytes=spare_cell_bytes)
        engine.start()
        requests = [_request(self.model, job, kind, interactive=interactive) for job in work]
        started = time.perf_counter()
        generations = [engine.submit(request) for request in requests]
        completions = [_ended(generation.wait()) for generation in generations]
        seconds = time.perf_counter() - started
        engine.stop()
        num_tokens = sum(len(completion.token_ids) for completion in completions)
        gaps = engine.gaps_between_tokens()
        return EngineRun(
            rate=Rate(num_tokens, seconds),
            first_token_p50=statistics.median(c.timings["first_token"] for c in completions),
            gap_p50=statistics.median(gaps),
            gap_p99=gaps[int(len(gaps) * 0.99)],
            gap_max=gaps[-1],
            details=dict(engine.stats().details),
        )

    def run_and_replay(self, work: Sequence[Work], kind: Kind = "full") -> tuple[EngineRun, float]:
        """A run, and the seconds that the calls it made take by themselves: the raw limit for the same rows."""
        calls = self.model.record()
        run = self.run(work, kind)
        made = list(calls)
        del self.model.calls
        started = time.perf_counter()
        for name, arguments in made:
            if name == "prefill":
                self.model.prefill(arguments[0], output_last=arguments[1])
            else:
                getattr(self.model, name)(*arguments)
        return run, time.perf_counter() - started


class TimedEngine(Engine):
    """An engine that notes when each request got its tokens. Text tells less: a token may be part of a character."""

    def __init__(self, model: Model, **options: Any) -> None:
        super().__init__(model, **options)
        self._noted: list[tuple[float, list[tuple[Running, Row]]]] = []

    def _sample(self, rows: list[tuple[Running, Row]]) -> None:
        super()._sample(rows)
        self._noted.append((time.perf_counter(), rows))

    def gaps_between_tokens(self) -> list[float]:
        """Seconds between two tokens of one request, shortest first."""
        times_of: dict[str, list[float]] = defaultdict(list)
        for now, rows in self._noted:
            for sequence, _ in rows:
                times_of[sequence.request.id].append(now)
        pairs = (itertools.pairwise(times) for times in times_of.values())
        return sorted(later - earlier for pair in pairs for earlier, later in pair) or [0.0]


def one_by_one_rate(path: Path, work: Sequence[Work], context_tokens: int) -> Rate:
    """Run `work` on llama-cpp-python's high-level `Llama`, one job after another, with the same sampling, and with
    llama.cpp's own attention, as it comes."""
    attention.use("llama.cpp")
    llama = llama_cpp.Llama(str(path), n_ctx=context_tokens, flash_attn=True, verbose=False)
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


def _request(model: Model, job: Work, kind: Kind, *, interactive: bool) -> Request:
    knobs: dict[str, Any] = {name: value for name, value in KNOBS[kind].items() if value}
    knobs.setdefault("temperature", 0.0)
    sampling = Sampling(seed=job.seed, logit_bias=dict.fromkeys(END_TOKENS, -100.0), **knobs)
    prompt: Prompt = model.vocabulary.encode_text(job.prompt)
    return Request(str(job.seed), prompt, sampling, job.max_tokens, interactive=interactive)


def _ended(completion: Completion | None) -> Completion:
    if completion is None or completion.error:
        raise RuntimeError("a generation of the benchmark failed")
    return completion
