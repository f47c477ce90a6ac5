"""Keeping roles up and taking them down, with small real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cli.errors import StartFailed
from cli.processes import SignalWatch, describe_end, tail
from cli.supervisor import LogMirror, Patience, Role, Supervisor

QUICK = Patience(first_seconds=0.02, max_seconds=0.1, healthy_seconds=60.0, quick_failures=3)
LIMIT_SECONDS = 20.0

# Says when it started and that it got SIGTERM, in a file they all share; `linger` is how it answers SIGTERM.
SCRIPT = """
import signal, sys, time
name, notes, linger = sys.argv[1:4]
def note(what):
    with open(notes, "a") as file:
        file.write(f"{name} {what}\\n")
def stop(*_):
    note("asked")
    if linger != "forever":
        time.sleep(float(linger))
        note("ended")
        sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note("up")
while True:
    signal.pause()
"""


class Bench:
    """A supervisor, and the notes of its roles."""

    def __init__(self, folder: Path, signals: SignalWatch) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.said: list[str] = []
        self.signals = signals
        self.supervisor = Supervisor(folder / "logs", signals, self.said.append, QUICK)

    def role(self, name: str, *, linger: str = "0", wave: int = 1, stop_seconds: float = 10.0, **rest: bool) -> Role:
        command = [sys.executable, "-c", SCRIPT, name, str(self.notes), linger]
        return Role(name, command, dict(os.environ), wave=wave, stop_seconds=stop_seconds, **rest)

    def failing(self, code: str, **rest: bool) -> Role:
        return Role("failing", [sys.executable, "-c", code], dict(os.environ), **rest)

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        assert self.supervisor.run_until(lambda: done() or time.monotonic() > deadline, look_seconds=0.01)
        assert done()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with SignalWatch() as signals:
        made = Bench(tmp_path, signals)
        yield made
        signals.num_stops += 5
        made.supervisor.stop()


def test_a_killed_role_is_started_again(bench: Bench) -> None:
    entry = bench.supervisor.start(bench.role("a"))
    bench.until(lambda: bench.noted() == ["a up"])
    assert entry.child
    entry.child.kill()
    bench.until(lambda: bench.noted() == ["a up", "a up"])
    assert "killed by SIGKILL" in bench.said[0]


def test_pauses_double_up_to_a_limit_and_start_anew_after_health() -> None:
    patience = Patience(first_seconds=0.5, max_seconds=3.0)
    assert [patience.pause_seconds(failures) for failures in (1, 2, 3, 4, 9)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_role_that_was_healthy_for_long_is_forgiven(tmp_path: Path) -> None:
    now = [0.0]
    with SignalWatch() as signals:
        supervisor = Supervisor(tmp_path, signals, lambda _: None, QUICK, clock=lambda: now[0])
        entry = supervisor.start(Role("a", [sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ)))
        for _ in range(6):
            assert entry.child
            entry.child.wait()
            now[0] += QUICK.healthy_seconds + 1
            supervisor.mend()
            assert entry.failures == 1
            now[0] += 1
            supervisor.mend()
        supervisor.stop()


def test_three_quick_failures_end_it_with_the_last_lines(bench: Bench) -> None:
    bench.supervisor.start(bench.failing("print('loading'); raise SystemExit('no such model')"))
    with pytest.raises(StartFailed) as failed:
        bench.until(lambda: False)
    assert failed.value.log_lines == ("loading", "no such model")
    assert "3 times in a row (exit status 1)" in str(failed.value)


def test_a_role_killed_from_outside_is_never_given_up_once_all_was_ready(bench: Bench) -> None:
    bench.supervisor.was_ready = True
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    bench.supervisor.start(bench.failing(code))
    bench.until(lambda: len(bench.said) > 4)


def test_a_role_that_is_not_essential_does_not_end_the_others(bench: Bench) -> None:
    bench.supervisor.start(bench.failing("raise SystemExit(1)", essential=False))
    bench.until(lambda: len(bench.said) > 4)


def test_waves_stop_one_after_the_other(bench: Bench) -> None:
    for name, wave in (("store", 2), ("api", 1), ("worker", 0)):
        bench.supervisor.start(bench.role(name, wave=wave, linger="0.1"))
    bench.until(lambda: len(bench.noted()) == 3)
    bench.supervisor.stop()
    stops = [note for note in bench.noted() if not note.endswith("up")]
    assert stops == ["worker asked", "worker ended", "api asked", "api ended", "store asked", "store ended"]


def test_who_overstays_is_killed(bench: Bench) -> None:
    entry = bench.supervisor.start(bench.role("a", linger="forever", stop_seconds=0.2))
    bench.until(lambda: bench.noted() == ["a up"])
    child = entry.child
    bench.supervisor.stop()
    assert child
    assert child.returncode == -signal.SIGKILL


def test_a_second_signal_stops_at_once_but_lets_a_store_close(bench: Bench) -> None:
    worker = bench.supervisor.start(bench.role("worker", wave=0, linger="forever", stop_seconds=60.0))
    store = bench.supervisor.start(bench.role("store", wave=2, linger="0.1", is_store=True))
    bench.until(lambda: len(bench.noted()) == 2)
    children = worker.child, store.child
    os.kill(os.getpid(), signal.SIGTERM)
    bench.signals.wait(LIMIT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    bench.signals.wait(0)
    bench.signals.num_stops = 1  # the stop begins with the first; the second comes while it waits
    waits = bench.signals.wait

    def second_signal(timeout_seconds: float | None) -> None:
        bench.signals.num_stops = 2
        waits(timeout_seconds)

    bench.signals.wait = second_signal  # type: ignore[method-assign]
    started = time.monotonic()
    bench.supervisor.stop()
    assert time.monotonic() - started < LIMIT_SECONDS
    assert [child.returncode for child in children if child] == [-signal.SIGKILL, 0]


def test_a_stop_ends_the_wait_and_children_do_not_see_it(bench: Bench) -> None:
    bench.supervisor.start(bench.role("a"))
    bench.until(lambda: bench.noted() == ["a up"])
    os.kill(os.getpid(), signal.SIGINT)
    assert bench.supervisor.run_until(lambda: False) is False
    assert bench.noted() == ["a up"]


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent_code = (
        "import os, sys, time; from cli.processes import spawn; "
        "child = spawn([sys.executable, '-c', 'import time; time.sleep(600)'], environment=os.environ); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(LIMIT_SECONDS)
    assert not child.is_running()


def test_a_mirror_shows_whole_lines_with_the_roles_name(bench: Bench) -> None:
    code = "import sys, time; sys.stdout.write('one\\ntwo'); sys.stdout.flush(); time.sleep(60)"
    entry = bench.supervisor.start(bench.failing(code))
    shown: list[tuple[str, str]] = []
    mirror = LogMirror(bench.supervisor, lambda name, text: shown.append((name, text)))
    bench.until(lambda: entry.log.stat().st_size == 7)
    mirror.look()
    assert shown == [("failing", "one")]


def test_a_log_that_has_grown_is_put_aside(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.supervisor.MAX_LOG_BYTES", 3)
    log = bench.folder / "logs" / "a.log"
    log.parent.mkdir()
    log.write_text("old lines")
    bench.supervisor.start(bench.role("a"))
    assert (log.parent / "a.log.1").read_text() == "old lines"


def test_the_end_of_a_process_in_words() -> None:
    assert [describe_end(status) for status in (0, 3, -9)] == ["exit status 0", "exit status 3", "killed by SIGKILL"]


def test_a_tail_starts_where_it_is_told(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("before\n\nafter\nlast\n")
    assert tail(log, start=7) == ["after", "last"]
    assert tail(tmp_path / "none.log") == []
