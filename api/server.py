"""The HTTP server around the application: how it listens, how long it waits for a caller, and how it stops."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import structlog
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.connections import bounded_protocol
from api.services import Services
from jobs.settings import Settings

log = structlog.get_logger("penstock.api")

DRAIN_SECONDS = 10
"""Requests that are under way get so long to end; streams are told at once."""


class Server(uvicorn.Server):
    """uvicorn, with streams that are told when the server stops, and a clean exit status for it.

    `on_started` is called as soon as it listens."""

    def __init__(self, settings: Settings, on_started: Callable[[], None] = lambda: None) -> None:
        self.on_started = on_started
        self.app: FastAPI = create_app(settings)
        super().__init__(
            uvicorn.Config(
                self.app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=DRAIN_SECONDS,
                http=bounded_protocol(settings),
                ws="none",
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_started()
            log.info("listening", url=self.url)

    @property
    def url(self) -> str:
        """Where it listens; the real port, if port 0 was asked for."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("stopping; requests that are under way may end", drain_seconds=DRAIN_SECONDS)
        parts = getattr(self.app.state, "services", None)
        if isinstance(parts, Services):
            parts.closing.set()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the signal is not raised again at the end: a stop that was asked for is a success.

        The handler sets a flag and nothing more: one that logged would be in the middle of the line that it cut.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
