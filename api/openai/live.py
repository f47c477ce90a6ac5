"""A live request: the jobs it makes, the events they tell, and what becomes of them when the caller leaves.

A live request is jobs like any others, interactive ones: stored, queued, replayable. `Call` begins them and follows
them; how they are told on the wire is `api.openai.chunks` and `api.openai.replies`. A caller that leaves cancels its
jobs, unless it asked for them to be kept (`store: true`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from api.errors import Refusal
from api.fitting import fit
from api.idempotency import CallTerms
from api.key_ring import Identity
from api.openai.mapping import Asked
from api.services import Services
from api.streaming import Broken, Ended, JobStream, Position, Told
from jobs.errors import NotFound, StoreUnavailable
from jobs.parameters import MAX_SEED, draw_seed
from jobs.records import NewJob
from jobs.states import ENDED, JobState, Priority
from jobs.tables import Generation, Job

Answer = TypeVar("Answer")

LOOK_AGAIN_SECONDS = 0.5
"""Between two looks at a row whose events cannot be had."""
CLIENT_CLOSED_REQUEST = 499

Done = tuple[Job, Generation]


@dataclass(frozen=True, slots=True)
class Call:
    """The jobs of one live request, a job for each choice."""

    parts: Services
    owner: str | None
    ids: Sequence[str]
    keep: bool
    """They go on without the caller."""

    async def done(self) -> list[Done]:
        """Wait for every job; its row and its text. Raises Refusal for one that did not succeed."""
        await self.ended()
        return [await self.read(job_id) for job_id in self.ids]

    async def ended(self) -> bool:
        """Wait until every job has ended, however it did."""
        await asyncio.gather(*(self._ended(job_id) for job_id in self.ids))
        return True

    async def _ended(self, job_id: str) -> None:
        async with contextlib.aclosing(self.follow(job_id)) as events:
            async for told in events:
                if isinstance(told, Ended):
                    return
                if isinstance(told, Broken):
                    break
        while not await self._has_ended(job_id):
            await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def follow(self, job_id: str) -> AsyncGenerator[Told]:
        """The job's events, from its first character."""
        stream = JobStream(self.parts, job_id, self.owner, Position())
        async with contextlib.aclosing(stream.events(await stream.read())) as events:
            async for told in events:
                yield told

    async def _has_ended(self, job_id: str) -> bool:
        try:
            return (await run_in_threadpool(self.parts.store.get, job_id)).state in ENDED
        except StoreUnavailable:
            return False

    async def read(self, job_id: str) -> Done:
        """An ended job's row and text. Raises Refusal if it did not succeed."""
        job = await run_in_threadpool(self.parts.store.get, job_id)
        generation = await run_in_threadpool(self.parts.store.get_generation, job_id)
        if job.state != JobState.SUCCEEDED or generation is None:
            raise refusal_of(job)
        return job, generation

    async def fingerprint(self, job_id: str) -> str | None:
        """Id of the recipe by which the text that is being told is made; None where it is not known yet."""
        told = await self.parts.reader.recipe(job_id)
        if told is not None:
            return told
        with contextlib.suppress(StoreUnavailable):
            stored = await run_in_threadpool(self.parts.store.get_generation, job_id)
            return None if stored is None else stored.recipe_id
        return None

    def abandon(self) -> None:
        """The caller has left: cancel what still runs. Does not wait."""
        if not self.keep:
            asyncio.get_running_loop().run_in_executor(None, self._cancel)

    def _cancel(self) -> None:
        """A database that is away keeps a job from being cancelled, and nothing else: it ends by itself."""
        for job_id in self.ids:
            with contextlib.suppress(StoreUnavailable, NotFound):
                if self.parts.store.get(job_id).state in ENDED:
                    continue
                self.parts.announcer.cancelled(job_id, JobState(self.parts.store.cancel(job_id).state))


def begin(
    parts: Services,
    maker: Identity,
    asked: Asked,
    *,
    keep: bool,
    terms: CallTerms | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Call:
    """Store and publish the jobs of a request. `terms`: of a call that may be one made again (`api.idempotency`).
    Blocks. Raises what fitting and submitting raise."""
    model = parts.catalog.served()
    jobs: list[NewJob] = []
    for fitted in [fit(draft, model) for draft in asked.drafts]:
        job = replace(fitted.new_job(Priority.INTERACTIVE), origin=origin)
        jobs += with_choices(job, fitted.seed, asked.num_choices)
    named: Mapping[str, Any] = terms or {}
    made = parts.store.submit(jobs, owner=maker.owner, quota=maker.quota, **named)
    if not made.replayed:
        parts.announcer.queued(made.ids, 0)
    return Call(parts, maker.sees, made.ids, keep)


def with_choices(job: NewJob, seed: int | None, num_choices: int) -> list[NewJob]:
    """A job for each choice: seeds in a row from the caller's, so that the first choice is what one choice would be,
    or drawn."""
    seeds = [draw_seed() if seed is None else (seed + number) % (MAX_SEED + 1) for number in range(num_choices)]
    return [replace(job, seed=one) for one in seeds]


def refusal_of(job: Job) -> Refusal:
    """Why a live job has no answer. Never to be sent again by the client itself: the job was tried as often as it
    may be."""
    told: Mapping[str, Any] = job.error or {}
    status, code, message = {
        JobState.EXPIRED: (504, "deadline_exceeded", "The job's deadline passed before it had ended."),
        JobState.CANCELLED: (409, "cancelled", "The job was cancelled."),
    }.get(
        JobState(job.state),
        (500, str(told.get("code", "internal_error")), str(told.get("message", "The job failed."))),
    )
    return Refusal(status, message, code=code, headers={"x-should-retry": "false"})


async def unless_gone(request: Request, call: Call, work: asyncio.Task[Answer]) -> Answer | None:
    """Wait for `work`; None when the caller leaves first, and then its jobs are left to nobody."""
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        call.abandon()
        return None
    finally:
        gone.cancel()
        if not work.done():
            work.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@contextlib.asynccontextmanager
async def merged(call: Call) -> AsyncIterator[AsyncIterator[tuple[int, Told]]]:
    """The events of all choices as they come, with the index of the choice; ends when each has ended."""
    inbox: asyncio.Queue[tuple[int, Told | Exception | None]] = asyncio.Queue(maxsize=64)
    tasks = [asyncio.create_task(_pump(call, index, inbox)) for index in range(len(call.ids))]
    try:
        yield _drained(inbox, len(tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(call: Call, index: int, inbox: asyncio.Queue[tuple[int, Told | Exception | None]]) -> None:
    try:
        async with contextlib.aclosing(call.follow(call.ids[index])) as events:
            async for told in events:
                await inbox.put((index, told))
        await inbox.put((index, None))
    except Exception as error:  # raised again where the chunks are made
        await inbox.put((index, error))


async def _drained(
    inbox: asyncio.Queue[tuple[int, Told | Exception | None]], num_alive: int
) -> AsyncIterator[tuple[int, Told]]:
    while num_alive:
        index, told = await inbox.get()
        if told is None:
            num_alive -= 1
        elif isinstance(told, Exception):
            raise told
        else:
            yield index, told
