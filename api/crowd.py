"""The bounds on what all requests together may hold: how many wait for an answer, and the bytes of their bodies.

A crowd beyond them is told to come back (503 with `Retry-After`) before its bodies are in memory: so the API stays
small whatever comes, and who was let in is served. Health checks always are. Readers of streams are not counted once
their stream has begun, and live completions, which wait for a model, have a door of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import RETRY_AFTER_SECONDS, Refusal, answer_for
from api.limits import UPLOADS

LIVE = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses"})
_ALWAYS = "/health/"
_EVENT_STREAM = b"text/event-stream"


class Crowd:
    """ASGI: counts requests and the bytes of their bodies; refuses what is one too many."""

    def __init__(self, app: ASGIApp, max_requests: int, max_body_bytes: int) -> None:
        self.app = app
        self.max_requests = max_requests
        self.max_body_bytes = max_body_bytes
        self._num_requests = {True: 0, False: 0}
        """By whether they are live."""
        self._num_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_ALWAYS):
            await self.app(scope, receive, send)
            return
        live = scope["path"] in LIVE
        if self._num_requests[live] >= self.max_requests:
            await answer_for(_overloaded())(scope, receive, send)
            return
        await self._admitted(live, scope, receive, send)

    async def _admitted(self, live: bool, scope: Scope, receive: Receive, send: Send) -> None:
        waits = True
        held = 0
        passing = (scope["method"], scope["path"]) == UPLOADS  # a file passes through, and is never held

        def leave() -> None:
            nonlocal waits
            self._num_requests[live] -= waits
            waits = False

        async def counted() -> Message:
            nonlocal held
            message = await receive()
            num_bytes = 0 if passing else len(message.get("body", b""))
            held += num_bytes
            self._num_bytes += num_bytes
            if self._num_bytes > self.max_body_bytes:
                raise _overloaded()
            return message

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_stream(message.get("headers", ())):
                leave()
            await send(message)

        self._num_requests[live] += 1
        try:
            await self.app(scope, counted, watched)
        finally:
            leave()
            self._num_bytes -= held


def _is_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(_EVENT_STREAM) for name, value in headers)


def _overloaded() -> Refusal:
    """The connection is closed: a body that is still to come is not read."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS), "Connection": "close"}
    message = "Too many requests are being answered just now; send this one again in a moment."
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, message, code="overloaded", headers=headers)
