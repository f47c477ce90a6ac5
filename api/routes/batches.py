"""/v1/batches: make, read, list, cancel, retry, follow."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from api.batch_making import make_batch, read_request
from api.batch_streaming import batch_frames, parse_cursor
from api.body import fingerprint, parse_object
from api.idempotency import Calling, note_replay
from api.keys import Maker, Owner
from api.reading import check_id, cursor_of, poll_batch, read_batch, read_batches
from api.routes import note_poll, refusals
from api.routes.jobs import body_after_key
from api.routes.streams import STREAM_HEADERS, EventStream
from api.services import Services, services
from api.wire import BatchObject, BatchPage, RetriedBatch
from jobs.states import JobState
from jobs.store import Store

router = APIRouter(tags=["batches"])

Parts = Annotated[Services, Depends(services)]

_CREATE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/BatchRequest"},
                "example": {
                    "input_file_id": "file-0199c2a4a1b27e0f9d3c5b6a79881234",
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                },
            }
        },
    }
}

_EVENTS = """The batch as it happens, as server-sent events:

- `event: line`, `id` its cursor, data: a line that has ended, as the output or the error file has it
- `event: progress`, data: `status`, `request_counts`, `counts`, `usage` and the files' ids, whenever they change
- `event: end`, data: the whole batch. The last frame
- `event: error`, data `{"error": …}`: the stream cannot go on, the batch does; connect again

Connect again with `Last-Event-ID`, or `?after=` the last line's `id`: no line is missed and none comes twice."""


@router.post(
    "/v1/batches",
    response_model=BatchObject,
    summary="Make a batch of a file's lines",
    responses=refusals(400, 401, 404, 409, 413, 415, 503),
    openapi_extra=_CREATE_BODY,
)
def create(
    parts: Parts,
    maker: Maker,
    caller: Calling,
    raw: Annotated[bytes, Depends(body_after_key)],
    response: Response,
) -> BatchObject:
    """The batch is stored when this answers; its lines follow, and the first of them run while others still come."""
    body = parse_object(raw)
    new = read_request(body, parts.settings)
    batch, replayed = make_batch(parts, new, maker, caller.terms(fingerprint(body)))
    note_replay(response, replayed)
    if not replayed:
        parts.announcer.queued([], batch.num_total)
    return read_batch(parts.store, batch.id, maker.sees)


class ListQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100, description="At most so many.")] = 20
    after: str | None = Field(default=None, description="Id of the last batch of the page before.")
    rates: bool = Field(default=False, description="Reckon the pace of those that have not ended.")


@router.get("/v1/batches", response_model=BatchPage, summary="List batches", responses=refusals(400, 401, 503))
def list_batches(parts: Parts, owner: Owner, query: Annotated[ListQuery, Query()]) -> BatchPage:
    """Newest first, a page at a time."""
    with cursor_of("batch", query.after) as after:
        return read_batches(parts.store, owner, query.limit, after, with_rates=query.rates)


@router.get(
    "/v1/batches/{batch_id}", response_model=BatchObject, summary="Read a batch", responses=refusals(401, 404, 503)
)
def read(parts: Parts, owner: Owner, batch_id: str, response: Response) -> BatchObject:
    """The batch, its counts, its pace. Its jobs: `GET /v1/jobs?batch_id=`. Until its end, `Retry-After` says when to
    ask again."""
    batch, seconds = poll_batch(parts.store, batch_id, owner)
    note_poll(response, seconds)
    return batch


@router.post(
    "/v1/batches/{batch_id}/cancel",
    response_model=BatchObject,
    summary="Cancel a batch",
    responses=refusals(401, 404, 503),
)
def cancel(parts: Parts, owner: Owner, batch_id: str) -> BatchObject:
    """Answers at once: nothing more of it is started, its running jobs end within a second, its waiting ones soon.
    Those that have ended stay as they are."""
    parts.store.cancel_batch(check_id("batch", batch_id), owner=owner)
    parts.announcer.cancel_requested(_running(parts.store, batch_id))
    return read_batch(parts.store, batch_id, owner)


@router.post(
    "/v1/batches/{batch_id}/retry",
    response_model=RetriedBatch,
    summary="Run the failed lines of a batch again",
    responses=refusals(400, 401, 404, 503),
)
def retry(parts: Parts, maker: Maker, batch_id: str) -> RetriedBatch:
    """Lines that failed or expired are queued again, with a whole budget and a new window; those that can never run
    stay as they are. The output file goes on, the error file starts anew. Calling again does no harm: what is queued
    already is left alone."""
    num_retried = parts.store.retry_batch(check_id("batch", batch_id), maker.sees, quota=maker.quota)
    parts.announcer.queued([], num_retried)
    return RetriedBatch(**read_batch(parts.store, batch_id, maker.sees).model_dump(), num_retried=num_retried)


def start_cursor(
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", description="`id` of the last line.")] = None,
    after: Annotated[str | None, Query(description="`id` of the last line received.", examples=["42"])] = None,
) -> int:
    """Where the reader stands. The header wins: a browser that reconnects repeats the URL. Raises InvalidRequest."""
    if last_event_id:
        return parse_cursor(last_event_id, "Last-Event-ID")
    return 0 if after is None else parse_cursor(after, "after")


@router.get(
    "/v1/batches/{batch_id}/events",
    response_class=EventStream,
    summary="Follow a batch",
    description=_EVENTS,
    responses={
        200: {"content": {"text/event-stream": {"example": 'event: line\nid: 1\ndata: {"custom_id": "a"}\n\n'}}},
        **refusals(400, 401, 404, 503),
    },
)
async def events(
    parts: Parts, owner: Owner, batch_id: str, after: Annotated[int, Depends(start_cursor)]
) -> EventStream:
    await run_in_threadpool(parts.store.get_batch, check_id("batch", batch_id), owner)
    return EventStream(batch_frames(parts, batch_id, owner, after), headers=STREAM_HEADERS)


def _running(store: Store, batch_id: str) -> list[str]:
    """Ids of the batch's running jobs: never many, as each holds a slot."""
    ids: list[str] = []
    has_more = True
    while has_more:
        after = ids[-1] if ids else None
        rows, has_more = store.list_jobs(state=JobState.RUNNING, batch_id=batch_id, limit=100, after=after)
        ids += [job.id for job in rows]
    return ids
