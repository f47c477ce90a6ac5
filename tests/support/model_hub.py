"""A small server that speaks the model hub's protocol: HEAD and GET of files, redirects, ranges, errors, cut lines.

As the real one, it answers a file's address with the metadata in headers and sends the bytes from another address.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`files`: by (repository, path). `cut_after`: bytes after which the next GETs are cut, one entry each."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut_after: list[int] = field(default_factory=list)
    damaged: bool = False
    claimed_size: int | None = None
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path, Range header."""
    url: str = ""

    def transfers(self) -> list[str | None]:
        """The Range header of each request for bytes."""
        return [ranged for method, path, ranged in self.requests if method == "GET" and path.startswith("/blobs/")]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = hub  # type: ignore[attr-defined]
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        return cast(Hub, cast(Any, self.server).hub)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def _answer(self) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.path.startswith("/blobs/"):
            self._send_bytes(self.path.removeprefix("/blobs/"))
        else:
            self._describe()

    def _describe(self) -> None:
        """`/{owner}/{repo}/resolve/{revision}/{file}`"""
        owner, repo, _, revision, file = self.path.lstrip("/").split("/", 4)
        name = f"{owner}/{repo}"
        data = self.hub.files.get((name, file))
        if name in self.hub.gated:
            self._refuse(401, "GatedRepo")
        elif not any(known == name for known, _ in self.hub.files):
            self._refuse(404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif data is None:
            self._refuse(404, "EntryNotFound")
        else:
            self._redirect(data)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _redirect(self, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        self.send_response(302)
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")  # the real hub redirects to another host
        self.send_header("Location", f"{elsewhere}/blobs/{digest}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Etag", f'"{digest}"')
        self.send_header("X-Linked-Size", str(self.hub.claimed_size or len(data)))
        self.send_header("ETag", '"pointer"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_bytes(self, digest: str) -> None:
        data = next(each for each in self.hub.files.values() if hashlib.sha256(each).hexdigest() == digest)
        if self.hub.damaged:
            data = data[:-1] + b"?"
        start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0]) if "Range" in self.headers else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = start + self.hub.cut_after.pop(0) if self.hub.cut_after else len(data)
        self.wfile.write(data[start:stop])
        if stop < len(data):
            self.close_connection = True
