"""OpenAI's own clients, of two major versions at once: each in a folder and a process of its own.

A version is installed once, into the user's cache; that it cannot be is a failure of the test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

VERSIONS = ("1.109.1", "3.52.0")
_SCRIPT = Path(__file__).with_name("openai_script.py")


def installed(version: str) -> Path:
    """The folder that holds the client and all it needs."""
    cache = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(cache) if cache else Path.home() / ".cache") / "penstock" / "openai" / version
    if folder.is_dir():
        return folder
    part = folder.with_name(f".{version}.{os.getpid()}")
    part.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(part), f"openai=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"openai {version} cannot be installed: {done.stderr[-2000:]}")
    try:
        part.rename(folder)
    except OSError:  # another run was faster
        shutil.rmtree(part)
    return folder


class OpenAIFailed(Exception):
    """What the client raised: its class, and what it knows of the answer."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(str(told))
        self.kind: str = told["kind"]
        self.status: int | None = told["status"]
        self.code: str | None = told["code"]
        self.param: str | None = told["param"]


class OpenAIClient:
    """A client in its own process. `call("batches.list", limit=2)` is `client.batches.list(limit=2)` there."""

    def __init__(self, version: str, base_url: str, *, key: str = "unused", max_retries: int = 2) -> None:
        env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        env |= {"PYTHONPATH": str(installed(version)), "OPENAI_API_KEY": key, "OPENAI_BASE_URL": f"{base_url}/v1"}
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(_SCRIPT), str(max_retries)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, method: str, *args: Any, every: bool = False, **options: Any) -> Any:
        """The result as plain data; `every`: the items of all pages. Raises OpenAIFailed."""
        assert self._process.stdin
        assert self._process.stdout
        asked = {"method": method, "args": args, "options": options, "every": every}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise AssertionError("the client's process ended")
        told = json.loads(answer)
        if "error" in told:
            raise OpenAIFailed(told["error"])
        return told["result"]

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)
