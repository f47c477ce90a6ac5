"""Runs the blocks of a page as somebody would who reads it: in one folder, one after the other, with a real system.

Addresses that a page writes out (`http://127.0.0.1:8000`) are exchanged for those of the running system.
Variables of the shell with small letters live on from block to block, and so does the key to the API.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.docs.blocks import ROOT, Block, blocks_of, missing_line
from tests.ops.running import free_port
from tests.support.services import wait_until

READY_SECONDS = 90.0
BLOCK_SECONDS = 120.0
STOP_SECONDS = 60.0
_IDS = {"JOB_ID": re.compile(r"job_[0-9a-f]{32}"), "BATCH_ID": re.compile(r"batch_[0-9a-f]{32}")}
_IDS |= {"FILE_ID": re.compile(r"file-[0-9a-f]{32}")}
_STATE = ".variables"
_SHELL = f"""set -euo pipefail
[ ! -f {_STATE} ] || {{ set -a; . ./{_STATE}; set +a; }}
keep() {{
    unset BASH_EXECUTION_STRING
    set -o posix
    set | grep -E "^([a-z][a-z_]*|PENSTOCK_API_KEY)=" > {_STATE} || true
}}
trap keep EXIT
"""


class System:
    """A running `penstock up`, and what a block finds around it."""

    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.ids: dict[str, str] = {}
        self._programs(folder / "bin")
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "OPENAI_"))}
        self.environment = {
            **plain,
            "HOME": str(folder),
            "PENSTOCK_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            **environment,
        }
        command = [sys.executable, "-m", "cli", "up", "--port", "0", "--flower-port", "0", *words]
        self.log = folder / "up.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=folder)

    def _programs(self, folder: Path) -> None:
        """`penstock` and `python`, as an activated `.venv` has them."""
        folder.mkdir()
        programs = {
            "penstock": f"PYTHONPATH={ROOT} exec {sys.executable} -m cli",
            "python": f"exec {sys.executable}",
        }
        for name, words in programs.items():
            (folder / name).write_text(f'#!/bin/sh\n{words} "$@"\n')
            (folder / name).chmod(0o755)

    def wait_ready(self) -> None:
        wait_until(lambda: self.process.poll() is not None or self._announced(), READY_SECONDS)
        assert self.process.poll() is None, self.log.read_text()

    def _announced(self) -> bool:
        return (self.home / "up.json").exists()

    def addresses(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.home / "up.json").read_text())
        return found

    def penstock(self, *words: str) -> str:
        """Standard output of a command, whatever its exit status."""
        done = subprocess.run(
            [self.folder / "bin" / "penstock", *words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def fail_a_job(self) -> None:
        """What a system that has been used has: a batch, and a job that failed."""
        (self.folder / "bad.jsonl").write_text('"Fine"\n{"prompt": "x", "temperature": 300}\n')
        told = self.penstock("batch", "submit", "bad.jsonl", "--wait", "--max-tokens", "8")
        told += self.penstock("jobs", "list", "--state", "failed")
        self.ids = {name: pattern.findall(told)[0] for name, pattern in _IDS.items() if name != "FILE_ID"}

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def running(*words: str, **environment: str) -> Iterator[System]:
    with tempfile.TemporaryDirectory(prefix="penstock-docs-", dir="/tmp") as folder:
        system = System(Path(folder), *words, **environment)
        try:
            system.wait_ready()
            system.fail_a_job()
            yield system
        finally:
            system.stop()


class Page:
    """One page while it is run, in a folder of its own."""

    def __init__(self, page: Path, system: System, folder: Path, environment: Mapping[str, str]) -> None:
        self.page, self.folder = page, folder
        path = [system.environment["PATH"].split(os.pathsep)[0], *filter(None, [environment.get("PATH")])]
        path.append(os.environ["PATH"])
        self.environment = {**system.environment, **environment, "PATH": os.pathsep.join(path)}
        addresses = system.addresses()
        self.exchanged = {
            "http://127.0.0.1:8000": addresses["api"],
            "http://127.0.0.1:5555": addresses["flower"],
            "9000": str(free_port()),
        }
        self.exchanged |= system.ids
        if page.name == "README.md":
            self.exchanged["seq 1000"] = "seq 100"  # the tutorial runs a thousand
        self.printed = ""
        self.background: list[subprocess.Popen[bytes]] = []

    def run(self) -> None:
        """Every block, in order. The first that does not do what the page says fails."""
        try:
            for number, block in enumerate(blocks_of(self.page)):
                self._do(number, block)
        finally:
            for child in self.background:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()

    def _do(self, number: int, block: Block) -> None:
        if "file" in block.marks:
            (self.folder / block.marks["file"]).write_text(self._exchanged(block.text), encoding="utf-8")
        elif "output" in block.marks:
            missing = missing_line(self._exchanged(block.text), self.printed)
            assert missing is None, f"{block}: not printed: {missing}\n--- printed:\n{self.printed}"
        elif block.runs:
            self._execute(number, block)

    def _execute(self, number: int, block: Block) -> None:
        log = self.folder / f".block-{number}.log"
        words = self._words(number, block)
        with log.open("wb") as out:
            child = subprocess.Popen(
                words,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if "background" in block.marks:
            self.background.append(child)
            wait_until(lambda: log.stat().st_size or child.poll() is not None, BLOCK_SECONDS)
            assert child.poll() is None, f"{block}: ended\n{log.read_text()}"
            return
        try:
            status = child.wait(BLOCK_SECONDS)
        finally:
            child.kill()
        self.printed = log.read_text(encoding="utf-8", errors="replace")
        for name, pattern in _IDS.items():
            if found := pattern.search(self.printed):
                self.exchanged[name] = found[0]
        wanted = int(block.marks.get("exits", "0"))
        assert status == wanted, f"{block}: exit status {status}\n{block.text}\n--- printed:\n{self.printed}"

    def _words(self, number: int, block: Block) -> list[str]:
        text = self._exchanged(block.text)
        if block.language == "python":
            program = self.folder / f".block-{number}.py"
            program.write_text(text, encoding="utf-8")
            return ["python", program.name]
        return ["bash", "-c", _SHELL + text]

    def _exchanged(self, text: str) -> str:
        for written, real in self.exchanged.items():
            text = text.replace(written, real)
        return text
