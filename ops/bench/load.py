"""More callers than the API lets in at once: `python -m ops.bench.load`.

The real API, dispatcher and worker (its engine answers at once); many callers that submit single jobs and lists,
complete chats live, follow jobs and read them back, each as fast as it is answered. Refused calls (429, 503) must say
when to come back, and are sent again. Measured: answers a second, refusals, the API's memory. Checked: no other error,
and at the end every job that was accepted has ended well, exactly those jobs are stored, and the audit is clean.

A driver of our own and not locust: what counts here is which ids were accepted and what became of each, which is ours
to know; and calls from one event loop leave the two cores to what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from jobs.states import JobState
from ops.bench.stage import Stage, num_alive, staged, wait_for

REFUSALS = (429, 503)
PATIENCE_SECONDS = 0.1
"""A refused caller comes back sooner than it is told to, so that the crowd stays a crowd."""
CALL_SECONDS = 120.0
SETTLE_SECONDS = 300.0
SAMPLE_SECONDS = 0.25
MESSAGES = [{"role": "user", "content": "Write a haiku about ice hockey"}]
LIST_JOBS = 20


@dataclass
class Tally:
    """What the callers saw. `accepted`: ids of jobs that an answer named."""

    calls: Counter[str] = field(default_factory=Counter)
    refusals: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    accepted: set[str] = field(default_factory=set)
    seconds: float = 0.0
    waited: list[float] = field(default_factory=list)
    """Seconds of each call that was answered, its refusals included."""


@dataclass(frozen=True)
class Load:
    """A run's figures. `missing`: accepted jobs that are not stored or have not ended well, by what they are instead;
    `extra`: stored jobs that nobody was told of."""

    clients: int
    seconds: float
    answered: int
    answered_a_second: float
    wait_p50: float
    wait_p99: float
    refusals: dict[int, int]
    errors: dict[str, int]
    jobs: int
    missing: dict[str, int]
    extra: int
    audit: list[str]
    first_bytes: int
    most_bytes: int
    last_bytes: int

    @property
    def is_good(self) -> bool:
        return not (self.errors or self.missing or self.extra or self.audit)


class Callers:
    """Callers in one event loop; each goes on until `calls` of its own are answered or the time is over."""

    def __init__(self, url: str, clients: int, *, calls: int, seconds: float) -> None:
        self._url, self._clients, self._calls = url, clients, calls
        self._give_up_at = time.monotonic() + seconds
        self.tally = Tally()

    async def run(self) -> Tally:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self._clients)
        async with httpx.AsyncClient(base_url=self._url, timeout=CALL_SECONDS, limits=limits, trust_env=False) as http:
            began = time.monotonic()
            await asyncio.gather(*(self._call_on(http, number) for number in range(self._clients)))
            self.tally.seconds = time.monotonic() - began
        return self.tally

    async def _call_on(self, http: httpx.AsyncClient, number: int) -> None:
        dice = random.Random(number)
        mine: list[str] = []
        for call in range(self._calls):
            if time.monotonic() > self._give_up_at:
                return
            kind = dice.choice(KINDS) if mine else _submit
            job_id = dice.choice(mine) if mine else ""
            await self._answered(partial(kind, http, f"load-{number}-{call}", job_id), kind.__name__, mine)

    async def _answered(self, send: Callable[[], Awaitable[httpx.Response]], name: str, mine: list[str]) -> None:
        """Send until it is not refused; note what became of it."""
        began = time.monotonic()
        while True:
            try:
                reply = await send()
            except httpx.HTTPError as error:
                self.tally.errors[f"{name}: {type(error).__name__}"] += 1
                return
            if reply.status_code not in REFUSALS:
                break
            self.tally.refusals[reply.status_code] += 1
            if not reply.headers.get("retry-after", "").isdigit():
                self.tally.errors[f"{name}: {reply.status_code} without Retry-After"] += 1
            await asyncio.sleep(PATIENCE_SECONDS)
        self.tally.waited.append(time.monotonic() - began)
        self.tally.calls[name.strip("_")] += 1
        if not reply.is_success:
            self.tally.errors[f"{name}: {reply.status_code}"] += 1
            return
        ids = _ids_of(reply) if name in _MAKING else []
        mine.extend(ids)
        self.tally.accepted.update(ids)


async def _submit(http: httpx.AsyncClient, key: str, _: str) -> httpx.Response:
    body = {"messages": MESSAGES, "max_tokens": 16, "seed": 7}
    return await http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})


async def _submit_many(http: httpx.AsyncClient, key: str, _: str) -> httpx.Response:
    body = {"jobs": [{"messages": MESSAGES, "max_tokens": 16}] * LIST_JOBS}
    return await http.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})


async def _chat(http: httpx.AsyncClient, key: str, _: str) -> httpx.Response:
    body = {"messages": MESSAGES, "max_tokens": 16}
    return await http.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": key})


async def _follow(http: httpx.AsyncClient, _: str, job_id: str) -> httpx.Response:
    return await http.get(f"/v1/jobs/{job_id}/events")


async def _read(http: httpx.AsyncClient, _: str, job_id: str) -> httpx.Response:
    return await http.get(f"/v1/jobs/{job_id}")


Call = Callable[[httpx.AsyncClient, str, str], Coroutine[Any, Any, httpx.Response]]
KINDS: tuple[Call, ...] = (_submit, _submit, _submit, _submit_many, _chat, _follow, _read)
_MAKING = frozenset({"_submit", "_submit_many", "_chat"})


def _ids_of(reply: httpx.Response) -> list[str]:
    made = reply.json()
    if "penstock" in made:
        return [str(job_id) for job_id in made["penstock"]["job_ids"]]
    return [str(job["id"]) for job in made["data"]] if made["object"] == "list" else [str(made["id"])]


def put_under_load(stage: Stage, *, clients: int, calls: int, seconds: float) -> Load:
    """Run the callers against a stage whose roles are up, and see what is left when all has settled."""
    asyncio.run(Callers(stage.url, 2, calls=20, seconds=seconds).run())  # imports and pools: what any start costs
    before = _stored(stage)
    first = stage.resident_bytes("api")
    tally, most = asyncio.run(_watched(stage, Callers(stage.url, clients, calls=calls, seconds=seconds)))
    wait_for("the ends of all jobs", lambda: num_alive(stage.store) == 0, SETTLE_SECONDS)
    stored = _stored(stage)
    new = {job_id for job_id in stored if job_id not in before}
    became = Counter(stored.get(job_id, "not stored") for job_id in tally.accepted)
    del became[JobState.SUCCEEDED]
    waited = sorted(tally.waited)
    return Load(
        clients=clients,
        seconds=round(tally.seconds, 2),
        answered=tally.calls.total(),
        answered_a_second=round(tally.calls.total() / tally.seconds, 1),
        wait_p50=round(waited[len(waited) // 2], 3),
        wait_p99=round(waited[int(len(waited) * 0.99)], 3),
        refusals=dict(tally.refusals),
        errors=dict(tally.errors),
        jobs=len(tally.accepted),
        missing=dict(became),
        extra=len(new - tally.accepted),
        audit=stage.store.audit(),
        first_bytes=first,
        most_bytes=most,
        last_bytes=stage.resident_bytes("api"),
    )


async def _watched(stage: Stage, callers: Callers) -> tuple[Tally, int]:
    """The callers' tally, and the most memory that the API had meanwhile."""
    most = 0
    run = asyncio.create_task(callers.run())
    while not run.done():
        most = max(most, stage.resident_bytes("api"))
        await asyncio.wait([run], timeout=SAMPLE_SECONDS)
    return await run, most


def _stored(stage: Stage) -> dict[str, str]:
    """Every stored job and its state."""
    found: dict[str, str] = {}
    after, has_more = None, True
    while has_more:
        rows, has_more = stage.store.list_jobs(limit=1000, after=after)
        found |= {job.id: str(job.state) for job in rows}
        after = rows[-1].id if rows else None
    return found


def main() -> int:
    """Exit status 1 when anything was lost, or failed otherwise than by a refusal."""
    options = _arguments()
    with staged(postgres=options.postgres, max_requests=options.max_requests) as stage:
        stage.start("api", "dispatcher")
        stage.start_instant_worker()
        load = put_under_load(stage, clients=options.clients, calls=sys.maxsize, seconds=options.seconds)
    Console().print(_table(load, options))
    if options.json:
        options.json.write_text(json.dumps(asdict(load), indent=2) + "\n")
    return 0 if load.is_good else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.bench.load", description=__doc__)
    parser.add_argument("--clients", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--max-requests", type=int, default=64, help="what the API lets in at once")
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL instead of SQLite")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args()


def _table(load: Load, options: argparse.Namespace) -> Table:
    database = "PostgreSQL" if options.postgres else "SQLite"
    table = Table("", "", title=f"{load.clients} callers, {options.max_requests} let in at once, {database}")
    table.add_row("seconds", f"{load.seconds:.0f}")
    table.add_row("calls answered", f"{load.answered}  ({load.answered_a_second:.0f} a second)")
    table.add_row("wait p50 / p99, refusals included", f"{load.wait_p50:.2f} s / {load.wait_p99:.2f} s")
    table.add_row("refused with Retry-After", ", ".join(f"{n} × {s}" for s, n in load.refusals.items()) or "none")
    table.add_row("errors", ", ".join(f"{n} × {name}" for name, n in load.errors.items()) or "none")
    table.add_row("jobs accepted / missing / extra", f"{load.jobs} / {load.missing or 0} / {load.extra}")
    table.add_row("audit", "clean" if not load.audit else f"{len(load.audit)} problems")
    mib = (f"{num_bytes / 2**20:.0f}" for num_bytes in (load.first_bytes, load.most_bytes, load.last_bytes))
    table.add_row("memory of the API: before / most / after", " / ".join(mib) + " MiB")
    return table


if __name__ == "__main__":
    sys.exit(main())
