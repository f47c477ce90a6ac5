"""What this machine has, what is missing, and what to do about it. Looks only; changes and downloads nothing.

Each check is a function that returns findings. The engine's library is loaded in a process of its own: a build for
another processor dies by a signal, and that is a finding too.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.embedded import find_redis_server, redis_answers
from cli.errors import CliError
from cli.home import choose_port, find_addresses
from cli.processes import describe_end
from cli.roles import child_environment, embedded_database_url, role_command
from jobs.settings import Settings

ENGINE_PROBE = (
    "import json, llama_cpp as l; print(json.dumps({'gpu': bool(l.llama_supports_gpu_offload()), "
    "'system': l.llama_print_system_info().decode()}))"
)
LOW_DISK_BYTES = 5 * 10**9
LOW_MEMORY_BYTES = 4 * 10**9
PROBE_SECONDS = 60


class Level(StrEnum):
    """How much a finding matters: fine, worth knowing, or the system cannot start."""

    GOOD = "ok"
    WARN = "warning"
    BAD = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about this machine. `remedy` is what to do; empty when nothing is."""

    name: str
    level: Level
    text: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(settings: Settings) -> list[Finding]:
    """Every finding, most basic first."""
    checks: Sequence[Callable[[Settings], Finding]] = (
        _python,
        _processor,
        _memory,
        _disk,
        _engine,
        _attention,
        _model,
        _redis,
        _database,
        _api_port,
        _flower_port,
    )
    return [check(settings) for check in checks]


def show(findings: Sequence[Finding], console: Console) -> None:
    """A table for a person."""
    styles = {Level.GOOD: "green", Level.WARN: "yellow", Level.BAD: "red"}
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        mark = f"[{styles[finding.level]}]{finding.level}[/]"
        remedy = f"\n[dim]{escape(finding.remedy)}[/dim]" if finding.remedy else ""
        table.add_row(mark, finding.name, escape(finding.text) + remedy)
    console.print(table)


def _python(_: Settings) -> Finding:
    return Finding("Python", Level.GOOD, f"{platform.python_version()} ({platform.system()} {platform.machine()})")


def _processor(settings: Settings) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    used = f", {settings.threads} used" if settings.threads else ""
    return Finding("processor", Level.GOOD, f"{cores} cores{used}")


def _memory(_: Settings) -> Finding:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return Finding("memory", Level.WARN, "cannot be read on this system")
    if free < LOW_MEMORY_BYTES:
        return Finding(
            "memory",
            Level.WARN,
            f"{_gigabytes(free)} free",
            "phi-3-mini needs about 2.4 GB and 1.6 GB for each full slot; take fewer --slots or --model demo",
        )
    return Finding("memory", Level.GOOD, f"{_gigabytes(free)} free")


def _disk(settings: Settings) -> Finding:
    folder = settings.home.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK):
        return Finding("home", Level.BAD, f"{folder} cannot be written", "choose another PENSTOCK_HOME")
    free = shutil.disk_usage(there).free
    level = Level.GOOD if free > LOW_DISK_BYTES else Level.WARN
    remedy = "" if level is Level.GOOD else "phi-3-mini takes 2.4 GB; choose another PENSTOCK_HOME or make room"
    return Finding("home", level, f"{folder}, {_gigabytes(free)} free", remedy)


def _engine(settings: Settings) -> Finding:
    try:
        build = version("llama-cpp-python")
    except PackageNotFoundError:
        return Finding("llama.cpp", Level.BAD, "llama-cpp-python is not installed", "make setup")
    done = _probe([sys.executable, "-P", "-c", ENGINE_PROBE], settings)
    if done.returncode:
        remedy = "it was built for another machine: build it here (`make clean setup`)"
        return Finding("llama.cpp", Level.BAD, f"{build} cannot be loaded ({describe_end(done.returncode)})", remedy)
    facts = json.loads(done.stdout.splitlines()[-1])
    backend = "GPU" if facts["gpu"] else "CPU only"
    return Finding("llama.cpp", Level.GOOD, f"llama-cpp-python {build}, {backend}; {facts['system'].strip()}")


def _attention(settings: Settings) -> Finding:
    """Whose attention a worker would have here. Nothing is built: that is a worker's first start."""
    if settings.attention == "llama.cpp":
        return Finding("attention", Level.GOOD, "llama.cpp's, as PENSTOCK_ATTENTION says")
    must = settings.attention == "penstock"
    if not settings.suits_own_attention:
        needs = "Penstock's own is for processors, f16 cells and flash attention"
        if must:
            return Finding("attention", Level.BAD, f"no worker starts: {needs}", "PENSTOCK_ATTENTION=auto does without")
        return Finding("attention", Level.GOOD, f"llama.cpp's: {needs}")
    done = _probe(role_command("attention", settings), settings)
    if done.returncode == 0:
        return Finding("attention", Level.GOOD, f"Penstock's own, for {done.stdout.strip()}")
    reason = (done.stderr.strip().splitlines() or [describe_end(done.returncode)])[-1]
    if must:
        return Finding("attention", Level.BAD, f"no worker starts: {reason}", "PENSTOCK_ATTENTION=auto does without")
    remedy = "long texts are written more slowly so; PENSTOCK_ATTENTION=llama.cpp if that is meant"
    return Finding("attention", Level.WARN, f"llama.cpp's: {reason}", remedy)


def _model(settings: Settings) -> Finding:
    name = settings.model
    done = _probe(role_command("models", settings), settings)
    if done.returncode:
        return Finding("model", Level.BAD, "the list of models cannot be read", (done.stderr.splitlines() or [""])[-1])
    known = {str(model["name"]): model for model in json.loads(done.stdout)}
    if name in known:
        return _named_model(known[name])
    if name.startswith("hf:"):
        return Finding("model", Level.GOOD, name, "`penstock model pull` fetches it now")
    path = Path(name).expanduser()
    if path.is_file():
        return Finding("model", Level.GOOD, f"{path}, {_gigabytes(path.stat().st_size)}")
    names = ", ".join([*known, "hf:OWNER/REPO/FILE.gguf or a path"])
    return Finding("model", Level.BAD, f"there is no {name}", f"PENSTOCK_MODEL: {names}")


def _named_model(model: dict[str, Any]) -> Finding:
    name = model["name"]
    if model["cached"]:
        return Finding("model", Level.GOOD, f"{name}, {_gigabytes(model['size_bytes'])}, {model['path']}")
    remedy = f"`penstock model pull {name}` fetches it now; `up` would, too; without a network: --model demo"
    return Finding("model", Level.WARN, f"{name} is not on this machine yet", remedy)


def _redis(settings: Settings) -> Finding:
    if settings.redis_url:
        return _redis_at(settings.redis_url)
    if redis_answers(settings.redis_socket):
        return Finding("Redis", Level.GOOD, f"answers on {settings.redis_socket}")
    try:
        program = find_redis_server()
    except CliError as error:
        return Finding("Redis", Level.BAD, "there is no server", str(error))
    return Finding("Redis", Level.GOOD, f"`up` starts {program}")


def _redis_at(url: str) -> Finding:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        answers = redis_answers(Path(parts.path))
    else:
        answers = _connects(parts.hostname or "localhost", parts.port or 6379)
    where = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
    if answers:
        return Finding("Redis", Level.GOOD, f"answers at {where}")
    return Finding("Redis", Level.BAD, f"nothing answers at {where}", "start it, or mend PENSTOCK_REDIS_URL")


def _database(settings: Settings) -> Finding:
    if embedded_database_url(settings):
        return Finding("database", Level.GOOD, "the PostgreSQL that `penstock up` has brought along")
    parts = urlsplit(settings.resolved_database_url)
    if not parts.scheme.startswith("sqlite"):
        host, port = parts.hostname or "localhost", parts.port or 5432
        if parts.query or _connects(host, port):
            return Finding("database", Level.GOOD, f"{parts.scheme.partition('+')[0]} at {host}:{port}")
        remedy = "start it, or mend PENSTOCK_DATABASE_URL"
        return Finding("database", Level.BAD, f"nothing answers at {host}:{port}", remedy)
    path = Path(settings.resolved_database_url.partition(":///")[2])
    if not path.exists():
        return Finding("database", Level.GOOD, f"`up` makes {path}")
    return _sqlite(path)


def _sqlite(path: Path) -> Finding:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
            number = connection.execute("SELECT count(*) FROM jobs").fetchone()[0]
    except sqlite3.Error as error:
        return Finding(
            "database", Level.BAD, f"{path} cannot be read ({type(error).__name__})", "`penstock up` mends tables"
        )
    return Finding("database", Level.GOOD, f"{path}, {number} jobs")


def _api_port(settings: Settings) -> Finding:
    return _port("API", settings.host, settings.port, "--port", settings)


def _flower_port(settings: Settings) -> Finding:
    return _port("Flower", settings.flower_host, settings.flower_port, "--flower-port", settings)


def _port(name: str, host: str, port: int, option: str, settings: Settings) -> Finding:
    running = find_addresses(settings.home.absolute())
    if running:
        return Finding(name, Level.GOOD, f"`penstock up` serves {running.api if name == 'API' else running.flower}")
    try:
        choose_port(host, port, option)
    except CliError:
        return Finding(name, Level.BAD, f"port {port} is taken", f"penstock up {option} 0")
    return Finding(name, Level.GOOD, f"port {port} is free")


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=3.0).close()
    except OSError:
        return False
    return True


def _probe(command: Sequence[str], settings: Settings) -> subprocess.CompletedProcess[str]:
    environment = child_environment(settings)
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {PROBE_SECONDS} s")


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
