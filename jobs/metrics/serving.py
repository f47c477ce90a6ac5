"""`/metrics` of a process that serves nothing else: a small HTTP server in a thread, on loopback unless told.

On any other address it asks for the key of whoever scrapes, and does not open without one.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

from jobs.binding import is_loopback
from jobs.errors import PenstockError
from jobs.settings import Settings

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger("penstock.metrics")


class UnsafeMetrics(PenstockError):
    """Metrics would be open to the network with no key asked for."""

    code = "unsafe_metrics"


def bears(authorization: str, token: str) -> bool:
    """Whether an `Authorization` header brings this bearer token. Takes the same time whichever it is."""
    scheme, _, given = authorization.partition(" ")
    same = hmac.compare_digest(hashlib.sha256(given.strip().encode()).digest(), hashlib.sha256(token.encode()).digest())
    return same and scheme.lower() == "bearer"


def serve_metrics(settings: Settings, registry: CollectorRegistry) -> Callable[[], None]:
    """Serve what the registry knows where the settings say; nowhere unless they do. Returns what ends it.

    A port that is taken is logged, and work goes on: it must not stop for being looked at.

    Raises:
        UnsafeMetrics: an address beyond loopback, and no key.
    """
    if settings.metrics_port is None:
        return lambda: None
    host, token = settings.metrics_host, settings.metrics_key
    if not token and not is_loopback(host):
        raise UnsafeMetrics(
            f"PENSTOCK_METRICS_HOST is {host}, which other machines can reach, and there is no key: set "
            "PENSTOCK_METRICS_KEY or PENSTOCK_METRICS_KEY_FILE, or leave it at 127.0.0.1."
        )
    try:
        server = make_server(host, settings.metrics_port, _guarded(registry, token), _server_class(host), _Quiet)
    except OSError as error:
        log.error(
            "metrics_not_served", host=host, port=settings.metrics_port, reason=error.strerror, next="work goes on"
        )
        return lambda: None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    log.info("metrics_served", host=host, port=server.server_port)
    return server.shutdown


def _guarded(registry: CollectorRegistry, token: str) -> WSGIApplication:
    metrics: Any = make_wsgi_app(registry)

    def answer(environment: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environment.get("PATH_INFO") != "/metrics":
            start_response("404 Not Found", [("Content-Length", "0")])
            return []
        if token and not bears(environment.get("HTTP_AUTHORIZATION", ""), token):
            start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Length", "0")])
            return []
        body: Iterable[bytes] = metrics(environment, start_response)
        return body

    return answer


class _Quiet(WSGIRequestHandler):
    timeout = 10

    def log_message(self, *_: object) -> None:
        """A scrape is no event."""


def _server_class(host: str) -> type[WSGIServer]:
    import socket

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    return Server
