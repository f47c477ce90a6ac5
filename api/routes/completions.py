"""/v1/chat/completions and /v1/completions, live: on the same queue as all other jobs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from api.body import fingerprint, parse_object
from api.errors import Refusal
from api.idempotency import Caller, Calling
from api.key_ring import Identity
from api.keys import Maker
from api.openai.live import CLIENT_CLOSED_REQUEST, Call, begin, merged, unless_gone
from api.openai.mapping import Asked, read_chat, read_completion
from api.openai.replies import DONE, Chunks, Kind, error_frame, whole
from api.routes import JSON_OR_STREAM, refusals
from api.routes.jobs import body_after_key
from api.routes.streams import EventStream
from api.services import Services, services
from api.streaming import PING, Broken, Ended, Ping, Reset, Text
from jobs.errors import PenstockError
from jobs.tables import Generation

router = APIRouter(tags=["openai"])

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_READERS: Mapping[Kind, Callable[[Mapping[str, Any]], Asked]] = {"chat": read_chat, "text": read_completion}
_REFUSALS = refusals(400, 401, 404, 409, 413, 415, 503)


def _described(schema: str, kind: str) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
        },
        "responses": {
            "200": {
                "description": f"OpenAI's `{kind}`; with `stream`, server-sent events of its chunks.",
                "content": JSON_OR_STREAM,
            }
        },
    }


@router.post(
    "/v1/chat/completions",
    summary="Complete a chat, live",
    responses=_REFUSALS,
    openapi_extra=_described("ChatRequest", "chat.completion"),
)
async def chat(
    request: Request,
    parts: Annotated[Services, Depends(services)],
    maker: Maker,
    caller: Calling,
    raw: Annotated[bytes, Depends(body_after_key)],
) -> Response:
    """The answer when it is whole, or with `stream` as it is made. It is a job like any other (`penstock.job_ids`):
    stored with its seed, and replayable. A caller that leaves cancels it, unless it sent `store: true`."""
    return await _complete("chat", request, parts, maker, caller, raw)


@router.post(
    "/v1/completions",
    summary="Complete a prompt, live",
    responses=_REFUSALS,
    openapi_extra=_described("CompletionRequest", "text_completion"),
)
async def completion(
    request: Request,
    parts: Annotated[Services, Depends(services)],
    maker: Maker,
    caller: Calling,
    raw: Annotated[bytes, Depends(body_after_key)],
) -> Response:
    """As `/v1/chat/completions`, for a raw prompt whose control tokens are parsed."""
    return await _complete("text", request, parts, maker, caller, raw)


async def _complete(  # noqa: PLR0917 -- the two endpoints hand on what they were given
    kind: Kind, request: Request, parts: Services, maker: Identity, caller: Caller, raw: bytes
) -> Response:
    asked, call = await run_in_threadpool(_begun, kind, parts, maker, caller, raw)
    headers = {**_HEADERS, "x-request-id": call.ids[0]}
    if asked.stream:
        return EventStream(_streamed(kind, asked, call), headers=headers)
    done = await unless_gone(request, call, asyncio.create_task(call.done()))
    if done is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return JSONResponse(whole(kind, done, asked.num_choices), headers=headers)


def _begun(kind: Kind, parts: Services, maker: Identity, caller: Caller, raw: bytes) -> tuple[Asked, Call]:
    body = parse_object(raw)
    asked = _READERS[kind](body)
    keep = body.get("store") is True
    # Without a key, a client's own retry is a new call: the one before was cancelled when its connection was lost.
    terms = caller.terms(fingerprint(body)) if caller.key is not None or keep else None
    return asked, begin(parts, maker, asked, keep=keep, terms=terms)


async def _streamed(kind: Kind, asked: Asked, call: Call) -> AsyncGenerator[bytes]:
    """The chunks of every choice. However it ends, jobs that nobody waits for any more are cancelled."""
    complete = False
    try:
        async with contextlib.aclosing(_chunks(kind, asked, call)) as chunks:
            async for piece in chunks:
                complete = complete or piece == DONE
                if piece:
                    yield piece
    except Refusal as refusal:
        yield error_frame(refusal.message, refusal.code)
    except PenstockError as error:
        yield error_frame(f"{HTTPStatus.SERVICE_UNAVAILABLE.phrase}: the answer cannot be read right now.", error.code)
    finally:
        if not complete:
            call.abandon()


async def _chunks(kind: Kind, asked: Asked, call: Call) -> AsyncGenerator[bytes]:
    first = await run_in_threadpool(call.parts.store.get, call.ids[0])
    created = int(first.created_at.timestamp())
    chunks = Chunks(kind, first.id, created, first.model, asked.include_usage, asked.num_choices)
    fingerprints = _Fingerprints(call)
    opened: set[int] = set()
    generations: dict[int, Generation] = {}
    async with merged(call) as events:
        async for index, told in events:
            match told:
                case Text():
                    fingerprint = await fingerprints.of(index, told.position.attempt)
                    if index not in opened:
                        opened.add(index)
                        yield chunks.opening(index, fingerprint)
                    yield chunks.text(index, told.text, fingerprint)
                case Reset():
                    raise Refusal(500, "The worker was lost, and the text began anew.", code="stream_reset")
                case Broken():
                    raise Refusal(500, told.message, code=told.code)
                case Ping():
                    yield PING
                case Ended():
                    job, generation = await call.read(call.ids[index])
                    generations[index] = generation
                    if index not in opened:
                        yield chunks.opening(index, generation.recipe_id)
                    yield chunks.ending(index, job, generation)
    yield chunks.usage([generations[index] for index in sorted(generations)])
    yield DONE


class _Fingerprints:
    """The recipes of a stream's choices: known with the first text of each attempt."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._known: dict[tuple[int, int | None], str | None] = {}

    async def of(self, index: int, attempt: int | None) -> str | None:
        if (index, attempt) not in self._known:
            self._known[index, attempt] = await self._call.fingerprint(self._call.ids[index])
        return self._known[index, attempt]
