"""One connection: how long its caller may take over a request's headers, how large these may be, how long it may
leave a reply untaken, and how it is hung up on.

uvicorn waits for headers for as long as the connection stands, and of any size, so that a few thousand callers who
send a byte a minute (slow loris) hold all it has. Bodies have their bound in `api.limits`. And it hangs up at once
after a refusal: what the caller still sends is then answered by a reset (RFC 9112, 9.6), which takes the refusal from
it before it was read. Knows no route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from jobs.settings import Settings

MAX_HEADER_BYTES = 64 * 1024
LINGER_SECONDS = 5.0


class LingeringTransport:
    """A transport whose `close` leaves the closing to the protocol; the rest is the transport's own."""

    def __init__(self, line: asyncio.Transport, hang_up: Callable[[], None]) -> None:
        self._line = line
        self.close = hang_up
        self.lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._line, name)

    def is_closing(self) -> bool:
        return self.lingers or self._line.is_closing()


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a clock beside it. `header_seconds` and `stalled_reader_seconds` are the subclass's."""

    header_seconds: float
    stalled_reader_seconds: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._headers_due: asyncio.TimerHandle | None = None
        self._reply_due: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._refusal: bytes | None = None
        self._more_of_message = False
        self._goodbye: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._line = transport
        self._lingering = LingeringTransport(transport, self._hang_up)
        super().connection_made(self._lingering)  # type: ignore[arg-type]
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_came()
        self.resume_writing()
        if self._goodbye is not None:
            self._goodbye.cancel()
        self._lingering.close = self._line.close  # the protocol is held no longer
        super().connection_lost(exc)
        self._line.close()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None or self._lingering.lingers:
            return  # more of a request that is refused
        if self._headers_due is not None:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._headers_due is not None and self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._more_of_message = True
        self._expect_headers()

    def on_headers_complete(self) -> None:
        self._headers_came()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._more_of_message = False

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._refusal is not None:
            self._refuse(self._refusal)

    def send_400_response(self, msg: str) -> None:
        self._more_of_message = True  # where it ends is not known
        super().send_400_response(msg)

    def shutdown(self) -> None:
        """The server stops: a reply under way comes whole, and nobody else is waited for."""
        if self.cycle is None or self.cycle.response_complete:
            self._line.close()
        super().shutdown()

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
        """Say why and hang up, once the requests before it on the same connection have their replies."""
        self._headers_came()
        if self._lingering.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()
        else:
            self._refusal = status

    def _hang_up(self) -> None:
        """Close, or end our half first and swallow what is still sent, until the caller closes too or is late."""
        if self._lingering.is_closing():
            return
        more_comes = self._more_of_message or self.flow.read_paused or bool(self.pipeline)
        if not (more_comes and self._line.can_write_eof()):
            self._line.close()
            return
        self._lingering.lingers = True
        self._headers_came()
        self._goodbye = self.loop.call_later(LINGER_SECONDS, self._line.close)
        self._line.write_eof()
        self.flow.resume_reading()


def bounded_protocol(settings: Settings) -> type[BoundedProtocol]:
    """The protocol with the bounds of these settings; uvicorn makes an object of it for each connection."""
    bounds = {"header_seconds": settings.header_seconds, "stalled_reader_seconds": settings.stalled_reader_seconds}
    return type("Protocol", (BoundedProtocol,), bounds)
