"""Every error as the caller sees it: OpenAI's shape, a status, and whether a retry can help.

`{"error": {"message", "type", "param", "code"}}`, all four keys always. No message holds a prompt, and nothing that a
caller sent is repeated but the names of fields. What is not foreseen becomes a 500 that says nothing; its log line
holds the type and the place of the error, never its text (texts of libraries quote values).
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.faults import first_fault
from jobs.errors import (
    IdempotencyConflict,
    InvalidRequest,
    LimitExceeded,
    ModelUnknown,
    NotEnded,
    NotFound,
    PenstockError,
    QueueUnavailable,
    StorageUnavailable,
    StoreUnavailable,
)

log = structlog.get_logger("penstock.api")

INVALID = "invalid_request_error"
SERVER = "server_error"
RETRY_AFTER_SECONDS = 2


class Refusal(Exception):
    """A refusal that is a matter of HTTP alone: it carries its whole answer. `kind` is the `type` on the wire, where
    it is not the usual one of its status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = int(status)
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        self.kind = kind


def body_too_large(limit_bytes: int) -> Refusal:
    """The request's body is over `limit_bytes`. The connection is closed: the rest of the body is not read."""
    return Refusal(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The request body is larger than the limit of {limit_bytes} bytes.",
        code="body_too_large",
        headers={"Connection": "close"},
    )


def model_not_found(model: str, param: str = "model") -> Refusal:
    """`model` is what is served, for the caller to correct the request."""
    message = f"{param}: only {model!r} is served here."
    return Refusal(HTTPStatus.NOT_FOUND, message, code="model_not_found", param=param)


def error_body(message: str, *, type: str, param: str | None, code: str) -> dict[str, Any]:  # noqa: A002
    """OpenAI's shape."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def answer_for(error: Exception) -> JSONResponse:
    """The answer to any error."""
    told = error if isinstance(error, Refusal) else _refusal_of(error)
    kind = told.kind or _kind_of(told)
    body = error_body(told.message, type=kind, param=told.param, code=told.code)
    return JSONResponse(body, status_code=told.status, headers=told.headers)


def _kind_of(told: Refusal) -> str:
    return INVALID if told.status < HTTPStatus.INTERNAL_SERVER_ERROR else SERVER


def _refusal_of(error: Exception) -> Refusal:
    match error:
        case InvalidRequest():
            told = Refusal(400, error.message, code=error.code, param=error.param)
        case NotFound():
            told = Refusal(404, str(error), code=error.code, param="id")
        case NotEnded():
            told = Refusal(409, str(error), code=error.code, param="id", headers={"x-should-retry": "false"})
        case LimitExceeded():
            told = _too_much(error)
        case IdempotencyConflict():
            # OpenAI's client repeats a 409 by itself unless told otherwise.
            headers = {"x-should-retry": "false"}
            told = Refusal(409, str(error), code=error.code, param="Idempotency-Key", headers=headers)
        case StoreUnavailable():
            told = _later("The database cannot be reached right now.", error)
        case StorageUnavailable():
            told = _later("The storage of files cannot be reached right now, or is full.", error)
        case QueueUnavailable():
            told = _later("Redis cannot be reached right now.", error)
        case ModelUnknown():
            told = _later(str(error), error, param="model")
        case _:
            told = Refusal(500, "Something went wrong here; it has been logged.", code="internal_error")
    return told


def _too_much(error: LimitExceeded) -> Refusal:
    headers = {"Retry-After": str(error.retry_after_seconds)}
    kind = "batches"
    if error.limit == "queued_tokens":
        kind = "tokens"
        headers["x-ratelimit-limit-tokens"] = str(error.allowed)
        headers["x-ratelimit-remaining-tokens"] = str(max(0, error.allowed - error.held))
    if not error.retryable:
        headers["x-should-retry"] = "false"
    return Refusal(429, str(error), code=error.code, param=error.limit, headers=headers, kind=kind)


def _later(message: str, error: PenstockError, *, param: str | None = None) -> Refusal:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return Refusal(503, message, code=error.code, param=param, headers=headers)


def install(app: FastAPI) -> None:
    """Register the handlers of every foreseen error. The unforeseen are `LastResort`'s."""
    app.add_exception_handler(Refusal, _foreseen)
    app.add_exception_handler(PenstockError, _foreseen)
    app.add_exception_handler(RequestValidationError, _invalid_query)
    app.add_exception_handler(HTTPException, _routing)


async def _foreseen(request: Request, error: Exception) -> JSONResponse:
    answer = answer_for(error)
    if answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("unforeseen error", path=request.url.path, error=type(error).__name__, at=_places(error))
    elif answer.status_code > HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("unavailable", path=request.url.path, error=type(error).__name__)
    return answer


async def _invalid_query(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 -- for the type checker; the registration says so
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][1:])
    return answer_for(first_fault([first], {}).named(name))


async def _routing(request: Request, error: Exception) -> JSONResponse:
    """No such route, or not with this method."""
    assert isinstance(error, HTTPException)  # noqa: S101 -- as above
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    message = f"{HTTPStatus(error.status_code).phrase}: {request.method} is not served at this URL."
    return answer_for(Refusal(error.status_code, message, code=code, headers=error.headers))


class LastResort:
    """ASGI: an unforeseen error becomes a 500 of our shape. It goes no further up, where its text would be logged."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            log.error("unforeseen error", path=scope["path"], error=type(error).__name__, at=_places(error))
            if not started:
                await answer_for(error)(scope, receive, send)


def _places(error: BaseException) -> list[str]:
    """Where the error came from, innermost last, without its text."""
    frames = traceback.extract_tb(error.__traceback__)[-5:]
    return [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]
