"""`python -m ops.bench.replays`: do stored generations replay token for token, whatever runs beside them?

Runs exact jobs while other jobs keep every slot busy, then replays each of them twice: with nothing else in the
system, and under another load. Ends with status 1 unless every replay matches.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import random
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress

from jobs.states import ReplayResult
from ops.bench.stage import staged

Json = dict[str, Any]
WORDS = ("ice", "river", "lamp", "bread", "snow", "moon", "stone", "bell", "train", "garden", "wind", "glass", "winter")
LOAD_JOBS = 48
"""Jobs of the other load that wait or run at a time: more than there are slots."""
LOOK_SECONDS = 0.5


def main() -> int:
    """Run it; print what matched."""
    parser = argparse.ArgumentParser(prog="python -m ops.bench.replays", description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--slots", type=int, default=32)
    options = parser.parse_args()
    console = Console()
    wrong = 0
    with staged(slots=options.slots) as stage:
        stage.start("api", "dispatcher", "worker")
        with httpx.Client(base_url=stage.url, timeout=120) as client:
            with _load(stage.url, seed=1) as load:
                ids = _run(client, [_job(random.Random(number), exact=True) for number in range(options.jobs)], console)
            console.print(f"{len(ids)} exact jobs ran beside {load.num_ended} others")
            results = _replay(client, ids, console)
            console.print(f"replayed alone: {dict(results)}")
            wrong += len(ids) - results[ReplayResult.MATCH]
            with _load(stage.url, seed=2) as load:
                results = _replay(client, ids, console)
            console.print(f"replayed beside {load.num_ended} others: {dict(results)}")
            wrong += len(ids) - results[ReplayResult.MATCH]
    return 1 if wrong else 0


def _job(dice: random.Random, *, exact: bool | None) -> Json:
    """A chat of a few to a few hundred words, single jobs and batch lines, with every sampler."""
    words = " ".join(dice.choices(WORDS, k=dice.choice((2, 8, 40, 200))))
    return {
        "messages": [{"role": "user", "content": f"Write a haiku about {words}"}],
        "max_tokens": dice.randint(5, 60),
        "temperature": dice.choice((0, 0.7, 1.0, 1.3)),
        "top_p": dice.choice((None, 0.9)),
        "repeat_penalty": dice.choice((1.0, 1.2)),
        "seed": dice.randrange(2**32 - 1),
        "priority": dice.choice(("interactive", "batch")),
        "exact": exact,
    }


def _run(client: httpx.Client, jobs: Sequence[Json], console: Console) -> list[str]:
    """Submit jobs and wait for their end; the ids of those that succeeded, which must be all."""
    reply = client.post("/v1/jobs", json={"jobs": list(jobs)}).raise_for_status().json()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Running", total=len(jobs))
        while True:
            counts = client.get(f"/v1/batches/{reply['batch_id']}").raise_for_status().json()["counts"]
            progress.update(task, completed=len(jobs) - counts["queued"] - counts["running"])
            if counts["queued"] + counts["running"] == 0:
                break
            time.sleep(LOOK_SECONDS)
    if counts["succeeded"] != len(jobs):
        raise RuntimeError(f"not every job succeeded: {counts}")
    return [job["id"] for job in reply["data"]]


def _replay(client: httpx.Client, ids: Sequence[str], console: Console) -> collections.Counter[str]:
    """Replay every job, in batches' lanes so that they run beside each other; count the results."""
    replays = [
        client.post(f"/v1/jobs/{job_id}/replay", params={"priority": "batch"}).raise_for_status().json()["id"]
        for job_id in ids
    ]
    results: collections.Counter[str] = collections.Counter()
    with Progress(console=console, transient=True) as progress:
        for replay_id in progress.track(replays, description="Replaying"):
            results[_ended(client, replay_id)["replay"]["result"]] += 1
    return results


def _ended(client: httpx.Client, job_id: str) -> Json:
    while True:
        job: Json = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        if job["ended_at"] is not None:
            return job
        time.sleep(LOOK_SECONDS)


class _Load:
    """Keeps `LOAD_JOBS` jobs in the system until told to stop."""

    def __init__(self, url: str, seed: int) -> None:
        self.num_ended = 0
        self._client = httpx.Client(base_url=url, timeout=120)
        self._jobs = (_job(random.Random(f"{seed}/{number}"), exact=None) for number in itertools.count())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        alive: list[str] = []
        while not self._stop.is_set():
            jobs = list(itertools.islice(self._jobs, LOAD_JOBS - len(alive)))
            if jobs:
                reply = self._client.post("/v1/jobs", json={"jobs": jobs}).raise_for_status().json()
                alive += [job["id"] for job in reply["data"]]
            self._stop.wait(LOOK_SECONDS)
            ended = {job_id for job_id in alive if self._client.get(f"/v1/jobs/{job_id}").json()["ended_at"]}
            self.num_ended += len(ended)
            alive = [job_id for job_id in alive if job_id not in ended]
        for job_id in alive:
            self._client.post(f"/v1/jobs/{job_id}/cancel")


@contextmanager
def _load(url: str, *, seed: int) -> Iterator[_Load]:
    load = _Load(url, seed)
    load.start()
    try:
        yield load
    finally:
        load.stop()


if __name__ == "__main__":
    sys.exit(main())
