"""`penstock replay`: run stored generations again and compare them token by token.

One job, or a sample of a batch's. The comparison is the API's; here it is asked for, waited for and shown.
"""

from __future__ import annotations

import collections
import random
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.progress import Progress

from cli import screen
from cli.client import Client, Json
from cli.connection import ApiKeyOption, ApiOption, JsonOption, connect
from cli.errors import CliError, UsageError
from jobs.states import ReplayResult

LOOK_SECONDS = 0.2
MAX_SAMPLE = 10_000
IN_FLIGHT = 64
"""Replays of a report that wait or run at a time."""
MAX_SHOWN = 10


class ReplayDiffers(CliError):
    """A replay did not come out the same."""


def replay(
    job_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The id of a job that succeeded.")] = None,
    *,
    batch: Annotated[str | None, typer.Option("--batch", metavar="ID", help="A sample of this batch instead.")] = None,
    sample: Annotated[int, typer.Option(min=1, max=MAX_SAMPLE, help="Jobs of the batch, drawn at random.")] = 200,
    draw: Annotated[int, typer.Option("--sample-seed", help="Draws the same sample again.")] = 0,
    as_json: JsonOption = False,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Run a stored generation again and say whether it is the same, token for token."""
    if (job_id is None) == (batch is None):
        raise UsageError("give the ID of a job, or --batch and the id of a batch.")
    with connect(api, api_key) as client:
        ids = [job_id] if job_id is not None else drawn(client, str(batch), sample, draw)
        jobs = list(_replayed(client, ids))
    _report(jobs, as_json=as_json)


def drawn(client: Client, batch_id: str, size: int, draw: int) -> list[str]:
    """A random sample of the batch's jobs that succeeded, in one pass and bounded memory (reservoir sampling)."""
    dice = random.Random(draw)  # noqa: S311 -- a sample, not a secret
    chosen: list[str] = []
    succeeded = (job["id"] for job in client.every_job(batch_id=batch_id) if job["state"] == screen.GOOD_END)
    for number, job_id in enumerate(succeeded):
        place = number if number < size else dice.randrange(number + 1)
        if number < size:
            chosen.append(job_id)
        elif place < size:
            chosen[place] = job_id
    if not chosen:
        raise UsageError(f"--batch: no job of {batch_id} has succeeded yet.")
    return chosen


def _replayed(client: Client, ids: Sequence[str]) -> Iterator[Json]:
    """Replays in the order in which they end, a few at a time."""
    waiting, running = collections.deque(ids), dict[str, None]()
    with Progress(console=screen.err, transient=True) as progress:
        task = progress.add_task("Replaying", total=len(ids))
        while waiting or running:
            while waiting and len(running) < IN_FLIGHT:
                running[client.replay(waiting.popleft(), in_batch=len(ids) > 1)["id"]] = None
            ended = [job for job in map(client.job, list(running)) if _result(job) != ReplayResult.PENDING]
            for job in ended:
                del running[job["id"]]
                progress.advance(task)
                yield job
            if not ended:
                time.sleep(LOOK_SECONDS)


def _result(job: Json) -> str:
    return str((job.get("replay") or {}).get("result"))


def _report(jobs: Sequence[Json], *, as_json: bool) -> None:
    counts = collections.Counter(map(_result, jobs))
    if as_json:
        screen.print_json({"results": dict(counts), "replays": [{"id": job["id"], **job["replay"]} for job in jobs]})
    else:
        print(", ".join(f"{number} of {len(jobs)} {result}" for result, number in sorted(counts.items())))
    bad = [job for job in jobs if _result(job) != ReplayResult.MATCH]
    if bad:
        more = [f"… and {len(bad) - MAX_SHOWN} more"] if len(bad) > MAX_SHOWN else []
        raise ReplayDiffers("\n  ".join(["these did not match:", *map(explained, bad[:MAX_SHOWN]), *more]))


def explained(job: Json) -> str:
    """One line about a replay that did not match; no text of the model in it."""
    told: dict[str, Any] = job["replay"]
    match told["result"]:
        case ReplayResult.DIFFERS:
            return (
                f"{told['of']}: another token at {told['first_difference']} ({told['tokens'][0]}, {told['tokens'][1]})"
            )
        case ReplayResult.RECIPE_DIFFERS:
            same = "the tokens are the same" if told.get("tokens_match") else "so are the tokens"
            return f"{told['of']}: the recipe is another one ({', '.join(told['fields'])}); {same}"
        case ReplayResult.ORIGINAL_DELETED:
            return f"{told['of']}: it was deleted; there is nothing to compare with"
        case _:
            return f"{told['of']}: the replay {job['id']} is {job['state']}"
