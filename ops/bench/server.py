"""llama.cpp's own server as a contestant: started on the same file, driven over HTTP with the same prompts."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ops.bench.engines import KNOBS, Kind, Rate
from ops.bench.workload import END_TOKENS, Work

PROGRAM = "llama-server"
READY_SECONDS = 300.0


def found() -> str | None:
    """Where `llama-server` is, if it is on PATH."""
    return shutil.which(PROGRAM)


class Server:
    """A running llama-server with `slots` slots."""

    def __init__(self, port: int) -> None:
        self._port = port

    def run(self, work: Sequence[Work], kind: Kind = "full") -> Rate:
        """All jobs at once, each on a connection of its own; its prompt cache is on."""
        results: list[int] = []
        threads = [threading.Thread(target=self._one, args=(job, kind, results)) for job in work]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        if len(results) != len(work):
            raise RuntimeError("llama-server did not answer every job")
        return Rate(sum(results), seconds)

    def _one(self, job: Work, kind: Kind, results: list[int]) -> None:
        reply = self._post("/completion", {
            "prompt": job.prompt, "n_predict": job.max_tokens, "seed": job.seed, "cache_prompt": True,
            "repeat_last_n": 64, "logit_bias": [[token, -100.0] for token in END_TOKENS], **KNOBS[kind],
        })  # fmt: skip
        results.append(int(reply["tokens_predicted"]))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=3600)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            data: dict[str, Any] = json.loads(reply.read())
        finally:
            connection.close()
        if reply.status != http.client.OK:
            raise RuntimeError(f"llama-server answered {reply.status}")
        return data


@contextmanager
def server(path: Path, slots: int, context_tokens: int, *, gpu_layers: int = 0) -> Iterator[Server]:
    """Start llama-server; it is ended at the end. It runs as it comes: nothing that is set for the engine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    threads = len(os.sched_getaffinity(0))
    command = [
        PROGRAM, "-m", str(path), "-np", str(slots), "-c", str(context_tokens * slots), "-fa", "on",
        "-t", str(threads), "-ngl", str(gpu_layers), "--host", "127.0.0.1", "--port", str(port), "--no-webui",
    ]  # fmt: skip
    own = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        _wait_until_ready(port, process)
        yield Server(port)
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + READY_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == http.client.OK:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise RuntimeError("llama-server did not come up")
