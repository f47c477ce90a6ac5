"""Slow callers, with real sockets: headers that do not come, bodies that drip, replies that nobody takes."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import pytest

from api import connections
from jobs.states import JobState
from tests.api.stage import LiveServer, run_to_end
from tests.support.services import wait_until

SOON = 0.6
LONG = 60.0


@contextmanager
def connected(server: LiveServer, *, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    url = urlsplit(server.server.url)
    with closing(socket.socket()) as line:
        if receive_buffer is not None:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        line.settimeout(20)
        line.connect((url.hostname, url.port))
        yield line


def all_of(line: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    pieces = []
    while piece := line.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def send_fails(line: socket.socket, data: bytes) -> bool:
    try:
        line.sendall(data)
    except OSError:
        return True
    return False


@pytest.mark.parametrize("first", [b"", b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-A: b"])
def test_a_caller_whose_headers_do_not_come_is_hung_up_on(
    start_server: Callable[..., LiveServer], first: bytes
) -> None:
    server = start_server(header_seconds=SOON)
    with connected(server) as line:
        line.sendall(first)
        assert all_of(line).startswith(b"HTTP/1.1 408")
    wait_until(lambda: not server.server.server_state.connections)


def test_a_second_request_has_no_more_time_than_the_first(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(header_seconds=SOON)
    with connected(server) as line:
        line.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /health/live HT")
        replies = all_of(line)
    assert replies.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in replies


@pytest.mark.parametrize(
    ("rest", "status"), [(b"GET /health/live HT", b"408"), (b"GET / HTTP/1.1\r\nX-A: " + b"a" * 200_000, b"431")]
)
def test_a_reply_under_way_comes_whole_before_the_request_behind_it_is_refused(
    start_server: Callable[..., LiveServer], rest: bytes, status: bytes
) -> None:
    server = start_server(header_seconds=SOON)
    job_id = server.submit()
    with connected(server) as line:
        line.sendall(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        begun = line.recv(65536)
        line.sendall(rest)
        wait_until(lambda: any(one._refusal for one in server.server.server_state.connections))
        line.sendall(b"TP/1.1\r\nHost: x\r\n\r\n")  # too late
        run_to_end(server.store, job_id)
        server.writer.end(job_id, JobState.SUCCEEDED)
        replies = begun + all_of(line)
    assert replies.startswith(b"HTTP/1.1 200")
    assert b"event: end" in replies
    assert replies.count(b"HTTP/1.1") == 2
    assert replies[replies.rindex(b"HTTP/1.1 ") :].startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("announced", [True, False])
def test_a_refusal_reaches_a_caller_who_goes_on_sending(
    start_server: Callable[..., LiveServer], announced: bool
) -> None:
    server = start_server(max_body_bytes=2**20)
    length = f"Content-Length: {2**24}" if announced else "Transfer-Encoding: chunked"
    piece = b"x" * 2**16 if announced else b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
    with connected(server) as line:
        line.sendall(head.encode())
        for _ in range(2**24 // 2**16):
            line.sendall(piece)
        assert all_of(line).startswith(b"HTTP/1.1 413")
    wait_until(lambda: not server.server.server_state.connections)


def test_a_refused_caller_who_never_ends_is_hung_up_on(
    start_server: Callable[..., LiveServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_SECONDS", SOON)
    server = start_server(header_seconds=SOON)
    with connected(server) as line:
        line.sendall(b"GET / HT")
        assert all_of(line).startswith(b"HTTP/1.1 408")
        wait_until(lambda: send_fails(line, b"TP" * 1024))


def test_headers_without_end_are_refused(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(header_seconds=LONG)
    with connected(server) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + b"a" * 70_000)
        assert all_of(line).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/files"])
def test_a_body_that_stalls_is_given_up(start_server: Callable[..., LiveServer], path: str) -> None:
    server = start_server(body_grace_seconds=SOON)
    kind = "application/json" if path == "/v1/jobs" else "multipart/form-data; boundary=x"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: 900\r\n\r\n"
    with connected(server) as line:
        line.sendall(head.encode() + b"--x\r\n")
        reply = all_of(line)
    head_of_reply, _, body = reply.partition(b"\r\n\r\n")
    assert head_of_reply.startswith(b"HTTP/1.1 408")
    assert json.loads(body)["error"]["code"] == "body_too_slow"


def test_a_slow_caller_that_keeps_the_pace_is_served(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(body_grace_seconds=LONG, header_seconds=LONG)
    body = b'{"prompt": "x"}'
    head = (
        "POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with connected(server) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in head.encode() + body:
            line.sendall(struct.pack("B", byte))
        assert all_of(line).startswith(b"HTTP/1.1 202")


def test_a_reply_that_nobody_takes_is_cut_off(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(stalled_reader_seconds=SOON)
    with connected(server, receive_buffer=4096) as line:
        path = "/docs/assets/swagger-ui-bundle.js"
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        line.sendall(request * 8)
        wait_until(lambda: server.server.server_state.connections)
        wait_until(lambda: not server.server.server_state.connections)


def test_one_slow_caller_after_the_other_leaves_room_for_a_quick_one(start_server: Callable[..., LiveServer]) -> None:
    server = start_server(header_seconds=LONG)
    lines = [connected(server) for _ in range(100)]
    opened = [line.__enter__() for line in lines]
    for line in opened:
        line.sendall(b"GET / HT")
    assert server.client.get("/health/live").status_code == 200
    for each in lines:
        each.__exit__(None, None, None)
