"""The whole system under a full load: `penstock up` on embedded parts, jobs over HTTP, results in the database."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil

from ops.bench.engines import Rate
from ops.bench.workload import CONTEXT_TOKENS, END_TOKENS, REPEAT_PENALTY, Work
from worker.engine.model import ModelOptions
from worker.gguf_header import read_header

READY_SECONDS = 180.0
POLL_SECONDS = 2.0
MOST_POLL_SECONDS = 5.0
"""A client that does as `Retry-After` says, but wants to see the batch move."""
START_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class SystemRun:
    """`peak_bytes`: the worker's largest resident memory. `processor_seconds`: by process, during the run."""

    rate: Rate
    peak_bytes: int
    model_bytes: int
    kv_bytes: int
    processor_seconds: Mapping[str, float]

    @property
    def overhead_bytes(self) -> int:
        """What the worker holds besides the model's file and the KV cells."""
        return self.peak_bytes - self.model_bytes - self.kv_bytes


def run_system(path: Path, work: Sequence[Work], slots: int) -> SystemRun:
    """Start everything, warm up with an eighth as many jobs, run `work` for the figures, stop everything."""
    with tempfile.TemporaryDirectory(prefix="ps-") as home, _up(path, slots, Path(home)) as (url, process):
        client = httpx.Client(base_url=url, timeout=60)
        _wait_until_ready(client, process)
        _run_batch(client, [_other(job) for job in work[: max(1, len(work) // 8)]])
        before = _processor_seconds(process)
        rate = _run_batch(client, work)
        spent = {name: seconds - before.get(name, 0.0) for name, seconds in _processor_seconds(process).items()}
        peak = _worker_peak_bytes(process)
    return SystemRun(rate, peak, path.stat().st_size, _kv_bytes(path, slots), spent)


def _other(job: Work) -> Work:
    """Of the same length. The jobs themselves would find their beginnings known, and have them kept: the engine that
    is measured alone keeps nothing of prompts that it sees for the first time."""
    return replace(job, prompt=" ".join(reversed(job.prompt.split())))


def _run_batch(client: httpx.Client, work: Sequence[Work]) -> Rate:
    bias = {str(token): -100 for token in END_TOKENS}
    jobs = [
        {
            "prompt": job.prompt, "max_tokens": job.max_tokens, "seed": job.seed,
            "repeat_penalty": REPEAT_PENALTY, "logit_bias": bias,
        }
        for job in work
    ]  # fmt: skip
    started = datetime.now(UTC)
    reply = client.post("/v1/jobs", json={"jobs": jobs}).raise_for_status().json()
    while True:
        seen = client.get(f"/v1/batches/{reply['batch_id']}").raise_for_status()
        counts = seen.json()["request_counts"]
        if counts["completed"] + counts["failed"] >= counts["total"]:
            break
        time.sleep(min(float(seen.headers.get("Retry-After", POLL_SECONDS)), MOST_POLL_SECONDS))
    if counts["failed"]:
        raise RuntimeError(f"{counts['failed']} jobs failed")
    seconds = (_ended_at(client, reply["batch_id"]) - started).total_seconds()
    return Rate(sum(job.max_tokens for job in work), seconds)


def _ended_at(client: httpx.Client, batch_id: str) -> datetime:
    """When the last line's end was written, by this machine's clock: who asks for it often is a load of its own."""
    ended_at = datetime.min.replace(tzinfo=UTC)
    query: dict[str, str | int] = {"batch_id": batch_id, "limit": 100}
    while True:
        page = client.get("/v1/jobs", params=query).raise_for_status().json()
        ended_at = max([ended_at, *(datetime.fromisoformat(job["ended_at"]) for job in page["data"])])
        if not page["has_more"]:
            return ended_at
        query["after"] = page["last_id"]


@contextmanager
def _up(path: Path, slots: int, home: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port, flower_port = _free_port(), _free_port()
    environment = {
        **os.environ,
        "PENSTOCK_HOME": str(home),
        "PENSTOCK_CONTEXT_TOKENS": str(CONTEXT_TOKENS),
        "PENSTOCK_FLOWER_PORT": str(flower_port),
    }
    command = [sys.executable, "-m", "cli", "up", "--model", str(path), "--slots", str(slots), "--port", str(port)]
    with (home / "up.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + READY_SECONDS
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise RuntimeError(f"`penstock up` ended with status {process.returncode}")
        try:
            if client.get("/health/ready").json().get("workers"):
                return
        except httpx.TransportError:
            pass
        time.sleep(START_POLL_SECONDS)
    raise RuntimeError(f"not ready within {READY_SECONDS:.0f} seconds")


def _processor_seconds(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Of each process below this one, by the last word that names it: a role, or a program."""
    seconds: dict[str, float] = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        command = child.cmdline()
        role = command[command.index("-m") + 1] if "-m" in command[:-1] else Path(command[0]).name.split(":")[0]
        times = child.cpu_times()
        seconds[role] = seconds.get(role, 0.0) + times.user + times.system
    return seconds


def _worker_peak_bytes(process: subprocess.Popen[bytes]) -> int:
    """Largest resident memory of any child that runs the worker (VmHWM, in KiB)."""
    peaks = [0]
    for child in psutil.Process(process.pid).children(recursive=True):
        if "worker" in child.cmdline():
            status = Path(f"/proc/{child.pid}/status").read_text()
            peaks.append(int(status.split("VmHWM:")[1].split()[0]) * 1024)
    return max(peaks)


def _kv_bytes(path: Path, slots: int) -> int:
    options = ModelOptions(slots=slots)
    num_slots = options.tile_slots + options.lone_slots
    return (read_header(path).kv_bytes_per_token() or 0) * CONTEXT_TOKENS * num_slots


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
