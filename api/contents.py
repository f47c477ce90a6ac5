"""The bytes of a file as HTTP: whole, or a range (RFC 9110), also while the file still grows.

A byte that has once been served at a place never changes. So a tag names the file and how long it was, and a download
that broke off may go on (`If-Range`) although the file has grown since. Knows rows and the vault; checks no owner.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain
from urllib.parse import quote

from fastapi import Response
from fastapi.responses import StreamingResponse

from api.errors import Refusal
from jobs.errors import NotFound
from jobs.files import Vault
from jobs.tables import File, FileSegment

MEDIA_TYPE = "application/jsonl"
_RANGE = re.compile(r"bytes=(?P<start>[0-9]{0,18})-(?P<end>[0-9]{0,18})")
_TAG = re.compile(r'"(?P<id>[^"]+)-(?P<num_bytes>[0-9]{1,18})"')


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes [start, end) of a file."""

    start: int
    end: int


def asked_span(headers: Mapping[str, str], file: File) -> Span | None:
    """The range that a request wants; None: all of it, also where the form of the range is none that is served.

    Raises Refusal (416) for one that lies beyond the end.
    """
    match = _RANGE.fullmatch(headers.get("range", "").replace(" ", ""))
    if match is None or not (match["start"] or match["end"]) or not _continues(headers.get("if-range"), file):
        return None
    total = file.num_bytes
    if not match["start"]:
        span = Span(max(0, total - int(match["end"])), total)
    else:
        span = Span(int(match["start"]), min(total, int(match["end"]) + 1) if match["end"] else total)
        if match["end"] and int(match["end"]) < int(match["start"]):
            return None
    if span.start >= span.end:
        raise Refusal(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"Range: the file has {total} bytes so far."
            if file.complete_at is None
            else f"Range: it has {total} bytes.",
            code="range_not_satisfiable",
            param="Range",
            headers={"Content-Range": f"bytes */{total}"} | _about(file),
        )
    return span


def content_response(
    headers: Mapping[str, str], file: File, segments: Callable[[], Sequence[FileSegment]], vault: Vault
) -> Response:
    """The answer to `GET …/content`. The first bytes are read before it is given: what fails then is an error.

    Raises Refusal (416), NotFound, StorageUnavailable.
    """
    about = _about(file)
    if headers.get("if-none-match") == about["ETag"]:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=about)
    span = asked_span(headers, file)
    told = span or Span(0, file.num_bytes)
    about["Content-Length"] = str(told.end - told.start)
    about["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}"
    if span is not None:
        about["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{file.num_bytes}"
    pieces = read_span(told, segments, vault)
    first = next(pieces, b"")
    status = HTTPStatus.OK if span is None else HTTPStatus.PARTIAL_CONTENT
    return StreamingResponse(chain([first], pieces), status_code=status, headers=about, media_type=MEDIA_TYPE)


def read_span(span: Span, segments: Callable[[], Sequence[FileSegment]], vault: Vault) -> Iterator[bytes]:
    """The bytes of the span. Segments that are compacted meanwhile are looked up again."""
    at = span.start
    while at < span.end:
        begun_at = at
        try:
            for piece in _pieces(Span(at, span.end), segments(), vault):
                at += len(piece)
                yield piece
        except NotFound:
            if at == begun_at and not _moved(begun_at, segments, vault):
                raise
        else:
            if at == begun_at:
                raise NotFound("stored bytes from", str(at))


def _pieces(span: Span, segments: Sequence[FileSegment], vault: Vault) -> Iterator[bytes]:
    for segment in segments:
        first = max(span.start, segment.start_byte)
        last = min(span.end, segment.start_byte + segment.num_bytes)
        if first < last:
            yield from vault.read(segment.object_name, first - segment.start_byte, last - segment.start_byte)


def _moved(at: int, segments: Callable[[], Sequence[FileSegment]], vault: Vault) -> bool:
    """Whether the byte can be read after all: its object was replaced between two looks."""
    holding = [segment for segment in segments() if segment.start_byte <= at < segment.start_byte + segment.num_bytes]
    return any(vault.exists(segment.object_name) for segment in holding)


def _about(file: File) -> dict[str, str]:
    about = {"ETag": f'"{file.id}-{file.num_bytes}"', "Accept-Ranges": "bytes"}
    if file.complete_at is None:
        about["X-Incomplete"] = "true"
    return about


def _continues(condition: str | None, file: File) -> bool:
    """`If-Range`: what the caller has is the beginning of what there is now."""
    if condition is None:
        return True
    match = _TAG.fullmatch(condition)
    return match is not None and match["id"] == file.id and int(match["num_bytes"]) <= file.num_bytes
