"""What Penstock costs a job beside the model: `python -m ops.bench.overhead`.

In one run, in turn: a bare Celery worker over N messages that do nothing, and the real dispatcher and worker over N
batch lines with an engine that answers at once, in SQLite and in PostgreSQL. Both begin when the first message is
published or the lines are stored, and end when the last one is done. Prints jobs a second and their ratio, and the
worker's processor time a job, which other users of the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
import redis
from rich.console import Console
from rich.table import Table

from cli.embedded import find_redis_server, postgres_command, postgres_url_file, redis_answers, redis_command
from jobs.database import migrate, open_engine
from jobs.events import EventWriter
from jobs.queue import Publisher
from jobs.records import NewJob
from jobs.settings import Settings
from jobs.states import JobState, Priority
from jobs.store import Store
from ops.bench.bare_worker import COUNT_KEY, NOOP, make_bare_app

START_SECONDS = 60.0
RUN_SECONDS = 300.0
POLL_SECONDS = 0.02
WARM_UP = 200
PROMPT = "Write a haiku about ice hockey, the cold rink and the winter light"
BARE = "bare Celery"


@dataclass(frozen=True, slots=True)
class Run:
    """One contestant's figures in one round."""

    jobs_per_second: float
    cpu_ms_a_job: float


Runs = dict[str, list[Run]]


def main() -> int:
    """Run every contestant in turn, several rounds."""
    options = _arguments()
    console = Console()
    runs: dict[str, list[Run]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ps-bench-", dir="/tmp")))
        folder.chmod(0o711)
        redis_url = stack.enter_context(redis_server(folder))
        urls = {"Penstock, SQLite": f"sqlite:///{folder / 'bench.db'}"}
        if not options.sqlite_only:
            urls["Penstock, PostgreSQL"] = options.postgres or stack.enter_context(_postgres(folder))
        for url in urls.values():
            migrate(url)
        for number in range(options.rounds):
            console.print(f"Round {number + 1} of {options.rounds}, {options.jobs} jobs each …")
            runs.setdefault(BARE, []).append(_bare(_settings(folder, redis_url, ""), options.jobs))
            for name, url in urls.items():
                runs.setdefault(name, []).append(_penstock(_settings(folder, redis_url, url), options.jobs))
    console.print(_table(runs))
    if options.json:
        figures = {name: [asdict(run) for run in rounds] for name, rounds in runs.items()}
        options.json.write_text(json.dumps({"runs": figures, "ratio": _ratios(runs)}, indent=2) + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.bench.overhead", description=__doc__)
    parser.add_argument("--jobs", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sqlite-only", action="store_true")
    parser.add_argument("--postgres", help="URL of an empty PostgreSQL; default: one of our own")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args()


def _ratios(runs: Runs) -> dict[str, float]:
    """Each contestant beside the bare worker of its own round; the median of the rounds."""
    return {
        name: median(run.jobs_per_second / bare.jobs_per_second for run, bare in zip(rounds, runs[BARE], strict=True))
        for name, rounds in runs.items()
    }


def _table(runs: Runs) -> Table:
    table = Table(
        "worker",
        "jobs/s, each round",
        "× bare Celery (median)",
        "worker's CPU ms a job",
        title="Jobs end to end, no model",
    )
    for name, ratio in _ratios(runs).items():
        rates = ", ".join(f"{run.jobs_per_second:.0f}" for run in runs[name])
        table.add_row(name, rates, f"{ratio:.2f}", f"{median(run.cpu_ms_a_job for run in runs[name]):.2f}")
    return table


def _measured(worker: psutil.Process, num_jobs: int, run: Callable[[int], None]) -> Run:
    """Warm up, then run."""
    run(min(WARM_UP, num_jobs))
    started, cpu = time.perf_counter(), _cpu_seconds(worker)
    run(num_jobs)
    seconds = time.perf_counter() - started
    return Run(num_jobs / seconds, 1000 * (_cpu_seconds(worker) - cpu) / num_jobs)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _bare(settings: Settings, num_jobs: int) -> Run:
    """Messages a second of a worker that does nothing with them."""
    client = redis.Redis.from_url(settings.resolved_redis_url)
    client.flushall()
    publisher = Publisher(make_bare_app(settings), task=NOOP)

    def counted() -> int:
        return int(client.get(COUNT_KEY) or 0)

    def run(number: int) -> None:
        count = counted() + number
        publisher.publish([f"job_{index:032x}" for index in range(number)], Priority.BATCH)
        wait_until(lambda: counted() >= count)

    with role("ops.bench.bare_worker", settings) as worker:
        return _measured(worker, num_jobs, run)


def _penstock(settings: Settings, num_jobs: int) -> Run:
    """Batch lines a second, from stored to ended."""
    redis.Redis.from_url(settings.resolved_redis_url).flushall()
    engine = open_engine(settings.resolved_database_url)
    store = Store(engine, settings=settings)
    events = EventWriter(redis.Redis.from_url(settings.resolved_redis_url))

    def run(number: int) -> None:
        batch_id = _submit(store, settings, number)
        events.wake_dispatcher()
        wait_until(lambda: store.get_batch(batch_id)[0].ended_at is not None)
        if store.get_batch(batch_id)[1].by_state[JobState.SUCCEEDED] != number:
            raise RuntimeError("not every line succeeded")

    with (
        role("jobs.dispatcher", settings, ready="dispatcher_started"),
        role("ops.bench.instant_worker", settings) as worker,
    ):
        measured = _measured(worker, num_jobs, run)
    engine.dispose()
    return measured


def _submit(store: Store, settings: Settings, number: int) -> str:
    line = NewJob(
        model=settings.model_name, parameters={"max_tokens": 16}, seed=7, num_prompt_tokens=16, prompt=PROMPT,
        priority=Priority.BATCH,
    )  # fmt: skip
    return str(store.submit([line] * number, new_batch=True).batch_id)


def _settings(folder: Path, redis_url: str, database_url: str) -> Settings:
    return Settings(home=folder, redis_url=redis_url, database_url=database_url, model="demo")


@contextmanager
def role(module: str, settings: Settings, ready: str = " ready.") -> Iterator[psutil.Process]:
    """`python -m MODULE` with these settings, once its log says `ready`."""
    names = ("home", "redis_url", "database_url", "model")
    environment = {**os.environ, **{f"PENSTOCK_{name.upper()}": str(getattr(settings, name)) for name in names}}
    log = settings.home / f"{module}.log"
    with process([sys.executable, "-m", module], log, environment) as role:
        wait_until(lambda: ready in log.read_text() or role.poll() is not None, START_SECONDS)
        if role.poll() is not None:
            raise RuntimeError(f"{module} ended with status {role.returncode}:\n{log.read_text()[-2000:]}")
        yield psutil.Process(role.pid)


@contextmanager
def process(
    command: Sequence[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    socket = folder / "redis.sock"
    with process(redis_command(find_redis_server(), socket, folder), folder / "redis.log"):
        wait_until(lambda: redis_answers(socket), START_SECONDS)
        yield f"unix://{socket}?db=0"


@contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    data = folder / "postgres"
    with process(postgres_command(data), folder / "postgres.log"):
        wait_until(postgres_url_file(data).exists, START_SECONDS)
        yield postgres_url_file(data).read_text().strip()


def wait_until(happened: Callable[[], object], seconds: float = RUN_SECONDS) -> None:
    give_up_at = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"did not happen within {seconds:.0f} seconds")
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
