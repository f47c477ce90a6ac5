"""What one worker, ten, a hundred and a thousand ask of PostgreSQL and Redis: `python -m ops.bench.capacity`.

Simulated workers (`ops.bench.simulated`) against the real store on a PostgreSQL of their own, a real Redis, and the
real dispatcher as a process. Each has `--slots` slots and takes about `--job-seconds` for a job, so that it asks for
slots / seconds jobs a second, whatever else happens: by default one in five seconds, what a worker does that writes 20
tokens a second in completions of 100. Prints, by number of workers: jobs a second beside what was asked
for, how long a claim takes, and what each part costs a job. On a machine of few cores the simulation itself takes most
of them: go by the costs a job, which other users of the machine disturb less. Ends with an audit of each database.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import psutil
import psycopg
import redis
from rich.console import Console
from rich.table import Table

from cli.embedded import postgres_command, postgres_url_file
from jobs.database import migrate, open_engine
from jobs.records import NewJob
from jobs.settings import Settings
from jobs.states import Priority
from jobs.store import Store
from ops.bench.overhead import process, redis_server, role, wait_until
from ops.bench.simulated import Load, Tally, drive

NUM_BATCHES = 8
CHUNK = 2500
PROMPT = "Write a haiku about ice hockey, the cold rink and the winter light"
MOST_LINES = 60_000
SPARE_CONNECTIONS = 100


@dataclass(frozen=True, slots=True)
class Used:
    """What has been used up to an instant. CPU in seconds, the rest in counts."""

    at: float
    postgres_cpu: float
    redis_cpu: float
    dispatcher_cpu: float
    workers_cpu: float
    transactions: int
    commands: int
    wal_bytes: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of the table."""

    workers: int
    wanted_jobs_per_second: float
    jobs_per_second: float
    claim_p50_ms: float
    claim_p95_ms: float
    finish_p95_ms: float
    jobs_a_claim: float
    postgres_ms_a_job: float
    redis_ms_a_job: float
    dispatcher_ms_a_job: float
    postgres_cores: float
    redis_cores: float
    dispatcher_cores: float
    workers_cores: float
    transactions_per_second: float
    commands_per_second: float
    wal_kb_a_job: float
    postgres_connections: int
    redis_mb: float
    leases_lost: int
    outages: int
    audit_problems: int


class Site:
    """The services of one run, and what they have used."""

    def __init__(self, folder: Path, settings: Settings, dispatcher: psutil.Process) -> None:
        self.settings = settings
        self.store = Store(open_engine(settings.resolved_database_url), settings=settings)
        self.redis = redis.Redis.from_url(settings.resolved_redis_url)
        self._dispatcher = dispatcher
        self._postmaster = psutil.Process(int((folder / "postgres" / "postmaster.pid").read_text().split("\n")[0]))
        self._uri = settings.resolved_database_url.replace("+psycopg", "")

    def used(self, drivers: Sequence[psutil.Process]) -> Used:
        info: Any = self.redis.info()
        with psycopg.connect(self._uri) as connection:
            sums = "SELECT sum(xact_commit), pg_current_wal_lsn() - '0/0' FROM pg_stat_database"
            (transactions, wal_bytes) = connection.execute(sums).fetchone() or (0, 0)
        return Used(
            time.monotonic(),
            _cpu(self._postmaster, *self._postmaster.children()),
            info["used_cpu_user"] + info["used_cpu_sys"],
            _cpu(self._dispatcher),
            _cpu(*drivers),
            int(transactions),
            info["total_commands_processed"],
            int(wal_bytes),
        )

    def num_connections(self) -> int:
        return len(self._postmaster.children())

    def fill(self, num_lines: int) -> None:
        """Batches with so many lines in all, for the dispatcher to share the window between."""
        line = NewJob(
            model="demo", parameters={"max_tokens": 100}, seed=7, num_prompt_tokens=16, prompt=PROMPT,
            priority=Priority.BATCH,
        )  # fmt: skip
        each = -(-num_lines // NUM_BATCHES)
        for number in range(NUM_BATCHES):
            batch_id = None
            for start in range(0, each, CHUNK):
                lines = [line] * min(CHUNK, each - start)
                owner = f"owner-{number % 4}"
                made = self.store.submit(lines, owner=owner, batch_id=batch_id, new_batch=batch_id is None)
                batch_id = made.batch_id

    def close(self) -> None:
        self.store.engine.dispose()
        self.redis.close()


def _cpu(*processes: psutil.Process) -> float:
    """Seconds of processor time; a process that has ended meanwhile counts nothing."""
    total = 0.0
    for each in processes:
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def main(words: Sequence[str] | None = None) -> int:
    """Run every number of workers in turn."""
    options = _arguments(words)
    console = Console(width=200)
    found: list[Figures] = []
    for number in options.workers:
        console.print(f"{number} workers …")
        with _site(number) as site:
            found.append(_measured(site, number, options))
        console.print({name: round(value, 2) for name, value in asdict(found[-1]).items()})
    console.print(_table(found))
    console.print(_costs(found))
    if options.json:
        options.json.write_text(json.dumps({"cores": os.cpu_count(), "runs": [asdict(run) for run in found]}, indent=2))
    return 1 if any(run.audit_problems for run in found) else 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.bench.capacity", description=__doc__)
    numbers = lambda text: tuple(int(part) for part in text.split(","))  # noqa: E731
    parser.add_argument("--workers", type=numbers, default=(1, 10, 100, 1000), help="numbers of workers: 1,10,100,1000")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--job-seconds", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--warm-seconds", type=float, default=30.0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that the workers are spread over")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args(words)


@contextmanager
def _site(num_workers: int) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="ps-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        with redis_server(folder) as redis_url, _postgres(folder, num_workers + SPARE_CONNECTIONS) as database_url:
            migrate(database_url)
            settings = Settings(home=folder, redis_url=redis_url, database_url=database_url, model="demo")
            with role("jobs.dispatcher", settings, ready="dispatcher_started") as dispatcher:
                site = Site(folder, settings, dispatcher)
                try:
                    yield site
                finally:
                    site.close()


@contextmanager
def _postgres(folder: Path, num_connections: int) -> Iterator[str]:
    """A PostgreSQL as it comes, but with room for a connection a worker, which needs a start of its own."""
    data = folder / "postgres"
    url_file = postgres_url_file(data)
    with process(postgres_command(data), folder / "postgres.log"):
        wait_until(url_file.exists)
        with psycopg.connect(url_file.read_text().strip(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET max_connections = {num_connections}")
            connection.execute("ALTER SYSTEM SET shared_buffers = '512MB'")
    with process(postgres_command(data), folder / "postgres.log"):
        wait_until(url_file.exists)
        yield url_file.read_text().strip().replace("postgresql://", "postgresql+psycopg://", 1)


def _measured(site: Site, num_workers: int, options: argparse.Namespace) -> Figures:
    wanted = num_workers * options.slots / options.job_seconds
    warm = options.warm_seconds
    site.fill(min(MOST_LINES, int(2 * wanted * (warm + options.seconds + options.job_seconds)) + 200))
    with _workers(site.settings, num_workers, options) as (drivers, tallies):
        wait_until(lambda: len(site.store.list_workers(alive_within_seconds=60)) == num_workers)
        time.sleep(warm)
        before = site.used(drivers)
        time.sleep(options.seconds)
        after = site.used(drivers)
        connections, redis_mb = site.num_connections(), _redis_mb(site)
    problems = site.store.audit()
    told = _joined(tallies, before.at, after.at)
    return _figures(num_workers, wanted, (before, after), told, (connections, redis_mb, len(problems)))


@contextmanager
def _workers(
    settings: Settings, num_workers: int, options: argparse.Namespace
) -> Iterator[tuple[list[psutil.Process], list[Tally]]]:
    """The workers' processes while the block runs; their tallies are there once it has ended."""
    context = multiprocessing.get_context("spawn")
    stop, results = context.Event(), context.Queue()
    num_processes = min(options.processes, num_workers)
    tallies: list[Tally] = []
    started = []
    for index in range(num_processes):
        first = num_workers * index // num_processes
        share = num_workers * (index + 1) // num_processes - first
        load = Load(settings, share, first, options.slots, options.job_seconds)
        started.append(context.Process(target=drive, args=(load, stop, results)))
        started[-1].start()
    try:
        yield [psutil.Process(each.pid) for each in started], tallies
    finally:
        stop.set()
        tallies.extend(results.get(timeout=300) for _ in started)
        for each in started:
            each.join()


def _redis_mb(site: Site) -> float:
    info: Any = site.redis.info("memory")
    return float(info["used_memory"]) / 1e6


def _joined(tallies: Sequence[Tally], start: float, end: float) -> Tally:
    """What happened between the two instants, in all processes."""
    joined = Tally()
    for tally in tallies:
        joined.ends += [each for each in tally.ends if start <= each[0] < end]
        joined.claims += [each for each in tally.claims if start <= each[0] < end]
        joined.finishes += [each for each in tally.finishes if start <= each[0] < end]
        joined.num_lost += tally.num_lost
        joined.num_outages += tally.num_outages
    return joined


def _figures(
    num_workers: int, wanted: float, use: tuple[Used, Used], told: Tally, others: tuple[int, float, int]
) -> Figures:
    before, after = use
    seconds = after.at - before.at
    num_jobs = max(1, sum(number for _, number in told.ends))
    claims = [1000 * took for _, took, _ in told.claims]
    finishes = [1000 * took for _, took in told.finishes]
    cpu = {
        name: getattr(after, f"{name}_cpu") - getattr(before, f"{name}_cpu")
        for name in ("postgres", "redis", "dispatcher", "workers")
    }
    return Figures(
        workers=num_workers,
        wanted_jobs_per_second=wanted,
        jobs_per_second=num_jobs / seconds,
        claim_p50_ms=_percentile(claims, 50),
        claim_p95_ms=_percentile(claims, 95),
        finish_p95_ms=_percentile(finishes, 95),
        jobs_a_claim=sum(number for *_, number in told.claims) / max(1, len(claims)),
        **{f"{name}_ms_a_job": 1000 * cpu[name] / num_jobs for name in ("postgres", "redis", "dispatcher")},
        **{f"{name}_cores": spent / seconds for name, spent in cpu.items()},
        transactions_per_second=(after.transactions - before.transactions) / seconds,
        commands_per_second=(after.commands - before.commands) / seconds,
        wal_kb_a_job=(after.wal_bytes - before.wal_bytes) / 1000 / num_jobs,
        postgres_connections=others[0],
        redis_mb=others[1],
        leases_lost=told.num_lost,
        outages=told.num_outages,
        audit_problems=others[2],
    )


def _percentile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100)[percent - 1] if len(values) > 1 else sum(values)


def _table(found: Sequence[Figures]) -> Table:
    head = ("workers", "jobs/s of", "wanted", "claim p50", "p95", "end p95", "PG tx/s", "Redis cmd/s", "lost", "audit")
    table = Table(*head, title="By number of workers", min_width=120)
    for run in found:
        table.add_row(
            str(run.workers),
            f"{run.jobs_per_second:.1f}",
            f"{run.wanted_jobs_per_second:.0f}",
            f"{run.claim_p50_ms:.1f} ms",
            f"{run.claim_p95_ms:.1f} ms",
            f"{run.finish_p95_ms:.1f} ms",
            f"{run.transactions_per_second:.0f}",
            f"{run.commands_per_second:.0f}",
            str(run.leases_lost),
            "clean" if not run.audit_problems else f"{run.audit_problems} problems",
        )
    return table


def _costs(found: Sequence[Figures]) -> Table:
    head = ("workers", "PG ms/job", "Redis ms/job", "dispatcher ms/job", "cores: PG", "Redis", "dispatcher", "workers")
    table = Table(*head, "WAL kB/job", "PG connections", "Redis MB", title="What it costs", min_width=120)
    for run in found:
        table.add_row(
            str(run.workers),
            f"{run.postgres_ms_a_job:.2f}",
            f"{run.redis_ms_a_job:.2f}",
            f"{run.dispatcher_ms_a_job:.2f}",
            f"{run.postgres_cores:.2f}",
            f"{run.redis_cores:.2f}",
            f"{run.dispatcher_cores:.2f}",
            f"{run.workers_cores:.2f}",
            f"{run.wal_kb_a_job:.1f}",
            str(run.postgres_connections),
            f"{run.redis_mb:.1f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
