"""`make demo`: the whole system from nothing to stored rows and back to nothing, with the commands a person would type.

Everything lives in a temporary home and on free ports, so it disturbs no other Penstock. On a failure it prints the
last lines of every log and exits with 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

from cli.home import ADDRESSES_NAME
from cli.processes import SignalWatch, signal_group, spawn, tail
from cli.roles import child_environment, python, read_settings
from cli.supervisor import KILL_SECONDS

SUBJECTS = (
    "ice hockey", "the sea", "autumn leaves", "a mountain", "winter", "spring rain", "the moon", "a river",
    "a garden", "the night sky", "a cat", "a train", "snow", "the wind", "a bridge", "a forest", "morning", "the sun",
    "a bird", "a lake", "an old house", "the city", "summer", "a road", "coffee",
)  # fmt: skip
NUM_PROMPTS = 50
ROWS_SHOWN = 12
READY_SECONDS = 300.0
STOP_SECONDS = 90.0
COMMAND_SECONDS = 300.0

console = Console(highlight=False, soft_wrap=True)


class DemoFailed(Exception):
    """A step did not work; the message says which."""


def main() -> int:
    """Run the demo. Returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder, SignalWatch() as signals:
        home = Path(folder) / "home"
        environment = demo_environment(home)
        try:
            with running_system(home, environment, signals):
                show(Path(folder), environment, signals)
        except DemoFailed as error:
            console.print(f"The demo failed: {error}", style="bold red", markup=False)
            print_logs(home / "logs")
            return 130 if signals.num_stops else 1
    console.print("Everything has stopped. `penstock up` runs the system for real use.", style="bold green")
    return 0


def demo_environment(home: Path) -> dict[str, str]:
    """Our environment without any PENSTOCK_* setting of its own: the demo shows the defaults."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return plain | {"PENSTOCK_HOME": str(home), "PYTHONPATH": child_environment(read_settings()).get("PYTHONPATH", "")}


def show(folder: Path, environment: Mapping[str, str], signals: SignalWatch) -> None:
    """The steps a person would take."""
    step("One generation, as it comes", 'penstock submit --stream "Write a haiku about ice hockey"')
    command(environment, signals, "submit", "--stream", "Write a haiku about ice hockey")
    prompts, results = folder / "prompts.jsonl", folder / "results.jsonl"
    write_prompts(prompts)
    step(f"A batch of {NUM_PROMPTS} prompts", "penstock batch submit prompts.jsonl --wait --output results.jsonl")
    command(environment, signals, "batch", "submit", str(prompts), "--wait", "--output", str(results))
    check_results(results)
    step(f"The newest {ROWS_SHOWN} of {NUM_PROMPTS + 1} stored rows", f"penstock jobs list --limit {ROWS_SHOWN}")
    command(environment, signals, "jobs", "list", "--limit", str(ROWS_SHOWN))


def step(title: str, typed: str) -> None:
    console.print()
    console.print(Rule(title, align="left", style="cyan"))
    console.print(f"$ {typed}", style="bold", markup=False)


def command(environment: Mapping[str, str], signals: SignalWatch, *words: str) -> None:
    """Run one `penstock` command on this screen."""
    child = spawn(python("cli", *words), environment=environment)
    status = wait(child, signals, COMMAND_SECONDS)
    if status != 0:
        raise DemoFailed(f"`penstock {words[0]}` did not end well (exit status {status}).")


@contextmanager
def running_system(home: Path, environment: Mapping[str, str], signals: SignalWatch) -> Iterator[None]:
    """`penstock up` for the length of the block; it must end well too."""
    step("The whole system", "penstock up --model demo --port 0 --flower-port 0")
    child = spawn(python("cli", "up", "--model", "demo", "--port", "0", "--flower-port", "0"), environment=environment)
    try:
        wait_ready(child, home / ADDRESSES_NAME, signals)
        yield
        console.print()
        console.print(Rule("Stopping", align="left", style="cyan"))
    finally:
        signal_group(child, SignalWatch.STOPS[1])
        status = wait(child, signals, STOP_SECONDS, patient=True)
    if status != 0:
        raise DemoFailed(f"`penstock up` did not end well (exit status {status}).")


def wait_ready(child: subprocess.Popen[bytes], addresses: Path, signals: SignalWatch) -> None:
    """Until `up` has written its addresses, which it does when it is ready."""
    late = threading.Event()
    timer = threading.Timer(READY_SECONDS, late.set)
    timer.daemon = True
    timer.start()
    try:
        while not addresses.exists():
            signals.wait(0.1)
            if signals.num_stops:
                raise DemoFailed("it was stopped.")
            if child.poll() is not None:
                raise DemoFailed(f"`penstock up` ended before it was ready (exit status {child.returncode}).")
            if late.is_set():
                raise DemoFailed(f"`penstock up` was not ready after {READY_SECONDS:.0f} s.")
    finally:
        timer.cancel()


def wait(
    child: subprocess.Popen[bytes], signals: SignalWatch, limit_seconds: float, *, patient: bool = False
) -> int | None:
    """Exit status of a child; one that overstays, or is in the way of a stop, is ended. `patient` ignores a stop."""
    waited = 0.0
    while child.poll() is None and waited < limit_seconds and (patient or not signals.num_stops):
        signals.wait(0.2)
        waited += 0.2
    if child.poll() is None:
        signal_group(child, SignalWatch.STOPS[1])
        try:
            child.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        return None
    return child.returncode


def write_prompts(file: Path) -> None:
    """A batch file: one JSON object a line."""
    lines = (
        {"messages": [{"role": "user", "content": f"Write a haiku about {SUBJECTS[number % len(SUBJECTS)]}"}]}
        for number in range(NUM_PROMPTS)
    )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def check_results(file: Path) -> None:
    """Every prompt has a stored completion and a seed."""
    results = [json.loads(line)["penstock"] for line in file.read_text(encoding="utf-8").splitlines()]
    good = [result for result in results if result["state"] == "succeeded" and result.get("seed") is not None]
    if len(good) != NUM_PROMPTS:
        raise DemoFailed(f"{len(good)} of {NUM_PROMPTS} prompts have a stored generation.")


def print_logs(folder: Path) -> None:
    """The end of every role's log."""
    for log in sorted(folder.glob("*.log")):
        console.print(f"── {log.name}", style="yellow", markup=False)
        for line in tail(log, num_lines=15):
            console.print(f"  {line}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
