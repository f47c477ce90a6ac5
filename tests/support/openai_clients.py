"""OpenAI's own clients, of three major versions at once: each in a folder and a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.packages import environment

VERSIONS = ("1.109.1", "2.8.0", "3.52.0")
_SCRIPT = Path(__file__).with_name("openai_script.py")


class OpenAIFailed(Exception):
    """What the client raised: its class, and what it knows of the answer."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(str(told))
        self.kind: str = told["kind"]
        self.status: int | None = told["status"]
        self.code: str | None = told["code"]
        self.param: str | None = told["param"]
        self.message: str = told["message"]
        self.body: Any = told["body"]


class OpenAIClient:
    """A client in its own process. `call("batches.list", limit=2)` is `client.batches.list(limit=2)` there."""

    def __init__(self, version: str, base_url: str, *, key: str = "unused", max_retries: int = 2) -> None:
        where = {"OPENAI_API_KEY": key, "OPENAI_BASE_URL": f"{base_url}/v1"}
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(_SCRIPT), str(max_retries)],
            env=environment(f"openai=={version}") | where,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, method: str, *args: Any, every: bool = False, **options: Any) -> Any:
        """The result as plain data; `every`: the items of all pages, or the events of a stream. Raises OpenAIFailed."""
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
