"""One connection: how long its caller may take over a request's headers, how large these may be, and how long it may
leave a reply untaken.

uvicorn waits for headers for as long as the connection stands, and of any size, so that a few thousand callers who
send a byte a minute (slow loris) hold all it has. Bodies have their bound in `api.limits`. Knows no route.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from jobs.settings import Settings

MAX_HEADER_BYTES = 64 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a clock beside it. `header_seconds` and `stalled_reader_seconds` are the subclass's."""

    header_seconds: float
    stalled_reader_seconds: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers_due: asyncio.TimerHandle | None = None
        self._reply_due: asyncio.TimerHandle | None = None
        self._header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._headers_due is not None:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._headers_due is not None and self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_headers()

    def on_headers_complete(self) -> None:
        self._headers_came()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The caller takes nothing, and the buffer towards it is full."""
        super().pause_writing()
        if self._reply_due is None:
            self._reply_due = self.loop.call_later(self.stalled_reader_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        if self._reply_due is not None:
            self._reply_due.cancel()
            self._reply_due = None
        super().resume_writing()

    def _expect_headers(self) -> None:
        if self._headers_due is None:
            self._header_bytes = 0
            self._headers_due = self.loop.call_later(self.header_seconds, self._refuse, b"408 Request Timeout")

    def _headers_came(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _refuse(self, status: bytes) -> None:
        """Say why and hang up; not in the middle of a reply to an earlier request of the connection."""
        self._headers_came()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()


def bounded_protocol(settings: Settings) -> type[BoundedProtocol]:
    """The protocol with the bounds of these settings; uvicorn makes an object of it for each connection."""
    bounds = {"header_seconds": settings.header_seconds, "stalled_reader_seconds": settings.stalled_reader_seconds}
    return type("Protocol", (BoundedProtocol,), bounds)
