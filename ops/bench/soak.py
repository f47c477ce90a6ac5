"""`penstock bench --soak SECONDS`: short jobs without end, some cancelled, some sharing a beginning, some urgent."""

from __future__ import annotations

import random
import time
from collections import deque
from pathlib import Path
from typing import Any

import psutil

from worker.engine.engine import Engine
from worker.engine.generation import Generation, Prompt, Request, Sampling
from worker.engine.model import Model, ModelOptions

CONTEXT_TOKENS = 256
WARM_JOBS = 200
"""Memory is looked at for the first time after so many: buffers, caches and the store have their size by then."""
SPARE_BYTES = 16 * 2**20


def soak(path: Path, slots: int, seconds: float, *, warm_jobs: int = WARM_JOBS) -> dict[str, Any]:
    """Keep the engine full for `seconds`. Returns jobs run, memory (resident bytes) first and last, cells left over."""
    model = Model.load(path, ModelOptions(slots=slots, context_tokens=CONTEXT_TOKENS))
    engine = Engine(model, spare_cell_bytes=SPARE_BYTES)
    engine.start()
    rng = random.Random(0)
    live: deque[Generation] = deque()
    num_jobs, first_bytes = 0, 0
    until = time.monotonic() + seconds
    while time.monotonic() < until or num_jobs <= warm_jobs:
        while len(live) < 2 * slots:
            live.append(engine.submit(_request(rng, num_jobs, model.vocabulary.size)))
            num_jobs += 1
            if rng.random() < 0.1:
                live[rng.randrange(len(live))].cancel()
        live.popleft().wait()
        if not first_bytes and num_jobs > warm_jobs:
            first_bytes = psutil.Process().memory_info().rss
    engine.stop()
    last_bytes = psutil.Process().memory_info().rss
    cells_left = sum(model.num_cells(slot) for slot in range(model.num_slots))
    model.close()
    return {
        "jobs": num_jobs,
        "seconds": seconds,
        "first_bytes": first_bytes,
        "last_bytes": last_bytes,
        "cells_left": cells_left,
        **engine.stats().details,
    }


def _request(rng: random.Random, number: int, vocabulary_size: int) -> Request:
    """One in three begins like all others of its kind; one in ten is interactive."""
    start = [300 + n for n in range(130)] if rng.random() < 1 / 3 else []
    own = [rng.randrange(300, vocabulary_size - 300) for _ in range(rng.randint(1, 60))]
    return Request(
        str(number),
        Prompt((*start, *own)),
        Sampling(seed=number, repeat_penalty=1.2),
        rng.randint(1, 24),
        stop=("the",) if rng.random() < 0.2 else (),
        interactive=rng.random() < 0.1,
    )
