"""The bounds on a request's body, kept while it arrives: its size, and how long it may take.

Nothing beyond the size is ever held in memory. Uploads are left out of that one: they are never held, and have a bound
of their own (`api.intake.upload`). No body may keep the API waiting for longer than a grace and a second more for each
KiB that has come: one that drips is cut off like one that stalls.
"""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import Refusal, answer_for, body_too_large

UPLOADS = ("POST", "/v1/files")
LEAST_BYTES_PER_SECOND = 1024


class BodyLimit:
    """ASGI: refuses a body over `limit_bytes` with 413, by its announced length or when the bytes have come; one that
    is too slow with 408."""

    def __init__(self, app: ASGIApp, limit_bytes: int, grace_seconds: float = 30.0) -> None:
        self.app = app
        self.limit_bytes = limit_bytes
        self.grace_seconds = grace_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif (scope["method"], scope["path"]) == UPLOADS:
            await self.app(scope, self._in_time(receive), send)
        elif _announced_bytes(scope) > self.limit_bytes:
            await answer_for(body_too_large(self.limit_bytes))(scope, receive, send)
        else:
            await self.app(scope, self._counted(self._in_time(receive)), send)

    def _in_time(self, receive: Receive) -> Receive:
        taken, waited, whole = 0, 0.0, False

        async def in_time() -> Message:
            nonlocal taken, waited, whole
            if whole:  # what is waited for now is the caller's leaving
                return await receive()
            began = time.monotonic()
            try:
                async with asyncio.timeout(self.grace_seconds + taken / LEAST_BYTES_PER_SECOND - waited):
                    message = await receive()
            except TimeoutError:
                raise body_too_slow() from None
            waited += time.monotonic() - began
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            return message

        return in_time

    def _counted(self, receive: Receive) -> Receive:
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.limit_bytes:
                raise body_too_large(self.limit_bytes)
            return message

        return counted


def body_too_slow() -> Refusal:
    """The connection is closed: the rest of the body is not waited for."""
    message = "The request body came too slowly."
    return Refusal(HTTPStatus.REQUEST_TIMEOUT, message, code="body_too_slow", headers={"Connection": "close"})


def _announced_bytes(scope: Scope) -> int:
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(values[0]) if values and values[0].isdigit() else 0
