"""Submits the jobs: batches in chunks and interactive singles, each with an idempotency key, until all are accepted.

A submission that fails for any reason an outage can give (no connection, a reply cut off, 503) is sent again with
the same key and body, as a careful client would. Runs on a thread of its own. Holds back while enough jobs are alive,
so that the schedule of faults always finds work, and the workers find room.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx

END_TOKENS = (2, 32000, 32001, 32007)
"""Banned, so that a job takes as long as it says."""
MAX_CHUNK = 10
"""Lines of one submission, at most."""
INTERACTIVE_SHARE = 0.1
"""Of the jobs; each of these is a submission of its own."""
RETRY_SECONDS = 0.2
ROOM_SECONDS = 0.05
SUBJECTS = ("ice hockey", "the sea", "a lamp", "rain", "an old road", "the moon", "winter", "a river stone")


@dataclass(frozen=True, slots=True)
class Order:
    """One submission."""

    key: str
    body: dict[str, Any]
    num_jobs: int


def orders(dice: random.Random, *, chunk: int, mean_tokens: int) -> Iterator[Order]:
    """The submissions of a run, drawn from its seed; as many as are asked for."""
    singles = INTERACTIVE_SHARE * chunk
    for number in count(1):
        if dice.random() < singles / (singles + 1 - INTERACTIVE_SHARE):
            yield Order(f"chaos-{number}", _job(dice, mean_tokens), 1)
        else:
            yield Order(f"chaos-{number}", {"jobs": [_job(dice, mean_tokens) for _ in range(chunk)]}, chunk)


def _job(dice: random.Random, mean_tokens: int) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": f"Write a haiku about {dice.choice(SUBJECTS)}"}],
        "max_tokens": dice.randint(mean_tokens // 3 + 1, mean_tokens * 5 // 3),
        "seed": dice.randrange(2**32 - 1),
        "logit_bias": {str(token): -100 for token in END_TOKENS},
    }


class Load(threading.Thread):
    """Sends the orders, in turn: at least `num_jobs` jobs, and on until `last_call`. `max_alive` and `num_ended` are
    set by the trial as it goes."""

    def __init__(self, url: str, todo: Iterator[Order], num_jobs: int) -> None:
        super().__init__(name="load", daemon=True)
        self.max_alive = 0
        self.num_ended = 0
        self.accepted: dict[str, list[str]] = {}
        self.num_accepted = 0
        self.num_retries = 0
        self.num_replayed = 0
        self.refused: list[str] = []
        self.done = False
        self._todo = todo
        self._num_jobs = num_jobs
        self._last_call = threading.Event()
        self._client = httpx.Client(base_url=url, timeout=30.0)
        self._stopping = threading.Event()

    @property
    def num_alive(self) -> int:
        """Accepted, and not ended when they were last counted."""
        return self.num_accepted - self.num_ended

    @property
    def job_ids(self) -> list[str]:
        return [job_id for ids in self.accepted.values() for job_id in ids]

    def close(self) -> None:
        self._stopping.set()
        if self.ident:
            self.join(60)
        self._client.close()

    def last_call(self) -> None:
        """The schedule is over: end with the jobs that are owed."""
        self._last_call.set()

    def run(self) -> None:
        while not (self._last_call.is_set() and self.num_accepted >= self._num_jobs) and not self._stopping.is_set():
            if self.num_alive >= self.max_alive:
                self._stopping.wait(ROOM_SECONDS)
            else:
                self._submit(next(self._todo))
        self.done = True

    def _submit(self, order: Order) -> None:
        while not self._send(order) and not self._stopping.wait(RETRY_SECONDS):
            self.num_retries += 1

    def _send(self, order: Order) -> bool:
        """Whether there is an answer that lasts."""
        try:
            reply = self._client.post("/v1/jobs", json=order.body, headers={"Idempotency-Key": order.key})
            if reply.status_code in (429, 503):
                return False
            if reply.status_code != 202:
                self.refused.append(f"{order.key}: status {reply.status_code}, {_code(reply)}")
                return True
            body = reply.json()
        except (httpx.TransportError, ValueError):
            return False
        self.accepted[order.key] = [job["id"] for job in body.get("data", [body])]
        self.num_accepted += order.num_jobs
        self.num_replayed += reply.headers.get("Idempotent-Replayed") == "true"
        return True


def _code(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "no error body"
