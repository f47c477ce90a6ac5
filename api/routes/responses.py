"""/v1/responses: live and in the background, followed from any event on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from api.body import fingerprint, parse_object
from api.errors import Refusal
from api.idempotency import Caller, Calling
from api.key_ring import Identity
from api.keys import Maker, Owner
from api.openai.live import CLIENT_CLOSED_REQUEST, Call, begin, unless_gone
from api.openai.mapping import Asked
from api.openai.responses import (
    LAST_OPENING,
    AskedResponse,
    after,
    closing_events,
    delta_event,
    error_event,
    input_items,
    job_id_of,
    number_of,
    opening_events,
    place_of,
    read_response,
    response_object,
)
from api.reading import check_id
from api.routes import JSON_OR_STREAM, refusals
from api.routes.jobs import body_after_key
from api.routes.streams import EventStream
from api.services import Services, services
from api.streaming import PING, Broken, Ended, JobStream, Ping, Position, Reset, Text
from jobs.errors import InvalidRequest, NotFound, PenstockError
from jobs.states import ENDED, JobState
from jobs.tables import Generation, Job

router = APIRouter(tags=["openai"])

Parts = Annotated[Services, Depends(services)]

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_DOCUMENTED: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ResponseRequest"}}},
    },
    "responses": {
        "200": {"description": "OpenAI's `response`; with `stream`, server-sent events.", "content": JSON_OR_STREAM}
    },
}


@router.post(
    "/v1/responses",
    summary="Make a response",
    responses=refusals(400, 401, 404, 409, 413, 415, 503),
    openapi_extra=_DOCUMENTED,
)
async def create(
    request: Request,
    parts: Parts,
    maker: Maker,
    caller: Calling,
    raw: Annotated[bytes, Depends(body_after_key)],
) -> Response:
    """With `background` the answer comes at once: poll it by its id, cancel it, or stream it from any event on. A
    response in the foreground goes on when its caller leaves, unless it was sent with `store: false`."""
    asked, call = await run_in_threadpool(_begun, parts, maker, caller, raw)
    headers = {**_HEADERS, "x-request-id": call.ids[0]}
    if asked.stream:
        return EventStream(_streamed(call, -1), headers=headers)
    if not asked.background:
        ended = await unless_gone(request, call, asyncio.create_task(call.ended()))
        if ended is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
    return JSONResponse(await run_in_threadpool(_read, parts, maker.sees, call.ids[0]), headers=headers)


def _begun(parts: Services, maker: Identity, caller: Caller, raw: bytes) -> tuple[AskedResponse, Call]:
    body = parse_object(raw)
    asked = read_response(body)
    draft = asked.draft
    if asked.previous is not None:
        draft = replace(draft, messages=after(asked, *_previous(parts, maker.sees, asked.previous)))
    terms = caller.terms(fingerprint(body)) if caller.key is not None or asked.keep else None
    call = begin(parts, maker, Asked(draft, 1, asked.stream), keep=asked.keep, terms=terms, origin=asked.origin)
    return asked, call


def _previous(parts: Services, owner: str | None, id: str) -> tuple[Job, str]:  # noqa: A002
    """The response that a request goes on from, and its text. Raises InvalidRequest."""
    try:
        job = _job(parts, owner, id)
    except NotFound:
        job = None
    generation = None if job is None else parts.store.get_generation(job.id)
    if job is None or generation is None or job.messages is None or job.state != JobState.SUCCEEDED:
        message = "previous_response_id: there is no such response that has ended well."
        raise InvalidRequest(message, param="previous_response_id", code="previous_response_not_found")
    return job, generation.completion


def _job(parts: Services, owner: str | None, id: str) -> Job:  # noqa: A002
    """The job behind a response. Raises NotFound."""
    try:
        return parts.store.get(check_id("job", job_id_of(id)), owner)
    except NotFound:
        raise NotFound("response", id[:64].encode("ascii", "replace").decode()) from None


def _read(parts: Services, owner: str | None, job_id: str) -> dict[str, Any]:
    job = _job(parts, owner, job_id.replace("job_", "resp_", 1))
    return response_object(job, _generation(parts, job))


def _generation(parts: Services, job: Job) -> Generation | None:
    return parts.store.get_generation(job.id) if job.state in ENDED else None


@router.get(
    "/v1/responses/{response_id}",
    summary="Read or follow a response",
    responses={200: {"content": JSON_OR_STREAM}, **refusals(400, 401, 404, 503)},
)
async def retrieve(
    parts: Parts,
    owner: Owner,
    response_id: str,
    stream: Annotated[bool, Query(description="Its events, in place of how it stands.")] = False,
    starting_after: Annotated[
        int, Query(ge=-1, le=10**15, description="`sequence_number` of the last event that you have.")
    ] = -1,
) -> Response:
    """The response as it stands; with `stream`, its events after `starting_after`, to its end."""
    job = await run_in_threadpool(_job, parts, owner, response_id)
    if not stream:
        return JSONResponse(await run_in_threadpool(_read, parts, owner, job.id), headers=_HEADERS)
    call = Call(parts, owner, [job.id], keep=True)
    return EventStream(_streamed(call, starting_after), headers=_HEADERS)


@router.get(
    "/v1/responses/{response_id}/input_items", summary="Read a response's input", responses=refusals(401, 404, 503)
)
def read_input(parts: Parts, owner: Owner, response_id: str) -> dict[str, Any]:
    """The messages that it answers."""
    items = input_items(_job(parts, owner, response_id))
    return {
        "object": "list", "data": items, "first_id": items[0]["id"], "last_id": items[-1]["id"], "has_more": False,
    }  # fmt: skip


@router.post("/v1/responses/{response_id}/cancel", summary="Cancel a response", responses=refusals(401, 404, 503))
def cancel(parts: Parts, owner: Owner, response_id: str) -> dict[str, Any]:
    """As `/v1/jobs/{id}/cancel`. One that has ended stays as it is."""
    job = _job(parts, owner, response_id)
    if job.state not in ENDED:
        parts.announcer.cancelled(job.id, JobState(parts.store.cancel(job.id, owner=owner).state))
    return _read(parts, owner, job.id)


@dataclass
class _Reader:
    """Who reads the stream; the number of the last event that it has."""

    number: int


async def _streamed(call: Call, later_than: int) -> AsyncGenerator[bytes]:
    """The events later than a number. However it ends, a job that nobody is to keep is cancelled."""
    complete, reader = False, _Reader(later_than)
    try:
        async with contextlib.aclosing(_events(call, reader)) as events:
            async for piece in events:
                yield piece
        complete = True
    except PenstockError as error:
        yield error_event("The response cannot be read right now; it goes on.", error.code, reader.number)
    except Refusal as refusal:
        yield error_event(refusal.message, refusal.code, reader.number)
    finally:
        if not complete:
            call.abandon()


async def _events(call: Call, reader: _Reader) -> AsyncGenerator[bytes]:
    parts, job_id = call.parts, call.ids[0]
    job = await run_in_threadpool(parts.store.get, job_id)
    start = await run_in_threadpool(_start, parts, job, reader.number)
    for piece in opening_events(job, reader.number):
        yield piece
    reader.number = max(reader.number, LAST_OPENING)
    stream = JobStream(parts, job_id, call.owner, start)
    async with contextlib.aclosing(stream.events(await stream.read())) as events:
        async for told in events:
            match told:
                case Text():
                    reader.number = number_of(told.position.attempt, told.seq)
                    yield delta_event(job, told.text, reader.number)
                case Reset():
                    message = "The worker was lost, and the text began anew: read it from its start."
                    raise Refusal(500, message, code="stream_reset")
                case Broken():
                    raise Refusal(500, told.message, code=told.code)
                case Ping():
                    yield PING
                case Ended():
                    job = await run_in_threadpool(parts.store.get, job_id)
                    generation = await run_in_threadpool(_generation, parts, job)
                    for piece in closing_events(job, generation, reader.number):
                        yield piece


def _start(parts: Services, job: Job, later_than: int) -> Position:
    """Where in the text a reader stands; of an ended one, at most at its end."""
    generation = _generation(parts, job)
    attempt, seq = place_of(later_than)
    if generation is not None and generation.attempt == attempt:
        seq = min(seq, len(generation.completion))
    return Position(seq, attempt)
