"""/v1/files: upload, read, list, delete. An upload is checked line by line while it arrives."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.contents import content_response
from api.errors import Refusal
from api.idempotency import Caller, Calling, note_replay
from api.intake.form import boundary_of
from api.intake.upload import Upload, file_too_large, upload_fingerprint
from api.keys import Maker, Owner
from api.reading import check_id, cursor_of
from api.routes import refusals
from api.services import Services, services
from api.shapes import file_object
from api.wire import DeletedFile, FileObject, FilePage
from jobs.errors import IdempotencyConflict, InvalidRequest
from jobs.records import Filed
from jobs.settings import Settings
from jobs.tables import File

log = structlog.get_logger("penstock.api")

router = APIRouter(tags=["files"])

Parts = Annotated[Services, Depends(services)]

FEED_BYTES = 256 * 1024
"""So much is collected before a thread is asked to take it."""
FORM_BYTES = 64 * 1024
"""What a form may add to its file."""
CLIENT_CLOSED = 499

_UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "JSON lines, UTF-8."},
                        "purpose": {"type": "string", "enum": ["batch"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 1},
                    },
                }
            }
        },
    }
}


@router.post(
    "/v1/files",
    response_model=FileObject,
    summary="Upload a file",
    responses=refusals(400, 401, 404, 409, 413, 415, 503),
    openapi_extra=_UPLOAD_BODY,
)
async def upload(parts: Parts, maker: Maker, caller: Calling, request: Request, response: Response) -> FileObject:
    """Upload the lines of a batch. Each is checked while it arrives; one that cannot run is counted in `lines` and
    ends in the batch's error file, the others run.

    The answer comes when the file and what the check has found are stored."""
    boundary = boundary_of(request.headers)
    _check_announced(request, parts.settings)
    model = await run_in_threadpool(parts.catalog.served)
    taken = Upload(boundary, vault=parts.vault, model=model, settings=parts.settings)
    filed = await _received(request, taken, parts, maker.owner, caller)
    note_replay(response, filed.replayed)
    return file_object(await run_in_threadpool(parts.store.get_file, filed.id, maker.owner))


async def _received(request: Request, taken: Upload, parts: Services, owner: str, caller: Caller) -> Filed:
    """Store the upload, or leave nothing behind."""
    try:
        async with aclosing(_pieces(request.stream())) as pieces:
            async for piece in pieces:
                await run_in_threadpool(taken.feed, piece)
        new = await run_in_threadpool(taken.finish)
    except ClientDisconnect:
        taken.discard()
        log.info("upload broken off by the client")
        raise Refusal(CLIENT_CLOSED, "The client closed the connection.", code="client_closed") from None
    except BaseException:
        taken.discard()
        raise
    try:
        filed = await run_in_threadpool(
            lambda: parts.store.create_file(
                new, owner=owner, file_id=taken.file_id, **caller.terms(upload_fingerprint(new))
            )
        )
    except (InvalidRequest, IdempotencyConflict):
        # Only where it is certain that no row names the objects; else the sweep finds out.
        await run_in_threadpool(taken.discard)
        raise
    if filed.replayed:
        await run_in_threadpool(taken.discard)
    return filed


async def _pieces(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The body in pieces that are worth a change of threads."""
    held: list[bytes] = []
    num_bytes = 0
    async for chunk in stream:
        held.append(chunk)
        num_bytes += len(chunk)
        if num_bytes >= FEED_BYTES:
            yield b"".join(held)
            held, num_bytes = [], 0
    if num_bytes:
        yield b"".join(held)


def _check_announced(request: Request, settings: Settings) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:18]) > settings.max_file_bytes + FORM_BYTES:
        raise file_too_large(settings.max_file_bytes)


class ListQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    purpose: Literal["batch", "batch_output"] | None = Field(
        default=None, description="Only files that were uploaded, or only those that batches have made."
    )
    limit: Annotated[int, Field(ge=1, le=10_000, description="At most so many.")] = 100
    order: Literal["asc", "desc"] = Field(default="desc", description="Oldest first, or newest first.")
    after: str | None = Field(default=None, description="Id of the last file of the page before.")


@router.get("/v1/files", response_model=FilePage, summary="List files", responses=refusals(400, 401, 503))
def list_files(parts: Parts, owner: Owner, query: Annotated[ListQuery, Query()]) -> FilePage:
    """By the time of their making, a page at a time."""
    with cursor_of("file", query.after) as after:
        rows, has_more = parts.store.list_files(owner, query.purpose, query.limit, after, query.order)
    data = [file_object(row) for row in rows]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return FilePage(data=data, first_id=first, last_id=last, has_more=has_more)


@router.get("/v1/files/{file_id}", response_model=FileObject, summary="Read a file", responses=refusals(401, 404, 503))
def read(parts: Parts, owner: Owner, file_id: str) -> FileObject:
    """What is known of the file; its bytes are at `/content`."""
    return file_object(_file(parts, owner, file_id))


@router.delete(
    "/v1/files/{file_id}", response_model=DeletedFile, summary="Delete a file", responses=refusals(400, 401, 404, 503)
)
def delete(parts: Parts, owner: Owner, file_id: str) -> DeletedFile:
    """Refused while a batch still takes its lines from it, or writes it."""
    parts.store.delete_file(check_id("file", file_id), owner)
    return DeletedFile(id=file_id)


@router.get(
    "/v1/files/{file_id}/content",
    response_class=Response,
    summary="Read a file's bytes",
    responses={
        200: {"content": {"application/jsonl": {}}},
        206: {"description": "The range that `Range` asked for."},
        **refusals(401, 404, 416, 503),
    },
)
def content(parts: Parts, owner: Owner, file_id: str, request: Request) -> Response:
    """The bytes, whole or by `Range`. A batch's results grow while it runs (`X-Incomplete: true`); a byte that was
    once there never changes, so a reader may go on from where it stands."""
    file = _file(parts, owner, file_id)
    return content_response(request.headers, file, lambda: parts.store.segments(file.id), parts.vault)


def _file(parts: Services, owner: str | None, file_id: str) -> File:
    return parts.store.get_file(check_id("file", file_id), owner)
