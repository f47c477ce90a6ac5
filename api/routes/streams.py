"""/v1/jobs/{id}/events: the job as server-sent events. What is in the frames is `api.streaming`'s."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from api.keys import Owner
from api.routes import refusals
from api.services import Services, services
from api.streaming import JobStream, Position
from jobs.errors import StoreUnavailable

router = APIRouter(tags=["jobs"])

KEY_SECONDS = 5.0
"""How often an open stream looks whether its API key still is one."""
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_DESCRIPTION = """The job as it happens, as server-sent events:

- `event: state`, data `{"state", "attempt"}`: at the start, and at every change
- `event: text`, data `{"seq", "text"}`: new text; `seq` is the length of all the text so far in code points, and
  the frame's `id` says the same, and in which attempt it was told
- `event: reset`, data `{"attempt"}`: another attempt started with another text; what came before is void
- `event: end`, data: the whole job. The last frame
- `event: error`, data `{"error": …}`: the stream cannot go on, the job does; connect again

Connect again with `Last-Event-ID`, or `?after=` the last `id`: nothing is missed and nothing comes twice, also where a
worker died meanwhile and the next attempt took its text up. Where that was not possible, `reset` comes first. A job
that has ended is told from the database."""


class EventStream(StreamingResponse):
    """A stream whose generator is closed however the response ends, so that a client that leaves frees everything.
    One whose API key has ended since is cut off within seconds: pings come, if nothing else does."""

    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pieces = self.body_iterator
        still_known = scope.get("state", {}).get("still_known")
        if still_known is not None:
            self.body_iterator = _while_known(pieces, still_known)
        try:
            with scope["app"].state.meter.readers.track_inprogress():
                await super().__call__(scope, receive, send)
        finally:
            close = getattr(pieces, "aclose", None)
            if close is not None:
                await close()


async def _while_known(pieces: AsyncIterable[Any], still_known: Callable[[], bool]) -> AsyncIterator[Any]:
    """The stream's pieces, until its key is found to have ended. An outage of the database is no such end."""
    look_at = time.monotonic() + KEY_SECONDS
    async for piece in pieces:
        if time.monotonic() >= look_at:
            with contextlib.suppress(StoreUnavailable):
                if not await run_in_threadpool(still_known):
                    return
            look_at = time.monotonic() + KEY_SECONDS
        yield piece


def start_position(
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", description="`id` of the last frame.")] = None,
    after: Annotated[str | None, Query(description="`id` of the last text received.", examples=["42"])] = None,
) -> Position:
    """Where the reader stands. The header wins: a browser that reconnects repeats the URL. Raises InvalidRequest."""
    if last_event_id:
        return Position.parse(last_event_id, "Last-Event-ID")
    return Position.parse(after, "after") if after is not None else Position()


@router.get(
    "/v1/jobs/{job_id}/events",
    response_class=EventStream,
    summary="Follow a job",
    description=_DESCRIPTION,
    responses={
        200: {
            "content": {"text/event-stream": {"example": 'event: text\nid: 5\ndata: {"seq": 5, "text": "Ice, "}\n\n'}}
        },
        **refusals(400, 401, 404, 503),
    },
)
async def events(
    parts: Annotated[Services, Depends(services)],
    owner: Owner,
    job_id: str,
    position: Annotated[Position, Depends(start_position)],
) -> EventStream:
    stream = JobStream(parts, job_id, owner, position)
    first = await stream.read()
    return EventStream(stream.frames(first), headers=STREAM_HEADERS)
