"""Interactive first: `python -m ops.bench.first_token`.

Time to the first text of a single job, from its POST to its first event, on an idle system and while a batch fills
every slot, in turn. The bar: under load at most 1.5 times idle, and one step of the engine more. The step's time is
what the worker's heartbeat says: busy slots over tokens a second, for a step gives each of them one.

And the first text of a live chat completion on the idle system, beside the engine's own time to the first token of the
same job: what HTTP, the database, Redis and Celery add.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from jobs.database import open_engine
from jobs.settings import Settings
from jobs.store import Store
from ops.bench.overhead import process, redis_server, wait_until

START_SECONDS = 180.0
LOAD_LINES = 1000
LOAD_TOKENS = 400
CHAT = {"messages": [{"role": "user", "content": "Write a haiku about ice hockey"}], "max_tokens": 8, "seed": 7}


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians, in seconds."""

    idle: float
    under_load: float
    step: float
    live: float
    """First text of a streamed chat completion, idle."""
    live_added: float
    """The part of it that is not the engine's."""

    @property
    def ratio(self) -> float:
        """1.0 is the bar; below it is better."""
        return self.under_load / (1.5 * self.idle + self.step)


def main() -> int:
    """Measure, print, and write JSON if asked."""
    options = _arguments()
    with tempfile.TemporaryDirectory(prefix="ps-first-", dir="/tmp") as home, ExitStack() as stack:
        settings = _settings(Path(home), stack.enter_context(redis_server(Path(home))), options)
        stack.enter_context(_system(settings))
        figures = _measure(settings, options.rounds, options.tries, options.settle)
    table = Table("time to first text", "ms", title=f"{options.model}, {options.slots} slots, medians")
    for name, seconds in asdict(figures).items():
        table.add_row(name, f"{1000 * seconds:.1f}")
    table.add_row("under_load / (1.5 × idle + step)", f"{figures.ratio:.2f}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({**asdict(figures), "ratio": figures.ratio}, indent=2) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.bench.first_token", description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tries", type=int, default=10, help="jobs in each half of a round, one after another")
    # The heartbeat's rate is that of the last five seconds.
    parser.add_argument("--settle", type=float, default=6.0, help="seconds under load before the first try")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args()


def _settings(home: Path, redis_url: str, options: argparse.Namespace) -> Settings:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    return Settings(home=home, redis_url=redis_url, model=options.model, slots=options.slots, port=port)


@contextmanager
def _system(settings: Settings) -> Iterator[None]:
    """API, dispatcher and worker; back when the worker's model is served."""
    names = ("home", "redis_url", "model", "slots", "port")
    environment = {**os.environ, **{f"PENSTOCK_{name.upper()}": str(getattr(settings, name)) for name in names}}
    with ExitStack() as stack:
        for module in ("jobs.database", "api", "jobs.dispatcher", "worker"):
            words = [sys.executable, "-m", module, *(["migrate"] if module == "jobs.database" else [])]
            role = stack.enter_context(process(words, settings.home / f"{module}.log", environment))
            if module == "jobs.database":
                role.wait(START_SECONDS)
        wait_until(lambda: _is_ready(settings), START_SECONDS)
        yield


def _is_ready(settings: Settings) -> bool:
    try:
        return bool(httpx.get(f"http://127.0.0.1:{settings.port}/health/ready").json().get("workers"))
    except httpx.TransportError:
        return False


def _measure(settings: Settings, rounds: int, tries: int, settle_seconds: float) -> Figures:
    store = Store(open_engine(settings.resolved_database_url), settings=settings)
    idle: list[float] = []
    live: list[tuple[float, float]] = []
    loaded: list[float] = []
    steps: list[float] = []
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.port}", timeout=60) as client:
        _first_text_seconds(client)  # warms up
        for _ in range(rounds):
            idle += [_first_text_seconds(client) for _ in range(tries)]
            live += [_live_seconds(client, settings.model_name) for _ in range(tries)]
            with _load(client, store, settle_seconds):
                loaded += [_first_text_seconds(client) for _ in range(tries)]
                (worker,) = store.list_workers(30)
                steps.append(worker.busy_slots / max(worker.tokens_per_second, 1e-9))
    firsts, added = zip(*live, strict=True)
    return Figures(median(idle), median(loaded), median(steps), median(firsts), median(added))


def _first_text_seconds(client: httpx.Client) -> float:
    """Reads to the end: the next job is not to meet this one."""
    started = time.perf_counter()
    first: float | None = None
    job = client.post("/v1/jobs", json=CHAT).raise_for_status().json()
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as reply:
        for line in reply.iter_lines():
            if line == "event: text" and first is None:
                first = time.perf_counter() - started
    if first is None:
        raise RuntimeError("the stream ended without text")
    return first


def _live_seconds(client: httpx.Client, model: str) -> tuple[float, float]:
    """From the POST of a streamed chat completion to its first text; and how much of that was not the engine's."""
    started = time.perf_counter()
    first: float | None = None
    chunk: dict[str, Any] = {}
    with client.stream("POST", "/v1/chat/completions", json={**CHAT, "model": model, "stream": True}) as reply:
        for line in reply.raise_for_status().iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                if first is None and chunk["choices"][0]["delta"].get("content"):
                    first = time.perf_counter() - started
    if first is None:
        raise RuntimeError("the stream ended without text")
    (job_id,) = chunk["penstock"]["job_ids"]
    timings = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()["timings"]
    return first, first - (timings["first_token"] - timings["queued"])


@contextmanager
def _load(client: httpx.Client, store: Store, settle_seconds: float) -> Iterator[None]:
    """A batch that fills every slot until the block ends."""
    line = {
        "prompt": "ice river stone moon",
        "max_tokens": LOAD_TOKENS,
        "logit_bias": {"2": -100, "32000": -100, "32007": -100},
    }
    made = client.post("/v1/jobs", json={"jobs": [line] * LOAD_LINES}).raise_for_status().json()
    wait_until(lambda: store.list_workers(30)[0].busy_slots >= store.settings.slots, START_SECONDS)
    time.sleep(settle_seconds)
    try:
        yield
    finally:
        store.cancel_batch(made["batch_id"])
        wait_until(lambda: store.get_batch(made["batch_id"])[0].ended_at is not None, START_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
