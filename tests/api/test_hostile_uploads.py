"""Uploads that mean harm: forms cut anywhere, lengths that lie, bytes that trickle, callers that hang up."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.checked import CheckedLine, read
from tests.api.batch_stage import chat_line, job_line, jsonl, upload
from tests.api.stage import Api, LiveServer
from tests.support.services import wait_until

BOUNDARY = "b0undary"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="f.jsonl"\r\n\r\n'.encode()
TAIL = f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{BOUNDARY}--\r\n'.encode()
LINES = jsonl([chat_line("a"), job_line("b")])


def form(data: bytes) -> bytes:
    return HEAD + data + TAIL


def lines_of(api: Api, data: bytes) -> list[CheckedLine]:
    """The lines of an upload that was taken."""
    reply = upload(api, data)
    assert reply.status_code == 200, reply.text
    name = api.store.get_file(reply.json()["id"]).checked_object
    assert name is not None
    return list(read(api.services.vault.read(name)))


def objects(home: Path) -> list[Path]:
    return [path for path in (home / "files").rglob("*") if path.is_file()]


def assert_nothing_left(api: Api | LiveServer, home: Path) -> None:
    assert api.store.list_files()[0] == []
    assert objects(home) == []


@settings(max_examples=60)
@given(cut=st.integers(0, len(form(LINES)) - 5), end=st.sampled_from([b"", b"\r\n", b"--", b"\x00"]))
def test_a_form_cut_anywhere_is_refused_and_leaves_nothing(api: Api, tmp_path: Path, cut: int, end: bytes) -> None:
    reply = api.client.post("/v1/files", content=form(LINES)[:cut] + end, headers=FORM)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["code"] in {"invalid_form", "missing_field", "empty_file"}
    assert_nothing_left(api, tmp_path)


@settings(max_examples=60)
@given(cuts=st.sets(st.integers(1, len(form(LINES)) - 1), max_size=12))
def test_a_form_is_the_same_wherever_its_pieces_end(api: Api, cuts: set[int]) -> None:
    whole, places = form(LINES), [0, *sorted(cuts), len(form(LINES))]
    pieces = (whole[start:end] for start, end in pairwise(places))
    reply = api.client.post("/v1/files", content=pieces, headers=FORM)
    assert reply.json()["lines"] == {"total": 2, "invalid": 0}, reply.text


@pytest.mark.parametrize(
    ("spoilt", "code"),
    [
        (b'{"custom_id": "x\xff"}', "invalid_utf8"),
        (b'{"custom_id": "x\xed\xa0\x80"}', "invalid_utf8"),
        (b'{"custom_id": "\\ud800", "method": "POST"}', "invalid_json"),
        (b'{"custom_id": "x\x00"}', "invalid_json"),
        (b"\x00", "invalid_json"),
        (b'{"a": NaN}', "invalid_json"),
        (b'{"a": Infinity}', "invalid_json"),
        (b'{"a": -Infinity}', "invalid_json"),
        (b'{"a": 1e999, "custom_id": "x"}', "invalid_json"),
        (b'{"custom_id": "x", "method": "POST", "url": "/v1/jobs", "body": {"prompt": "a"', "invalid_json"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"\xff\xfe{\x00}\x00", "invalid_utf8"),
    ],
)
@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_a_spoilt_line_spoils_no_other(api: Api, spoilt: bytes, code: str, ends: bytes) -> None:
    good = [json.dumps(line).encode() for line in (chat_line("a"), chat_line("b"))]
    first, second, third = lines_of(api, ends.join([good[0], spoilt, good[1]]))
    assert (first.error, third.error) == (None, None)
    assert second.error is not None
    assert (second.number, second.error["code"]) == (2, code)


def test_a_key_that_comes_twice_is_read_as_the_last_of_them(api: Api) -> None:
    line = b'{"custom_id": "a", "custom_id": "b", "method": "POST", "url": "/v1/jobs", "body": {"prompt": "1"}}'
    (found,) = lines_of(api, line)
    assert (found.custom_id, found.error) == ("b", None)


def test_carriage_returns_alone_end_no_line(api: Api) -> None:
    line = json.dumps(job_line("a")).encode()
    (found,) = lines_of(api, line + b"\r" + line)
    assert found.error is not None
    assert found.error["code"] == "invalid_json"


def test_only_the_first_byte_order_mark_is_white_space(api: Api) -> None:
    line = json.dumps(job_line("a")).encode()
    first, second = lines_of(api, b"\xef\xbb\xbf" + line + b"\n\xef\xbb\xbf" + line)
    assert first.error is None
    assert second.error is not None
    assert second.error["code"] == "invalid_json"


def test_a_last_line_that_was_cut_off_is_an_error_with_its_number(api: Api) -> None:
    data = jsonl([job_line("a"), job_line("b")])
    first, second = lines_of(api, data[:-9])
    assert first.error is None
    assert second.error is not None
    assert second.error["message"].startswith("line 2: ")


def test_a_line_of_many_megabytes_is_refused_without_being_kept(start_api: Callable[..., Api]) -> None:
    api = start_api(max_line_bytes=2048)
    data = b"x" * 20_000_000 + b"\n" + json.dumps(job_line("a")).encode()
    first, second = lines_of(api, data)
    assert first.error is not None
    assert (first.error["code"], second.error) == ("line_too_long", None)


@contextmanager
def connected(live: LiveServer, headers: dict[str, str]) -> Iterator[socket.socket]:
    """A connection on which an upload has begun."""
    address = urlsplit(live.server.url)
    head = "".join(f"{name}: {value}\r\n" for name, value in ({"Host": address.netloc} | FORM | headers).items())
    with socket.create_connection((str(address.hostname), address.port or 80), timeout=20) as connection:
        connection.sendall(f"POST /v1/files HTTP/1.1\r\n{head}\r\n".encode())
        yield connection


def status_of(connection: socket.socket) -> int:
    return int(connection.recv(64).split()[1])


def test_an_upload_in_single_bytes_is_an_upload(live: LiveServer) -> None:
    body = form(LINES)
    with connected(live, {"Content-Length": str(len(body))}) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(body)):
            connection.sendall(body[at : at + 1])
        assert status_of(connection) == 200


@pytest.mark.parametrize("cut", [len(HEAD) + 3, len(HEAD) + len(LINES), len(form(LINES)) - 3])
def test_a_caller_that_hangs_up_leaves_nothing_behind(live: LiveServer, tmp_path: Path, cut: int) -> None:
    body = HEAD + LINES * 10_000 + TAIL
    with connected(live, {"Content-Length": str(len(body) + 10)}) as connection:
        connection.sendall(body[: -len(TAIL)] + body[-len(TAIL) :][: cut % len(TAIL)])
        wait_until(lambda: objects(tmp_path))
    wait_until(lambda: not objects(tmp_path))
    assert_nothing_left(live, tmp_path)


def test_a_length_that_promises_more_than_comes_is_an_upload_that_was_broken_off(
    live: LiveServer, tmp_path: Path
) -> None:
    body = form(LINES)
    with connected(live, {"Content-Length": str(len(body) + 100)}) as connection:
        connection.sendall(body)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(64)
    assert_nothing_left(live, tmp_path)


def test_a_length_that_promises_less_than_comes_cuts_the_form(live: LiveServer, tmp_path: Path) -> None:
    body = form(LINES)
    with connected(live, {"Content-Length": str(len(body) - 10), "Connection": "close"}) as connection:
        connection.sendall(body)
        assert status_of(connection) == 400
    assert_nothing_left(live, tmp_path)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "-5"},
        {"Content-Length": "ten"},
        {"Content-Length": "1" * 40},
        {"Content-Length": "5", "content-length": "6"},
        {"Content-Length": "5", "Transfer-Encoding": "chunked"},
        {"Transfer-Encoding": "chunked"},
    ],
)
def test_lengths_that_make_no_sense_end_in_a_refusal_or_a_closed_connection(
    live: LiveServer, tmp_path: Path, headers: dict[str, str]
) -> None:
    with connected(live, headers | {"Connection": "close"}) as connection:
        with suppress(OSError):  # it may have hung up already
            connection.sendall(b"zz\r\n" + form(LINES))
            connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(64)
        assert not answer or answer.split()[1] in {b"400", b"413"}
    assert live.client.get("/health/live").status_code == 200
    assert_nothing_left(live, tmp_path)


def test_a_compressed_upload_is_refused_by_its_name(api: Api, tmp_path: Path) -> None:
    reply = api.client.post("/v1/files", content=b"\x1f\x8b\x08", headers=FORM | {"Content-Encoding": "gzip"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (415, "Content-Encoding")
    assert_nothing_left(api, tmp_path)


def test_schemas_of_lines_are_as_bounded_as_those_of_requests(api: Api) -> None:
    bomb: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "maxItems": 60_000}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": bomb}}
    first, second = lines_of(api, jsonl([chat_line("a", response_format=wanted), chat_line("b")]))
    assert first.error is not None
    assert (first.error["param"], second.error) == ("body.response_format.json_schema", None)
    assert "maxItems" in first.error["message"]
