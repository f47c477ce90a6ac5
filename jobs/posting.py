"""One POST to a place that a caller named: to the address that was judged, within a deadline, following nothing.

The name is looked up and judged at the moment of connecting, and the socket goes to the addresses that were judged;
`Host`, SNI and the certificate's name stay those of the URL. Each POST has a connection of its own, so none is ever
shared by two names. No proxy, no cookie, no redirect; of the reply only status and headers are read.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import httpcore
import httpx

from jobs.targets import Resolver, TargetRefused, allowed_addresses, parse
from jobs.webhooks import Tried, parse_retry_after

Monotonic = Callable[[], float]


class Postman:
    """Posts. Any thread may call."""

    def __init__(
        self,
        *,
        allow_private: bool,
        resolve: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        self._allow_private = allow_private
        self._resolve = resolve
        self._ssl_context = ssl_context or httpx.create_ssl_context()
        self._monotonic = monotonic

    def post(self, url: str, headers: Mapping[str, str], body: bytes, *, until: float) -> Tried:
        """Post `body`, and be done by the instant `until` (monotonic), whatever the target does."""
        began = self._monotonic()
        status: int | None = None
        retry_after: float | None = None
        try:
            status, retry_after = self._exchange(url, headers, body, until)
            error = _fault_of(status)
        except Exception as raised:
            error = _class_of(raised)
        return Tried(status, error, round(self._monotonic() - began, 3), retry_after)

    def _exchange(self, url: str, headers: Mapping[str, str], body: bytes, until: float) -> tuple[int, float | None]:
        parsed = parse(url)
        place = httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)
        network = _JudgedNetwork(self._addresses, _Countdown(until, self._monotonic))
        lines = [("Host", parsed.netloc.decode("ascii")), *headers.items()]
        with (
            httpcore.ConnectionPool(ssl_context=self._ssl_context, network_backend=network) as pool,
            pool.stream("POST", place, headers=lines, content=body) as reply,
        ):
            return reply.status, _retry_after(reply)

    def _addresses(self, host: str, port: int) -> Iterable[str]:
        return allowed_addresses(host, port, allow_private=self._allow_private, resolve=self._resolve)


def _retry_after(reply: httpcore.Response) -> float | None:
    values = [value for name, value in reply.headers if name.lower() == b"retry-after"]
    return parse_retry_after(values[0].decode("latin-1").strip(), datetime.now(UTC)) if values else None


def _fault_of(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    return "redirect" if 300 <= status < 400 else "http_status"


def _class_of(error: Exception) -> str:
    """Name what went wrong, for the history: no text of a library, which may quote the URL."""
    if isinstance(error, TargetRefused):
        return error.code
    if isinstance(error, httpcore.TimeoutException):
        return "timeout"
    if isinstance(error, httpcore.NetworkError):
        return "tls_failed" if isinstance(error, _TlsFailed) else "connection_failed"
    if isinstance(error, httpcore.ProtocolError):
        return "invalid_reply"
    return type(error).__name__


class _TlsFailed(httpcore.ConnectError):
    """Connected, but there was no handshake, or not with whom the URL names."""


class _Countdown:
    """What is left of the time: no step of an exchange may wait for longer."""

    def __init__(self, until: float, monotonic: Monotonic) -> None:
        self._until = until
        self._monotonic = monotonic

    def left(self) -> float:
        """Seconds. Raises httpcore.TimeoutException once there are none."""
        left = self._until - self._monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left


class _JudgedNetwork(httpcore.NetworkBackend):
    """Connects to judged addresses only, in their order, the next one where one cannot be reached."""

    def __init__(self, addresses: Callable[[str, int], Iterable[str]], countdown: _Countdown) -> None:
        self._addresses = addresses
        self._countdown = countdown
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 -- the countdown decides
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError()
        addresses = list(self._addresses(host, port))
        for place, address in enumerate(addresses):
            # A share of the time for each: one that swallows what is sent to it must not cost the next its turn.
            share = self._countdown.left() / (len(addresses) - place)
            try:
                stream = self._plain.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _BoundedStream(stream, self._countdown)
        raise failure


class _BoundedStream(httpcore.NetworkStream):
    """A connection whose every step is bounded by the countdown: a target that answers a byte now and then is
    cut off in time like one that says nothing."""

    def __init__(self, stream: httpcore.NetworkStream, countdown: _Countdown) -> None:
        self._stream = stream
        self._countdown = countdown

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._stream.read(max_bytes, self._countdown.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._stream.write(buffer, self._countdown.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        try:
            secured = self._stream.start_tls(ssl_context, server_hostname, self._countdown.left())
        except httpcore.ConnectError:
            raise _TlsFailed from None
        return _BoundedStream(secured, self._countdown)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
