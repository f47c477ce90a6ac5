"""The Redis that `up` starts, for real; and the home it lives in."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from cli.embedded import (
    check_socket_path,
    find_redis_server,
    make_private,
    postgres_command,
    postgres_url_file,
    redis_answers,
    redis_command,
)
from cli.errors import StartFailed, UsageError
from cli.home import Addresses, announce, choose_port, find_addresses, hold_home, reachable_url
from tests.support.services import wait_until

LIMIT_SECONDS = 10.0


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="penstock-", dir="/tmp") as folder:
        yield Path(folder)


def serve(folder: Path) -> subprocess.Popen[bytes]:
    command = redis_command(find_redis_server(), folder / "redis.sock", folder)
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + LIMIT_SECONDS
    while not redis_answers(folder / "redis.sock"):
        assert time.monotonic() < deadline
        assert server.poll() is None
    return server


def test_it_serves_a_private_socket_keeps_writes_and_evicts_nothing(short: Path) -> None:
    server = serve(short)
    try:
        client = redis.Redis(unix_socket_path=str(short / "redis.sock"), decode_responses=True)
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "port": "0"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert stat.S_IMODE((short / "redis.sock").stat().st_mode) == 0o700
        client.set("kept", "yes")
    finally:
        server.terminate()
        assert server.wait(LIMIT_SECONDS) == 0
    server = serve(short)
    try:
        assert redis.Redis(unix_socket_path=str(short / "redis.sock"), decode_responses=True).get("kept") == "yes"
    finally:
        server.terminate()
        server.wait(LIMIT_SECONDS)


def test_a_server_of_this_machine_comes_first(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("redis-server", "valkey-server"):
        (short / name).write_text("#!/bin/sh\n")
        (short / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(short))
        assert find_redis_server() == short / name


def test_without_any_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(StartFailed, match="PENSTOCK_REDIS_URL"):
        find_redis_server()


def test_a_socket_path_that_the_kernel_would_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="PENSTOCK_HOME"):
        check_socket_path(tmp_path / ("x" * 120))


def test_a_home_is_made_private(tmp_path: Path) -> None:
    home = tmp_path / "a" / "home"
    make_private(home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    home.chmod(0o755)
    make_private(home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartFailed, match="PENSTOCK_HOME"):
        make_private(tmp_path / "file")


def test_a_second_up_in_one_home_is_refused_by_name(tmp_path: Path) -> None:
    with hold_home(tmp_path), pytest.raises(StartFailed, match=str(os.getpid())), hold_home(tmp_path):
        pass
    with hold_home(tmp_path):
        pass


def test_a_killed_up_leaves_no_stale_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from cli.home import hold_home\n"
        "with hold_home(Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(StartFailed), hold_home(tmp_path):
            pass
        holder.kill()
    with hold_home(tmp_path):
        pass


def test_commands_find_a_running_up_by_its_home(tmp_path: Path) -> None:
    here = Addresses(os.getpid(), "http://127.0.0.1:1", "http://127.0.0.1:2")
    with announce(tmp_path, here):
        assert find_addresses(tmp_path) == here
    assert find_addresses(tmp_path) is None


def test_addresses_of_a_dead_up_are_not_believed(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/true"]) as gone:
        pass
    with announce(tmp_path, Addresses(gone.pid, "http://x", "http://y")):
        assert find_addresses(tmp_path) is None


def test_a_taken_port_names_its_option() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="--port"):
        choose_port("127.0.0.1", taken.getsockname()[1], "--port")
    assert choose_port("127.0.0.1", 0, "--port") > 0


def test_a_server_on_every_address_is_reached_on_loopback() -> None:
    assert reachable_url("0.0.0.0", 8) == "http://127.0.0.1:8"
    assert reachable_url("::1", 8) == "http://[::1]:8"


@contextmanager
def serving(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """An embedded PostgreSQL: its role, and the server itself."""
    postgres_url_file(folder).unlink(missing_ok=True)  # of a role that was killed
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(postgres_command(folder), env=environment) as role:
        try:
            wait_until(lambda: role.poll() is not None or postgres_url_file(folder).exists(), 60.0)
            with psycopg.connect(postgres_url_file(folder).read_text()) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            yield role, psutil.Process(int((folder / "postmaster.pid").read_text().split()[0]))
        finally:
            role.terminate()


def gone(server: psutil.Process) -> bool:
    return not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_an_embedded_postgres_ends_with_its_process(short: Path) -> None:
    folder = short / "postgres"
    with serving(folder) as (role, server):
        role.terminate()
        assert role.wait(30) == 0
        wait_until(lambda: gone(server))
    assert not postgres_url_file(folder).exists()


def test_a_killed_postgres_ends_its_role_and_the_next_one_serves_and_stops_it(short: Path) -> None:
    folder = short / "postgres"
    with serving(folder) as (role, server):
        server.kill()
        assert role.wait(30) == 1
        assert not postgres_url_file(folder).exists()
    with serving(folder) as (role, _):
        role.kill()  # The server lives on, without its keeper.
        role.wait(30)
    with serving(folder) as (role, server):
        role.terminate()
        assert role.wait(30) == 0
        wait_until(lambda: gone(server))
