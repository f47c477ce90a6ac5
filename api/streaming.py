"""One reader's stream of one job: what Redis says as it happens, checked against the row, which is the truth.

The order that loses nothing: subscribe, then read the row, then go on with both. The end is taken from the database,
never from a message: a message only says that it is time to look. The row is also looked at every few seconds, so a
lost message delays the end and never hides it.

Positions count code points of the completion. A reader at position n has completion[:n]; a text event with `seq` s and
text t covers [s - len(t), s). A position is one in the text of a certain attempt. A later attempt's text keeps some of
it, all of it as a rule (`jobs.transcript`); a reader that has more than that, or of whom nobody can know, is told by a
`reset` that what came before is void.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.concurrency import run_in_threadpool

from api.errors import SERVER, error_body
from api.reading import read_job
from api.services import Services
from api.wire import JobObject
from jobs.errors import InvalidRequest, NotFound, QueueUnavailable, StoreUnavailable
from jobs.states import ENDED, JobState
from jobs.transcript import keeps

log = structlog.get_logger("penstock.api")

PING_SECONDS = 15.0
LOOK_SECONDS = 5.0
FIRST_LOOKS_SECONDS = (1.0,)
"""Sooner at first: most jobs are short."""
AGAIN_SECONDS = 0.5
CANCEL_SECONDS = 0.1
BACKLOG_EVENTS = 256
PING = b": ping\n"
"""One newline, so that it belongs to the next frame: with a blank line of its own, some clients would take it, after
an `id:`, for an event without data, and fail."""

_TIME_TO_LOOK = ("listening", "end")
"""`listening`: the subscription has begun. What came between the first read of the row and it was told to nobody
here, an end included."""

Event = Mapping[str, Any]
_Inbox = asyncio.Queue[Event | Exception]
_POSITION = re.compile(r"(?P<seq>[0-9]{1,12})(?:@(?P<attempt>[0-9]{1,6}))?")


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader stands: `seq` code points of what `attempt` told."""

    seq: int = 0
    attempt: int = 1

    @classmethod
    def parse(cls, text: str, param: str) -> Position:
        """Read `42` or, as the `id` of frames after the first attempt has it, `42@2`. Raises InvalidRequest."""
        match = _POSITION.fullmatch(text)
        if match is None:
            raise InvalidRequest(f"{param}: must be a number of code points, such as 42.", param=param)
        return cls(int(match["seq"]), int(match["attempt"] or 1))

    def __str__(self) -> str:
        return f"{self.seq}@{self.attempt}" if self.attempt > 1 else str(self.seq)


def frame(event: str, data: Mapping[str, Any] | str, id: object = None) -> bytes:  # noqa: A002
    """One SSE frame. `data`: an object, or its JSON."""
    body = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    head = "" if id is None else f"id: {id}\n"
    return f"event: {event}\n{head}data: {body}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Text:
    """New text; `seq` is the length of all the text so far. `position` is where the reader stands then."""

    seq: int
    text: str
    position: Position


@dataclass(frozen=True, slots=True)
class Reset:
    """Another attempt started with another text; what came before is void."""

    attempt: int
    position: Position


@dataclass(frozen=True, slots=True)
class State:
    """The job moved. `queue_position` only of a queued one, where it is known."""

    state: str
    attempt: int
    queue_position: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The job is over. The last of its events."""

    job: JobObject


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream cannot go on; the job does. The last event: a stream must never look finished."""

    message: str
    code: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Nothing happened for a while."""


Told = Text | Reset | State | Ended | Broken | Ping


def native_frame(told: Told) -> bytes:
    """An event as a frame of `/v1/jobs/{id}/events`."""
    match told:
        case Text():
            return frame("text", {"seq": told.seq, "text": told.text}, id=told.position)
        case Reset():
            return frame("reset", {"attempt": told.attempt}, id=told.position)
        case State():
            data: dict[str, Any] = {"state": told.state, "attempt": told.attempt}
            if told.state == JobState.QUEUED:
                data["queue_position"] = told.queue_position
            return frame("state", data)
        case Ended():
            return frame("end", told.job.model_dump_json())
        case Broken():
            message = f"{told.message} Connect again to resume."
            return frame("error", error_body(message, type=SERVER, param=None, code=told.code))
        case Ping():
            return PING


class JobStream:
    """What happens to one job, for one reader, who stands at `position`."""

    def __init__(self, parts: Services, job_id: str, owner: str | None, position: Position) -> None:
        self._parts = parts
        self._job_id = job_id
        self._owner = owner
        self._position = position
        self._start = position
        self._told: list[str] = []
        self._said: tuple[str, int] | None = None

    async def read(self) -> JobObject:
        """The job as it stands. Raises NotFound, StoreUnavailable."""
        return await run_in_threadpool(read_job, self._parts.store, self._job_id, self._owner)

    async def frames(self, first: JobObject) -> AsyncGenerator[bytes]:
        """The events as frames of the native stream."""
        async with contextlib.aclosing(self.events(first)) as events:
            async for told in events:
                yield native_frame(told)

    async def events(self, first: JobObject) -> AsyncGenerator[Told]:
        """Everything from the reader's position to the end. `first`: the job, read just now."""
        for piece in self._opening(first):
            yield piece
        if first.state in ENDED:
            return
        try:
            async with contextlib.aclosing(self._live()) as live:
                async for piece in live:
                    yield piece
        except (QueueUnavailable, NotFound) as error:
            log.warning("stream broken", job_id=self._job_id, error=type(error).__name__)
            yield Broken("The live text cannot be read right now; the job goes on.", error.code)

    def _opening(self, job: JobObject) -> list[Told]:
        """Where the job stands."""
        if job.state in ENDED:
            return self._ending(job)
        return self._state(job.state, _newest_attempt(job), job.queue_position)

    async def _live(self) -> AsyncGenerator[Told]:
        """Events from Redis, and from looks at the row between them, until the job has ended or the server stops."""
        inbox = _Inbox(BACKLOG_EVENTS)
        looks = _Times(FIRST_LOOKS_SECONDS, LOOK_SECONDS)
        pings = _Times((), PING_SECONDS)
        async with _running(self._pump(inbox)), _running(self._watch_closing(inbox)):
            while True:
                message = await _next(inbox, min(looks.remaining(), pings.remaining()))
                for piece in self._live_events(message):
                    yield piece
                if message["type"] == "stopping":
                    return
                if message["type"] in _TIME_TO_LOOK or looks.due():
                    for piece in await self._look():
                        yield piece
                    if self._ended:
                        return
                if pings.due():
                    yield Ping()

    async def _pump(self, inbox: _Inbox) -> None:
        """Move what Redis says into the inbox. A full inbox holds it back; the reader then re-reads the snapshot."""
        try:
            while True:
                seq, attempt = self._position.seq, self._position.attempt
                following = self._parts.reader.follow(self._job_id, seq, attempt=attempt, tell_listening=True)
                async with contextlib.aclosing(following) as events:
                    async for event in events:
                        await inbox.put(event)
                # Redis told of an end. The row decides, and may know that the job was brought back since.
                await asyncio.sleep(AGAIN_SECONDS)
        except Exception as error:  # raised again where the frames are made
            await inbox.put(error)

    async def _watch_closing(self, inbox: _Inbox) -> None:
        await self._parts.closing.wait()
        await inbox.put({"type": "stopping"})

    async def _look(self) -> list[Told]:
        """Read the row: a state that no message told of, or the end. Nothing while the database cannot be read: text
        may go on, only the end has to wait."""
        try:
            row = await run_in_threadpool(self._parts.store.get, self._job_id, self._owner)
            if row.state not in ENDED:
                return self._state(row.state, row.attempt)
            job = await self.read()
        except StoreUnavailable:
            return []
        return self._ending(job) if job.state in ENDED else []

    def _live_events(self, event: Event) -> list[Told]:
        match event["type"]:
            case "text":
                return self._text(event["text"], int(event["seq"]), int(event["attempt"]))
            case "reset":
                return [self._reset(int(event["attempt"]))]
            case "state" if event["state"] not in ENDED:
                return self._state(str(event["state"]), int(event.get("attempt") or 0))
            case "stopping":
                return [Broken("The server is stopping; the job goes on.", "server_stopping")]
            case _:
                return []

    @property
    def _ended(self) -> bool:
        return self._said is not None and self._said[0] in ENDED

    def _ending(self, job: JobObject) -> list[Told]:
        """What is left of the stored text, and the whole job."""
        attempt = _newest_attempt(job)
        text = [] if job.completion is None else self._stored_text(job, job.completion, attempt)
        return [*text, *self._state(job.state, attempt), Ended(job)]

    def _stored_text(self, job: JobObject, completion: str, attempt: int) -> list[Told]:
        """The stored text after the reader's position; all of it, if it does not continue what the reader has."""
        pieces: list[Told] = [] if self._continues(job, completion, attempt) else [self._reset(attempt)]
        return pieces + self._text(completion[self._position.seq :], len(completion), attempt)

    def _continues(self, job: JobObject, completion: str, attempt: int) -> bool:
        """What this stream told is compared. Of what the reader had before, the attempt is all that is known."""
        kept = {int(number): num for number, num in (job.continuity or {}).get("kept", {}).items()}
        known = keeps(attempt, kept, self._start.attempt, self._start.seq)
        told = "".join(self._told)
        return known and self._position.seq <= len(completion) and completion.startswith(told, self._start.seq)

    def _text(self, text: str, seq: int, attempt: int) -> list[Told]:
        begins_at = seq - len(text)
        if begins_at > self._position.seq:
            raise QueueUnavailable("a piece of the text is missing")
        fresh = text[self._position.seq - begins_at :]
        if not fresh:
            return []
        self._told.append(fresh)
        self._position = Position(seq, attempt)
        return [Text(seq, fresh, self._position)]

    def _reset(self, attempt: int) -> Reset:
        self._position = self._start = Position(0, attempt)
        self._told.clear()
        return Reset(attempt, self._position)

    def _state(self, state: str, attempt: int, queue_position: int | None = None) -> list[Told]:
        if self._said == (state, attempt):
            return []
        self._said = (state, attempt)
        return [State(state, attempt, queue_position)]


def _newest_attempt(job: JobObject) -> int:
    return job.attempts[-1].number if job.attempts else 0


@contextlib.asynccontextmanager
async def _running(work: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """`work` as a task that ends with the block, or soon after."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        _end(task)


def _end(task: asyncio.Task[object]) -> None:
    """Cancel a task until it has ended. Once may not be enough: a cancel that meets the end of an inner `wait_for` is
    lost (CPython up to 3.11). Nothing is awaited: who ends the task may be about to be cancelled again itself."""
    if not task.done():
        task.cancel()
        asyncio.get_running_loop().call_later(CANCEL_SECONDS, _end, task)


async def _next(inbox: _Inbox, timeout_seconds: float) -> Event:
    """The next message, or one of type `nothing` after the timeout. Raises an error that was put in."""
    try:
        async with asyncio.timeout(timeout_seconds):
            message = await inbox.get()
    except TimeoutError:
        return {"type": "nothing"}
    if isinstance(message, Exception):
        raise message
    return message


class _Times:
    """When to do a repeated thing, on the loop's clock: after each of `first_seconds`, then every `seconds`."""

    def __init__(self, first_seconds: Sequence[float], seconds: float) -> None:
        self._now = asyncio.get_running_loop().time
        self._pauses = iter(first_seconds)
        self._seconds = seconds
        self._set()

    def _set(self) -> None:
        self._at = self._now() + min(next(self._pauses, self._seconds), self._seconds)

    def remaining(self) -> float:
        return max(0.0, self._at - self._now())

    def due(self) -> bool:
        """Whether it is time; if so, the next time is set."""
        if self._now() < self._at:
            return False
        self._set()
        return True
