"""What `penstock up` leaves in its home for others to find: the lock that keeps a second one out, and its addresses."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.errors import StartFailed, UsageError

LOCK_NAME = "up.lock"
ADDRESSES_NAME = "up.json"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running `up` serves. URLs without a closing slash."""

    pid: int
    api: str
    flower: str
    database_url: str = ""
    """Of its embedded PostgreSQL; empty: the settings say it."""

    @property
    def docs(self) -> str:
        return f"{self.api}/docs"


@contextlib.contextmanager
def hold_home(home: Path) -> Iterator[None]:
    """Keep a second `up` out of `home`. The kernel lifts the lock when its holder dies: it is never stale."""
    with (home / LOCK_NAME).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise StartFailed(
                f"another `penstock up` (process {holder}) already runs in {home}: stop it, "
                "or give this one a PENSTOCK_HOME of its own."
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
        lock.truncate(0)


@contextlib.contextmanager
def announce(home: Path, addresses: Addresses) -> Iterator[None]:
    """Let commands on this machine find the system while it is ready."""
    file = home / ADDRESSES_NAME
    part = file.with_suffix(".part")
    part.write_text(json.dumps(asdict(addresses)), encoding="utf-8")
    part.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def find_addresses(home: Path) -> Addresses | None:
    """The addresses of the `up` that is ready in `home`, if there is one."""
    try:
        addresses = Addresses(**json.loads((home / ADDRESSES_NAME).read_text(encoding="utf-8")))
        os.kill(addresses.pid, 0)
    except (OSError, ValueError, TypeError):
        return None
    return addresses


def choose_port(host: str, port: int, option: str) -> int:
    """The port to serve on: a free one for 0, else `port` if it is free. `option` is what a person can turn."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UsageError(
                f"{option}: port {port} on {host} cannot be used ({error.strerror}); choose another, or 0 for any."
            ) from error
        return int(probe.getsockname()[1])


def reachable_url(host: str, port: int) -> str:
    """URL for a person on this machine: a server on every address is reached on loopback."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{shown}:{port}"
