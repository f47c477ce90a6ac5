"""What the API measures of itself, and the trace of each request.

The outermost of the middleware: what it measures is what a caller sees. Requests are told apart by the pattern of
their path, never by the path, which holds ids. `/health` and `/metrics` are not traced: nobody asked for them.
"""

from __future__ import annotations

import time

from prometheus_client import Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs import tracing
from jobs.metrics.registry import new_registry, watch_store
from jobs.store import Store

REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
UNTRACED = ("/health/", "/metrics")


class Meter:
    """The metrics of one application."""

    def __init__(self) -> None:
        self.registry = new_registry("api")
        self.readers = Gauge("penstock_sse_readers", "Streams that are being followed", registry=self.registry)
        self.requests = Counter(
            "penstock_http_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "penstock_http_request_seconds",
            "Time to the first byte of an answer",
            ["method", "route"],
            buckets=REQUEST_SECONDS,
            registry=self.registry,
        )

    def watch(self, store: Store) -> None:
        """Expose how the queues stand, too."""
        watch_store(self.registry, store, standing=True)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)


class Metering:
    """ASGI: measures and traces every request."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self.app = app
        self._meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["path"].startswith(UNTRACED):
            await self._measured(scope, receive, send)
        else:
            parent = Headers(scope=scope).get(tracing.TRACEPARENT)
            with tracing.span(scope["method"], kind="server", parent=parent):
                await self._measured(scope, receive, send)

    async def _measured(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answered(scope, message["status"], time.monotonic() - began)
            await send(message)

        await self.app(scope, receive, noted)

    def _answered(self, scope: Scope, status: int, seconds: float) -> None:
        method, route = _known(scope["method"]), _route(scope)
        self._meter.answered(method, route, status, seconds)
        tracing.rename(f"{method} {route}")
        told: dict[str, tracing.Value] = {"http.request.method": method, "http.route": route}
        tracing.note(**told, **{"http.response.status_code": status})
        if status >= 500:
            tracing.failed(str(status))


def _known(method: str) -> str:
    """A caller may make methods up, and each would be a series of its own."""
    return method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "other"


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "none"))
