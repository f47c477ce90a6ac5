"""The role as a process: where it listens, what it refuses, what it logs, how it stops."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from api.__main__ import main
from api.binding import UnsafeBinding, check_binding
from jobs.keys import NewKey
from jobs.settings import Settings
from tests.api.stage import NO_REDIS, Api, Stage, frames
from tests.support.services import wait_until

ROOT = Path(__file__).resolve().parents[2]
SECRET_PROMPT = "a-very-secret-prompt"
SECRET_KEY = "a-very-secret-key"


class Process:
    """`python -m api`, its log read as it comes."""

    def __init__(self, stage: Stage, module: str = "api", **variables: str) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PENSTOCK_HOME": str(stage.settings.home),
            "PENSTOCK_DATABASE_URL": stage.settings.database_url,
            "PENSTOCK_REDIS_URL": stage.settings.redis_url,
            "PENSTOCK_MODEL": stage.settings.model,
            "PENSTOCK_PORT": "0",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=environment | variables,
            cwd=stage.settings.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log = ""
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def url(self) -> str:
        """Wait for the line that says where it listens."""
        while (line := self._lines.get(timeout=30)) is not None:
            self.log += line
            if '"url"' in line:
                return line.split('"url": "')[1].split('"')[0]
        raise AssertionError(f"ended without listening:\n{self.log}")

    def end(self) -> int:
        """Wait for its end; `log` is whole then."""
        status = self.process.wait(30)
        while (line := self._lines.get(timeout=30)) is not None:
            self.log += line
        return status


@pytest.fixture
def start_process(set_stage: Callable[..., Stage]) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(module: str = "api", **variables: str) -> Process:
        started.append(Process(set_stage(), module, **variables))
        return started[-1]

    yield start
    for process in started:
        process.process.kill()
        process.process.wait()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_streams_and_the_process_cleanly(
    start_process: Callable[..., Process], signal_number: signal.Signals
) -> None:
    process = start_process()
    with httpx.Client(base_url=process.url(), trust_env=False) as client:
        job_id = client.post("/v1/jobs", json={"prompt": SECRET_PROMPT}).json()["id"]
        with client.stream("GET", f"/v1/jobs/{job_id}/events") as reply:
            stream = frames(reply.iter_raw())
            assert next(stream).event == "state"
            process.process.send_signal(signal_number)
            assert [frame.event for frame in stream] == ["error"]
    assert process.end() == 0
    assert "Traceback" not in process.log


def test_a_signal_in_the_middle_of_a_log_line_ends_the_process_all_the_same(
    start_process: Callable[..., Process],
) -> None:
    process = start_process("tests.support.signal_in_a_log_line")
    assert process.end() == 0
    assert "stopping" in process.log


def test_nothing_secret_is_logged(start_process: Callable[..., Process]) -> None:
    process = start_process(PENSTOCK_API_KEYS=SECRET_KEY, PENSTOCK_LOG_LEVEL="debug")
    headers = {"Authorization": f"Bearer {SECRET_KEY}"}
    with httpx.Client(base_url=process.url(), trust_env=False, headers=headers) as client:
        assert client.post("/v1/jobs", json={"prompt": SECRET_PROMPT}).status_code == 202
        assert client.post("/v1/jobs", json={"prompt": SECRET_PROMPT, "seed": SECRET_PROMPT}).status_code == 400
        assert client.get(f"/v1/jobs?after={SECRET_PROMPT}").status_code == 400
        assert client.get("/v1/jobs").json()["data"][0]["prompt"] == SECRET_PROMPT
    process.process.terminate()
    assert process.end() == 0
    assert "/v1/jobs" in process.log
    assert "secret" not in process.log


def test_an_address_beyond_loopback_without_keys_is_refused(start_process: Callable[..., Process]) -> None:
    process = start_process(PENSTOCK_HOST="0.0.0.0")
    assert process.end() == 2
    assert "PENSTOCK_API_KEYS" in process.log


def test_a_wrong_setting_is_named_without_its_value(start_process: Callable[..., Process]) -> None:
    process = start_process(PENSTOCK_PORT="secret")
    assert process.end() == 2
    assert "PENSTOCK_PORT" in process.log
    assert "secret" not in process.log


def test_a_port_that_is_taken_is_an_error(start_process: Callable[..., Process]) -> None:
    port = start_process().url().rsplit(":", 1)[1]
    second = start_process(PENSTOCK_PORT=port)
    assert second.end() == 3
    assert port in second.log


def test_it_starts_without_redis_and_without_a_database(start_process: Callable[..., Process]) -> None:
    process = start_process(PENSTOCK_REDIS_URL=NO_REDIS, PENSTOCK_DATABASE_URL="postgresql://127.0.0.1:1/none")
    with httpx.Client(base_url=process.url(), trust_env=False) as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").json()["status"] == "unavailable"
        assert client.get("/v1/jobs").status_code == 503


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    check_binding(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", ""])
def test_any_other_address_needs_keys(host: str, set_stage: Callable[..., Stage]) -> None:
    stage = set_stage(host=host)
    check_binding(stage.settings.model_copy(update={"api_keys": ("k",)}))
    with pytest.raises(UnsafeBinding, match="penstock keys create"):
        check_binding(stage.settings)
    row, _ = stage.store.create_key(NewKey("a key"))
    check_binding(stage.settings)
    stage.store.revoke_key(row.id)
    with pytest.raises(UnsafeBinding, match="no API key is set"):
        check_binding(stage.settings)


def test_an_address_beyond_loopback_is_not_opened_while_no_key_can_be_looked_up(tmp_path: Path) -> None:
    with pytest.raises(UnsafeBinding, match="no API key can be looked up"):
        check_binding(Settings(host="0.0.0.0", home=tmp_path, database_url="postgresql://127.0.0.1:1/none"))


def test_beyond_loopback_a_key_is_asked_for_whatever_becomes_of_the_stored_ones(start_api: Callable[..., Api]) -> None:
    api = start_api(host="0.0.0.0")
    assert api.store.list_keys() == []
    assert api.client.get("/v1/jobs").status_code == 401


def test_whether_it_may_listen_can_be_asked_without_listening(
    set_stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = set_stage()
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", stage.settings.database_url)
    monkeypatch.setenv("PENSTOCK_HOST", "0.0.0.0")
    assert main(["check"]) == 2
    assert "PENSTOCK_HOST is 0.0.0.0" in capsys.readouterr().err
    stage.store.create_key(NewKey("a key"))
    assert main(["check"]) == 0


def test_a_slow_body_is_waited_for_and_bounded(start_process: Callable[..., Process]) -> None:
    process = start_process(PENSTOCK_MAX_BODY_BYTES="2048")
    arrived = threading.Event()

    def body() -> Iterator[bytes]:
        yield b'{"prompt": "'
        arrived.set()
        for _ in range(400):
            yield b"x" * 1024

    headers = {"Content-Type": "application/json"}
    with httpx.Client(base_url=process.url(), trust_env=False) as client:
        try:
            status = client.post("/v1/jobs", content=body(), headers=headers).status_code
        except httpx.TransportError:  # the server closed while we were sending: it read no further
            status = 413
        assert arrived.is_set()
        assert status == 413
        assert client.get("/v1/jobs").json()["data"] == []
    wait_until(lambda: process.process.poll() is None)
