"""Events: what happens to a job while it happens. Numbered, so that a reader notices what it missed.

Keys and channels, all in one Redis database:

    penstock:job:{id}            channel   JSON messages about one job:
                                           {"type": "text", "attempt": 1, "seq": 42, "text": "..."}
                                           {"type": "state", "state": "running", "attempt": 1}
                                           {"type": "end", "state": "succeeded"}
    penstock:job:{id}:snapshot   string    {"attempt", "seq", "text", "tokens", "row_class", "recipe", "kept"}: the
                                           whole text so far, its tokens, and what of earlier attempts' text it begins
                                           with, for readers and for the next attempt; expires soon after the end
    penstock:job:{id}:end        string    the state a job ended in, for a reader that came a moment late; expires soon
    penstock:cancel              channel   ids of running jobs that somebody cancelled; workers listen
    penstock:dispatch            channel   anything: wakes the dispatcher
    penstock:sentinel            string    there while Redis was not emptied; the dispatcher sets it
    penstock:follow              channel   ids of jobs that somebody follows (see `jobs.interest`); workers listen
    penstock:reader              channel   a worker came (back), and asks who follows what; readers listen
    interactive, batch           list      Celery's queues (with `unacked*` and `_kombu.*` beside them)

`seq` is the length, in code points, of all the completion so far, the event's own text included: an event covers
[seq - len(text), seq). For each text the snapshot is written first and the message sent after it, in one round trip,
so a reader that subscribes, waits for the acknowledgement and then reads the snapshot misses nothing.

A batch line that nobody follows leaves no key and sends no text: its worker hears of readers (`jobs.interest`), and
starts with the whole text so far. Only its end is published, to whoever may have come in that moment.

The writer never raises into a generation. Events are a courtesy; the row is the truth.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import structlog
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ConstantBackoff
from redis.client import Pipeline
from redis.exceptions import RedisError
from redis.retry import Retry

from jobs.cancellable import make_cancellable
from jobs.errors import QueueUnavailable
from jobs.fanout import STALE, Fanout
from jobs.interest import FOLLOW_CHANNEL, READER_CHANNEL, Announcing
from jobs.states import JobState
from jobs.transcript import GAP, Event, Kept, Transcript

log = structlog.get_logger("penstock.events")

CANCEL_CHANNEL = "penstock:cancel"
DISPATCH_CHANNEL = "penstock:dispatch"
SENTINEL_KEY = "penstock:sentinel"

QUIET_SECONDS = 1.0
"""After a failure, text events are not even tried for so long: the engine's text must not wait for a dead Redis."""
MAILBOX_SIZE = 256
END_SECONDS = 60.0
"""How long snapshot and end of an ended job stay: for readers on their way. Later ones read the row."""
ENDS_A_TRIP = 1000
"""Ends that are told in one round trip."""
SNAPSHOT_READS = 16
"""Snapshots that one process reads at a time, whatever the number of its readers."""


class TextEvent(NamedTuple):
    """New text of a job, and all of it so far: the text, its tokens, the row class they were decoded in, and what of
    earlier attempts' text it begins with."""

    job_id: str
    attempt: int
    seq: int
    delta: str
    text: str
    token_ids: Sequence[int] = ()
    row_class: str | None = None
    recipe: str | None = None
    """Id of the recipe that the text is made by."""
    kept: Kept = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the newest attempt had told when it told something last."""

    attempt: int
    text: str
    token_ids: tuple[int, ...]
    row_class: str | None
    kept: Kept = field(default_factory=dict)


def job_channel(job_id: str) -> str:
    return f"penstock:job:{job_id}"


def job_of(channel: str) -> str:
    """The job whose channel it is."""
    return channel.removeprefix(job_channel(""))


def snapshot_key(job_id: str) -> str:
    return f"penstock:job:{job_id}:snapshot"


def end_key(job_id: str) -> str:
    return f"penstock:job:{job_id}:end"


def open_redis(url: str) -> Redis:
    """Open a client whose every wait has a bound. Nothing connects yet. One retry: a restarted Redis leaves stale
    connections behind."""
    return Redis.from_url(
        url,
        socket_timeout=5.0,
        **_connect_bounds(url),
        health_check_interval=10,
        retry=Retry(ConstantBackoff(0.05), 1),
    )


def open_async_redis(url: str) -> AsyncRedis:
    """The same for an event loop, for `EventReader`."""
    client = AsyncRedis.from_url(
        url,
        socket_timeout=5.0,
        **_connect_bounds(url),
        health_check_interval=10,
        retry=AsyncRetry(ConstantBackoff(0.05), 1),
    )
    return make_cancellable(client)


def _connect_bounds(url: str) -> dict[str, Any]:
    return {} if url.startswith("unix://") else {"socket_connect_timeout": 2.0, "socket_keepalive": True}


class EventWriter:
    """Tells the world. Every method answers whether Redis took it, and never raises for an outage."""

    def __init__(self, redis: Redis, *, snapshot_seconds: float = 3600.0) -> None:
        self._redis = redis
        self._expiry_ms = int(snapshot_seconds * 1000)
        self._failing = False
        self._quiet_until = 0.0

    def text(self, events: Sequence[TextEvent | tuple[str, int, int, str, str]]) -> bool:
        """Send new text of any number of jobs in one round trip."""
        if not events or time.monotonic() < self._quiet_until:
            return not events

        def add(pipe: Pipeline) -> None:
            for event in events:
                self._add_text(pipe, event)

        return self._send(add)

    def _add_text(self, pipe: Pipeline, event: TextEvent | tuple[str, int, int, str, str]) -> None:
        job_id, attempt, seq, delta, full_text, token_ids, row_class, recipe, kept = TextEvent(*event)
        snapshot = {"attempt": attempt, "seq": seq, "text": full_text, "tokens": token_ids, "row_class": row_class}
        snapshot["recipe"] = recipe
        if kept:
            snapshot["kept"] = dict(kept)
        pipe.set(snapshot_key(job_id), _dump(snapshot), px=self._expiry_ms)
        pipe.publish(job_channel(job_id), _dump({"type": "text", "attempt": attempt, "seq": seq, "text": delta}))

    def snapshot(self, job_id: str) -> Snapshot | None:
        """What an attempt has told so far; None where nothing was told. Raises QueueUnavailable."""
        try:
            found: Any = self._redis.get(snapshot_key(job_id))
        except (RedisError, OSError):
            raise QueueUnavailable("Redis cannot be reached.") from None
        if found is None:
            return None
        told = json.loads(found)
        tokens, row_class = tuple(told.get("tokens", ())), told.get("row_class")
        return Snapshot(told["attempt"], told["text"], tokens, row_class, _kept(told))

    def state(self, job_id: str, state: JobState, attempt: int | None = None) -> bool:
        """A job that is not over moved: `running`, or `queued` again."""
        message = {"type": "state", "state": state} | ({} if attempt is None else {"attempt": attempt})

        def add(pipe: Pipeline) -> None:
            pipe.delete(end_key(job_id))  # An operator may have brought it back from its end.
            pipe.publish(job_channel(job_id), _dump(message))

        return self._send(add)

    def end(self, job_id: str, state: JobState) -> bool:
        """A job is over. Call it after the commit that ended it."""

        def add(pipe: Pipeline) -> None:
            pipe.set(end_key(job_id), str(state), px=_END_MS)
            _add_end(pipe, job_id, state)

        return self._send(add)

    def ends(self, ended: Sequence[tuple[str, JobState]]) -> bool:
        """Any number of jobs are over, after the commits that ended them. Leaves no key: who comes later, or hears
        of it in an outage, finds the end in the row."""
        for start in range(0, len(ended), ENDS_A_TRIP):
            trip = ended[start : start + ENDS_A_TRIP]

            def add(pipe: Pipeline, trip: Sequence[tuple[str, JobState]] = trip) -> None:
                for job_id, state in trip:
                    _add_end(pipe, job_id, state)

            if not self._send(add):
                return False
        return True

    def forget(self, job_id: str) -> bool:
        """A job was deleted: what is left of its text here goes before its time."""
        return self._send(lambda pipe: pipe.delete(snapshot_key(job_id), end_key(job_id)))

    def call_readers(self) -> bool:
        """A worker listens (again): whoever follows a job shall say so."""
        return self._send(lambda pipe: pipe.publish(READER_CHANNEL, "who"))

    def cancel(self, job_id: str) -> bool:
        """Tell the workers that somebody cancelled a running job."""
        return self._send(lambda pipe: pipe.publish(CANCEL_CHANNEL, job_id))

    def wake_dispatcher(self) -> bool:
        """There is something to dispatch: do not wait for the next round."""
        return self._send(lambda pipe: pipe.publish(DISPATCH_CHANNEL, "wake"))

    def _send(self, add: Callable[[Pipeline], object]) -> bool:
        try:
            pipe = self._redis.pipeline(transaction=False)
            add(pipe)
            # A full Redis refuses the snapshot and still takes the message: the two answer for themselves.
            answers = pipe.execute(raise_on_error=False)
            error = next((answer for answer in answers if isinstance(answer, Exception)), None)
        except (RedisError, OSError) as outage:
            error = outage
            self._quiet_until = time.monotonic() + QUIET_SECONDS
        self._note(error)
        return error is None

    def _note(self, error: Exception | None) -> None:
        """Log once when an outage begins, and once when it is over."""
        if error is not None and not self._failing:
            log.warning(
                "events_lost", error=type(error).__name__, next="jobs go on; readers find the end in the database"
            )
        elif error is None and self._failing:
            log.info("events_back")
        self._failing = error is not None


class EventReader:
    """Follows jobs. All readers of a process share one pub/sub connection; lives in one event loop."""

    def __init__(self, redis: AsyncRedis, *, mailbox_size: int = MAILBOX_SIZE, patience_seconds: float = 3.0) -> None:
        """`mailbox_size`: messages that wait for a slow reader before it is sent to the snapshot instead.
        `patience_seconds`: how long readers wait through an outage of Redis before they get QueueUnavailable."""
        self._redis = redis
        self._patience_seconds = patience_seconds
        self._announcing = Announcing(self._followed, self._announce)
        self._fanout = Fanout(
            redis, mailbox_size=mailbox_size, patience_seconds=patience_seconds, on_call=self._announcing.call
        )
        self._reads = asyncio.Semaphore(SNAPSHOT_READS)

    async def aclose(self) -> None:
        """Stop following; readers that still wait get QueueUnavailable. The client stays open."""
        await self._announcing.aclose()
        await self._fanout.aclose()

    def _followed(self) -> list[str]:
        return [job_of(channel) for channel in self._fanout.channels]

    async def _announce(self, message: str) -> None:
        await self._redis.publish(FOLLOW_CHANNEL, message)

    async def follow(
        self, job_id: str, after: int = 0, *, attempt: int = 1, tell_listening: bool = False
    ) -> AsyncGenerator[Event, None]:
        """Yield what happens to a job: no gap, no repeat. `after`: code points of its text that the client has, as
        `attempt` told them.

        Yields `{"type": "text", "attempt", "seq", "text"}`, `{"type": "state", "state"[, "attempt"]}`, and
        `{"type": "reset", "attempt"}` when a newer attempt's text does not continue what was told, or is not known to
        (its text follows, from the first character). Ends after `{"type": "end", "state"}`; the database then has all
        the text, also what a full Redis may have kept from here.

        `tell_listening`: yield `{"type": "listening"}` too, each time the subscription has (again) begun. An end that
        came before it was told to nobody here: it is time to look at the row.

        Raises:
            QueueUnavailable: Redis is out of reach for longer than the patience.
        """
        self._announcing.ensure()
        async with aclosing(self._follow(job_id, Transcript(after, attempt))) as events:
            async for event in events:
                if event["type"] != "listening" or tell_listening:
                    yield event
                if event["type"] == "end":
                    return

    async def _follow(self, job_id: str, transcript: Transcript) -> AsyncGenerator[Event, None]:
        async with self._fanout.listen(job_channel(job_id)) as mailbox:
            while True:
                message = await mailbox.get()
                if message == STALE:
                    events = await self._begin(job_id, transcript)
                else:
                    events = await self._hear(job_id, transcript, json.loads(message))
                for event in events:
                    yield event

    async def recipe(self, job_id: str) -> str | None:
        """Id of the recipe by which the text is made that was told last; None where nothing is known of it."""
        try:
            snapshot, _ = await self._read(job_id)
        except QueueUnavailable:
            return None
        found: str | None = None if snapshot is None else json.loads(snapshot).get("recipe")
        return found

    async def _begin(self, job_id: str, transcript: Transcript) -> list[Event]:
        """The subscription has begun, or messages were lost: what is kept, and the workers hear of this reader."""
        snapshot, end = await self._read(job_id, announce=True)
        told = _told(snapshot, transcript)
        if end is not None:
            told.append({"type": "end", "state": end.decode() if isinstance(end, bytes) else end})
        return [*told, {"type": "listening"}]

    async def _hear(self, job_id: str, transcript: Transcript, message: dict[str, Any]) -> list[Event]:
        if message["type"] == "end":
            # Whatever text was missed is in the snapshot, which was written before the end was.
            return [*await self._catch_up(job_id, transcript), message]
        if message["type"] != "text":
            return [message]
        piece = (message["attempt"], message["seq"], message["text"])
        events = transcript.hear(*piece)
        if events != GAP:
            return events
        caught_up = await self._catch_up(job_id, transcript)
        again = transcript.hear(*piece)
        return caught_up if again == GAP else caught_up + again

    async def _catch_up(self, job_id: str, transcript: Transcript) -> list[Event]:
        snapshot, _ = await self._read(job_id)
        return _told(snapshot, transcript)

    async def _read(self, job_id: str, *, announce: bool = False) -> tuple[bytes | str | None, bytes | str | None]:
        """Read snapshot and end in one step; through a short outage if need be."""
        give_up_at = time.monotonic() + self._patience_seconds
        while True:
            try:
                async with self._reads, self._redis.pipeline(transaction=False) as pipe:
                    if announce:
                        pipe.publish(FOLLOW_CHANNEL, job_id)
                    pipe.mget(snapshot_key(job_id), end_key(job_id))
                    snapshot, end = (await pipe.execute())[-1]
            except (RedisError, OSError):
                if time.monotonic() > give_up_at:
                    raise QueueUnavailable("Redis cannot be reached.") from None
                await asyncio.sleep(0.05)
            else:
                return snapshot, end


_END_MS = int(END_SECONDS * 1000)


def _add_end(pipe: Pipeline, job_id: str, state: JobState) -> None:
    pipe.pexpire(snapshot_key(job_id), _END_MS)
    pipe.publish(job_channel(job_id), _dump({"type": "end", "state": state}))


def _told(snapshot: bytes | str | None, transcript: Transcript) -> list[Event]:
    if snapshot is None:
        return []
    document = json.loads(snapshot)
    return transcript.read_snapshot(document["attempt"], document["text"], _kept(document))


def _kept(snapshot: dict[str, Any]) -> dict[int, int]:
    return {int(attempt): kept for attempt, kept in snapshot.get("kept", {}).items()}


def _dump(message: dict[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))
