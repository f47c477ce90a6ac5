"""Bytes of files to the API and back, over connections that break: an upload starts again under the same key, a
download goes on at the byte where it stopped. Neither holds more than a piece in memory. Knows no screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from uuid import uuid4

import httpx

from cli.client import (
    MAX_TRIES_WHEN_KNOWN,
    PATIENCE_STATUSES,
    Client,
    Json,
    backoff_seconds,
    raise_for_error,
    reason_of,
)
from cli.errors import ApiUnreachable

PIECE_BYTES = 128 * 1024
TRANSFER_SECONDS = 600.0
"""So long the API may take for one piece, or to answer after the last."""


def upload(client: Client, filename: str, read: Callable[[], Iterable[bytes]], *, purpose: str = "batch") -> Json:
    """Make a file of what `read()` yields, and return the file object. `read` is called again for each try.

    The key is the same for every try: one that arrived, though its answer was lost, is answered with the same file.
    """
    boundary = uuid4().hex
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Idempotency-Key": uuid4().hex}
    timeout = httpx.Timeout(TRANSFER_SECONDS, connect=5.0)

    def once() -> httpx.Response:
        body = _multipart(boundary, filename, purpose, read())
        return client.http.post("/v1/files", content=body, headers=headers, timeout=timeout)

    return client.parsed(client.persist(once))


def _multipart(boundary: str, filename: str, purpose: str, content: Iterable[bytes]) -> Iterator[bytes]:
    """The form as it goes over the wire. `purpose` first: the API can judge the content while it arrives."""
    quoted = filename.replace("\\", "\\\\").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
    disposition = f"--{boundary}\r\nContent-Disposition: form-data; name="
    yield f'{disposition}"purpose"\r\n\r\n{purpose}\r\n'.encode()
    yield f'{disposition}"file"; filename="{quoted}"\r\nContent-Type: application/jsonl\r\n\r\n'.encode()
    yield from _pieces(content)
    yield f"\r\n--{boundary}--\r\n".encode()


def _pieces(content: Iterable[bytes]) -> Iterator[bytes]:
    """Lines put together: a packet for each would be slow."""
    held, size = list[bytes](), 0
    for line in content:
        held.append(line)
        size += len(line)
        if size >= PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def download(client: Client, file_id: str) -> Iterator[bytes]:
    """A file's content as it is now, in pieces. A file that still grows is read as far as it went at the last try."""
    num_received, failures = 0, 0
    while True:
        try:
            for piece in _from_byte(client, file_id, num_received):
                num_received += len(piece)
                failures = 0
                yield piece
        except httpx.TransportError as error:
            failures += 1
            if failures == MAX_TRIES_WHEN_KNOWN:
                raise ApiUnreachable(client.url, reason_of(error)) from error
            client.pause(backoff_seconds(failures))
        else:
            return


def _from_byte(client: Client, file_id: str, start: int) -> Iterator[bytes]:
    wanted = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with client.http.stream("GET", f"/v1/files/{file_id}/content", headers=wanted) as reply:
        if reply.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return  # nothing came after what we have
        if reply.status_code in PATIENCE_STATUSES:
            raise httpx.RemoteProtocolError(f"the API answered {reply.status_code}")
        if not reply.is_success:
            reply.read()
            raise_for_error(reply)
        surplus = 0 if reply.status_code == httpx.codes.PARTIAL_CONTENT else start
        for piece in reply.iter_bytes():
            fresh, surplus = piece[surplus:], max(surplus - len(piece), 0)
            if fresh:
                yield fresh


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines, each with its end, out of pieces that were cut anywhere."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line + b"\n" for line in whole)
    if rest:
        yield rest + b"\n"
