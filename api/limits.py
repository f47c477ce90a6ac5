"""The bound on a request's body, kept while it arrives: nothing beyond it is ever held in memory.

One route is left out: uploads are never held, and have a bound of their own (`api.intake.upload`).
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import answer_for, body_too_large

UPLOADS = ("POST", "/v1/files")


class BodyLimit:
    """ASGI: refuses a body over `limit_bytes` with 413, by its announced length or when the bytes have come."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self.app = app
        self.limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) == UPLOADS:
            await self.app(scope, receive, send)
        elif _announced_bytes(scope) > self.limit_bytes:
            await answer_for(body_too_large(self.limit_bytes))(scope, receive, send)
        else:
            await self.app(scope, self._counted(receive), send)

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


def _announced_bytes(scope: Scope) -> int:
    values = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(values[0]) if values and values[0].isdigit() else 0
