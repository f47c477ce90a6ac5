"""`python -m ops.bench.batches`: what a large batch costs to take in, to hold, to cancel and to look at.

    intake   lines accepted (uploaded, checked, rows durable), beside a bare bulk insert of the same rows; on PostgreSQL
             beside a bare COPY as well
    size     one batch of a million lines: memory of the API, of Redis while it runs, the time of a cancel, and how
             long looking at a job and at a batch takes beside the same with a thousand rows

Figures are ratios of one run. `--lines` and `--size` make it smaller.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from jobs.database import migrate, open_engine
from jobs.tables import Base, Batch, Job
from ops.bench.stage import Stage, staged, wait_for

SUBJECTS = ("ice hockey", "a lighthouse", "the first snow", "an old bicycle", "a river at night", "bread", "the moon")
LOOKS = 400
LOOK_SECONDS = 0.2
RUN_SECONDS = 20.0
DISPATCH_STOP_SECONDS = 2.0


def main() -> int:
    """Run what was asked for, print tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench.batches", description=__doc__)
    parser.add_argument("--lines", type=int, default=100_000, help="lines of the intake's file")
    parser.add_argument("--size", type=int, default=1_000_000, help="lines of the large batch; 0: leave it out")
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    databases = ("sqlite", "postgresql") if options.database == "both" else (options.database,)
    console = Console()
    report: dict[str, Any] = {}
    for database in databases:
        report[database] = measure_intake(options.lines, postgres=database == "postgresql")
        _show(console, f"{options.lines} lines into {database}", report[database])
    if options.size:
        report["size"] = measure_size(options.size, postgres=options.database == "postgresql", console=console)
        _show(console, f"a batch of {options.size} lines", report["size"])
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _show(console: Console, title: str, figures: dict[str, float]) -> None:
    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,.3f}")
    console.print(table)


# -- taking lines in


def measure_intake(num_lines: int, *, postgres: bool) -> dict[str, float]:
    """Seconds of the bare insert over seconds of the whole way, on one database."""
    with staged(postgres=postgres) as stage, tempfile.TemporaryDirectory() as folder:
        path = write_lines(Path(folder) / "lines.jsonl", num_lines)
        stage.announce_demo_model()
        stage.start("api", "dispatcher")
        with httpx.Client(base_url=stage.url, timeout=3600) as client:
            _accept(client, write_lines(Path(folder) / "few.jsonl", 1000), stage)  # warms everything up
            started = time.perf_counter()
            file_id = _upload(client, path)
            uploaded = time.perf_counter()
            batch_id = _create(client, file_id)
            _wait_taken(stage, batch_id)
            ended = time.perf_counter()
        for name in ("dispatcher", "api"):
            stage.stop(name)
        bare = _bare_insert(stage, batch_id, Path(folder))
        copy = _bare_copy(stage) if postgres else None
    whole = ended - started
    return {
        "lines_per_second": num_lines / whole,
        "upload_and_check_seconds": uploaded - started,
        "rows_seconds": ended - uploaded,
        "bare_insert_seconds": bare,
        "of_a_bare_insert": bare / whole,
        **({} if copy is None else {"of_a_bare_copy": copy / whole}),
    }


def _accept(client: httpx.Client, path: Path, stage: Stage) -> str:
    batch_id = _create(client, _upload(client, path))
    _wait_taken(stage, batch_id)
    return batch_id


def _wait_taken(stage: Stage, batch_id: str) -> None:
    wait_for("the rows", lambda: stage.store.get_batch(batch_id)[0].taken_at is not None, seconds=3600)


def _bare_insert(stage: Stage, batch_id: str, folder: Path) -> float:
    """Insert the rows of a batch into an empty database of the same kind, with the same tables, all at once."""
    with stage.store.engine.connect() as connection:
        found = connection.execute(sa.select(Job.__table__).where(Job.batch_id == batch_id)).mappings()
        rows = [_by_attribute(Job, row) for row in found]
        batch = dict(connection.execute(sa.select(Batch.__table__).where(Batch.id == batch_id)).mappings().one())
    if stage.store.engine.dialect.name == "sqlite":
        url = f"sqlite:///{folder / 'bare.db'}"
        migrate(url)
        engine = open_engine(url)
    else:
        engine = stage.store.engine
        with engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(sa.delete(table))
    started = time.perf_counter()
    with engine.begin() as connection:
        connection.execute(sa.insert(Batch), [_by_attribute(Batch, batch)])
        connection.execute(sa.insert(Job), rows)
    return time.perf_counter() - started


def _bare_copy(stage: Stage) -> float:
    """The fastest that PostgreSQL has: the rows of `_bare_insert` once more, in its own format, nothing converted."""
    with stage.store.engine.begin() as connection:
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor:
            with cursor.copy("COPY jobs TO STDOUT") as copy:
                rows = b"".join(copy)
            cursor.execute("DELETE FROM jobs")
        started = time.perf_counter()
        with driver.cursor() as cursor, cursor.copy("COPY jobs FROM STDIN") as copy:
            copy.write(rows)
    return time.perf_counter() - started


def _by_attribute(table: type[Base], row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row by the names of the table's attributes: a column `metadata` is called otherwise."""
    names = {column.name: attribute.key for attribute in sa.inspect(table).column_attrs for column in attribute.columns}
    return {names[str(name)]: value for name, value in row.items()}


# -- a large batch


def measure_size(num_lines: int, *, postgres: bool, console: Console) -> dict[str, float]:
    """Memory, cancel and looks, for one batch of `num_lines` on a running system."""
    figures: dict[str, float] = {}
    with staged(postgres=postgres) as stage, tempfile.TemporaryDirectory() as folder:
        stage.announce_demo_model()
        stage.start("api", "dispatcher")
        with httpx.Client(base_url=stage.url, timeout=3600) as client:
            few = _accept(client, write_lines(Path(folder) / "few.jsonl", 1000), stage)
            small = _looks(client, few)
            path = write_lines(Path(folder) / "many.jsonl", num_lines)
            before = stage.resident_bytes("api")
            console.print(f"Uploading {num_lines} lines, {path.stat().st_size / 2**20:.0f} MiB …")
            peak, file_id = _peak(lambda: _upload(client, path), lambda: stage.resident_bytes("api"))
            figures["api_memory_growth_mb"] = (peak - before) / 1e6
            batch_id = _create(client, file_id)
            console.print("Taking them in …")
            _wait_taken(stage, batch_id)
            large = _looks(client, batch_id)
            figures |= {f"p95_of_{name}_beside_1000_rows": large[name] / small[name] for name in large}
            console.print(f"Running for {RUN_SECONDS:.0f} s …")
            stage.start("worker")
            figures["redis_peak_mb"] = max(_redis_bytes(stage)) / 1e6
            figures |= _cancel(client, stage, batch_id)
    return figures


def _looks(client: httpx.Client, batch_id: str) -> dict[str, float]:
    """The p95 of each call that people poll, in seconds."""
    job_id = client.get("/v1/jobs", params={"batch_id": batch_id, "limit": 1}).json()["data"][0]["id"]
    calls = {"job": f"/v1/jobs/{job_id}", "batch": f"/v1/batches/{batch_id}"}
    return {name: _p95(partial(_get, client, url)) for name, url in calls.items()}


def _get(client: httpx.Client, url: str) -> None:
    client.get(url).raise_for_status()


def _p95(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(LOOKS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.quantiles(seconds, n=20)[-1]


def _peak(work: Callable[[], str], look: Callable[[], int]) -> tuple[int, str]:
    """Do `work` on a thread, look meanwhile; the largest value seen, and what the work made."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        peak = look()
        while not future.done():
            peak = max(peak, look())
            time.sleep(LOOK_SECONDS)
        return peak, future.result()


def _redis_bytes(stage: Stage) -> Iterator[int]:
    until = time.monotonic() + RUN_SECONDS
    while time.monotonic() < until:
        yield int(stage.redis.info("memory")["used_memory"])
        time.sleep(LOOK_SECONDS)


def _cancel(client: httpx.Client, stage: Stage, batch_id: str) -> dict[str, float]:
    """Seconds of the cancel's answer, and lines of the batch that began to run after the bound."""
    started = time.perf_counter()
    client.post(f"/v1/batches/{batch_id}/cancel").raise_for_status()
    answered = time.perf_counter() - started
    time.sleep(DISPATCH_STOP_SECONDS)
    first = _num_started(stage, batch_id)
    time.sleep(DISPATCH_STOP_SECONDS)
    return {"cancel_seconds": answered, "lines_started_after_2_s": _num_started(stage, batch_id) - first}


def _num_started(stage: Stage, batch_id: str) -> int:
    query = sa.select(sa.func.count()).where(Job.batch_id == batch_id, Job.started_at.is_not(None))
    with stage.store.engine.connect() as connection:
        return connection.scalar(query) or 0


# -- the wire


def write_lines(path: Path, num_lines: int) -> Path:
    """A file of chat lines, as OpenAI's clients write them."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_lines):
            messages = [{"role": "user", "content": f"Write a haiku about {SUBJECTS[number % len(SUBJECTS)]}"}]
            body = {"model": "demo", "messages": messages, "max_tokens": 40, "seed": number}
            line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    return path


def _upload(client: httpx.Client, path: Path) -> str:
    with path.open("rb") as file:
        reply = client.post("/v1/files", data={"purpose": "batch"}, files={"file": (path.name, file)})
    return str(reply.raise_for_status().json()["id"])


def _create(client: httpx.Client, file_id: str) -> str:
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return str(client.post("/v1/batches", json=body).raise_for_status().json()["id"])


if __name__ == "__main__":
    sys.exit(main())
