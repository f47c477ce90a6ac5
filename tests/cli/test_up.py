"""`penstock up`, whole and real: a job succeeds, a stop leaves nothing behind, and what cannot start says why."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.services import wait_until

ROOT = Path(__file__).parents[2]
READY_SECONDS = 90.0
STOP_SECONDS = 60.0


class Up:
    """A running `penstock up` in a home of its own."""

    def __init__(self, home: Path, *words: str, **settings: str) -> None:
        self.home = home
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        self.environment = plain | {"PENSTOCK_HOME": str(home), "PYTHONPATH": str(ROOT)} | settings
        self.process = self.penstock("up", "--port", "0", "--flower-port", "0", *words)

    def penstock(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cli", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def wait_ready(self) -> None:
        wait_until(lambda: self.process.poll() is not None or (self.home / "up.json").exists(), READY_SECONDS)
        assert self.process.poll() is None, self.process.communicate()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def running(*words: str, **settings: str) -> Iterator[Up]:
    with tempfile.TemporaryDirectory(prefix="penstock-up-", dir="/tmp") as folder:
        up = Up(Path(folder) / "home", *words, **settings)
        try:
            yield up
        finally:
            up.process.kill()
            up.process.communicate()


def all_gone(children: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(children, timeout=STOP_SECONDS)[1]


def test_a_job_succeeds_and_a_stop_leaves_no_child(tiny_model_path: Path) -> None:
    with running("--model", str(tiny_model_path), "--slots", "2") as up:
        up.wait_ready()
        out, err = up.penstock("submit", "--wait", "--json", "Hello", "--max-tokens", "8").communicate()
        job = json.loads(out)
        assert (job["state"], job["usage"]["completion_tokens"]) == ("succeeded", 8), err
        children = up.children()
        assert len(children) >= 5
        up.process.send_signal(signal.SIGTERM)
        out, err = up.process.communicate(timeout=STOP_SECONDS)
        assert up.process.returncode == 0, err
        assert "ready" in out
        assert all_gone(children)
        assert not (up.home / "up.json").exists()
        assert job["messages"][0]["content"] not in "".join(log.read_text() for log in up.home.glob("logs/*.log"))


NOTE_AT_EXIT = """
import atexit, gc, os, pathlib, sys
def note():
    script = pathlib.Path(sys.argv[0])
    role = script.parent.name if script.stem == "__main__" else script.stem
    (pathlib.Path(os.environ["NOTES"]) / role).write_text(str(gc.get_freeze_count()))
atexit.register(note)
"""


def test_no_role_looks_again_and_again_for_garbage_in_what_it_made_at_its_start(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOTE_AT_EXIT)
    notes = tmp_path / "notes"
    notes.mkdir()
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    with running("--model", str(tiny_model_path), "--slots", "2", PYTHONPATH=path, NOTES=str(notes)) as up:
        up.wait_ready()
        up.process.send_signal(signal.SIGTERM)
        up.process.communicate(timeout=STOP_SECONDS)
    set_aside = {note.name: int(note.read_text()) for note in notes.iterdir()}
    for role in ("api", "worker", "dispatcher", "flower"):
        assert set_aside[role] > 50_000, set_aside


def test_a_killed_role_comes_back_and_a_killed_up_takes_all_with_it(tiny_model_path: Path) -> None:
    with running("--model", str(tiny_model_path), "--slots", "2") as up:
        up.wait_ready()
        worker = next(child for child in up.children() if child.cmdline()[-1] == "worker")
        worker.kill()
        wait_until(lambda: any(child.cmdline()[-1:] == ["worker"] for child in up.children() if child != worker))
        out, err = up.penstock("submit", "--wait", "Hello", "--max-tokens", "4").communicate()
        assert out, err
        children = up.children()
        up.process.kill()
        assert all_gone(children)


def test_a_model_that_cannot_be_had_is_one_clear_end(tmp_path: Path) -> None:
    with running("--model", str(tmp_path / "none.gguf")) as up:
        _, err = up.process.communicate(timeout=STOP_SECONDS)
        assert up.process.returncode == 1
        assert "none.gguf" in err
        assert not list(up.home.glob("logs/redis.log"))


def test_a_worker_that_cannot_load_ends_it_with_its_last_lines(tmp_path: Path, tiny_model_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_model_path.read_bytes()[:-3_000_000])
    with running("--model", str(broken)) as up:
        _, err = up.process.communicate(timeout=READY_SECONDS)
        assert up.process.returncode == 1
        assert "worker-1 failed 3 times in a row" in err
        assert "  | " in err


def test_a_taken_port_is_named(tiny_model_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with running("--model", str(tiny_model_path), "--port", port) as up:
            _, err = up.process.communicate(timeout=STOP_SECONDS)
    assert up.process.returncode == 2
    assert err.startswith(f"penstock: --port: port {port}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_it_is_ready_is_clean(tiny_model_path: Path, number: signal.Signals) -> None:
    with running("--model", str(tiny_model_path)) as up:
        wait_until((up.home / "logs" / "redis.log").exists, READY_SECONDS)
        children = up.children()
        up.process.send_signal(number)
        _, err = up.process.communicate(timeout=STOP_SECONDS)
        assert up.process.returncode == 0, err
        assert all_gone(children)


def test_an_address_that_others_reach_needs_a_key_before_anything_is_fetched() -> None:
    with running("--model", "nowhere.gguf", PENSTOCK_HOST="0.0.0.0") as up:
        _, said = up.process.communicate(timeout=READY_SECONDS)
        assert up.process.returncode == 1
        assert "PENSTOCK_HOST is 0.0.0.0" in said
        assert "penstock keys create" in said
        made = up.penstock("keys", "create", "first")
        key, _ = made.communicate(timeout=READY_SECONDS)
        assert key.startswith("psk_")
        again = up.penstock("up", "--port", "0", "--flower-port", "0", "--model", "nowhere.gguf")
        _, said = again.communicate(timeout=READY_SECONDS)
        assert "nowhere.gguf" in said
        assert "PENSTOCK_HOST" not in said
