"""A `multipart/form-data` body as it arrives: short fields, and one file that is passed on piece by piece.

Knows no line and no vault. Fields may come in any order, before the file or after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from api.errors import Refusal
from jobs.errors import InvalidRequest

MAX_FIELD_BYTES = 1024
MAX_PARTS = 16
FILE = "file"
FIELDS = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})


def boundary_of(headers: Mapping[str, str]) -> str:
    """The boundary that a request's headers announce. Raises Refusal for another kind of body."""
    if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise unsupported("Content-Encoding: send the body as it is, not compressed.", "Content-Encoding")
    kind, options = parse_options_header(headers.get("content-type", ""))
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise unsupported("Send a form: 'Content-Type: multipart/form-data', with its boundary.", "Content-Type")
    return str(options["boundary"])


def unsupported(message: str, param: str) -> Refusal:
    return Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, message, code="unsupported_media_type", param=param)


class Form:
    """Reads one form. `take` gets the file's bytes; `fields` holds the others once they have come."""

    def __init__(self, boundary: str, take: Callable[[bytes], None]) -> None:
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        """None: no file has come yet."""
        self._take = take
        self._part: MultipartSegment | None = None
        self._field = b""
        try:
            self._parser = PushMultipartParser(boundary, max_segment_count=MAX_PARTS)
        except MultipartError as error:
            raise _not_a_form(error) from None

    def feed(self, chunk: bytes) -> None:
        """Read on. Raises InvalidRequest, and what `take` raises."""
        for event in self._events(chunk):
            if isinstance(event, MultipartSegment):
                self._begin(event)
            elif event is None:
                self._end()
            elif self._in_file:
                self._take(bytes(event))
            else:
                self._add_to_field(bytes(event))

    def finish(self) -> None:
        """The body is over. Raises InvalidRequest unless the form is whole."""
        try:
            self._parser.close()
        except MultipartError as error:
            raise _not_a_form(error) from None
        if self.filename is None:
            raise InvalidRequest("file: it is missing.", param=FILE, code="missing_field")

    def _events(self, chunk: bytes) -> Iterable[MultipartSegment | bytes | bytearray | None]:
        events = iter(self._parser.parse(chunk))
        while True:
            try:
                event = next(events)
            except StopIteration:
                return
            except MultipartError as error:
                raise _not_a_form(error) from None
            yield event

    @property
    def _in_file(self) -> bool:
        return self._part is not None and self._part.name == FILE

    def _begin(self, part: MultipartSegment) -> None:
        self._part, self._field = part, b""
        if not self._in_file:
            if part.name not in FIELDS:
                name = (part.name or "")[:64]
                raise InvalidRequest(f"{name}: there is no such field.", param=name or None, code="unknown_field")
            return
        if self.filename is not None:
            raise InvalidRequest("file: one file is taken in a request.", param=FILE)
        self.filename = _plain_name(part.filename)

    def _add_to_field(self, data: bytes) -> None:
        self._field += data
        if len(self._field) > MAX_FIELD_BYTES:
            name = self._part.name if self._part else None
            raise InvalidRequest(f"{name}: it is longer than {MAX_FIELD_BYTES} bytes.", param=name)

    def _end(self) -> None:
        part = self._part
        self._part = None
        if part is None or part.name in {None, FILE}:
            return
        try:
            self.fields[str(part.name)] = self._field.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{part.name}: it is not valid UTF-8.", param=part.name, code="invalid_utf8") from None


def _plain_name(filename: str | None) -> str:
    """A name that can be stored and shown: no folders, no control characters, at most 255 characters."""
    name = (filename or "").replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(character for character in name if character.isprintable() and not "\ud800" <= character <= "\udfff")
    return kept[:255] or "upload.jsonl"


def _not_a_form(error: MultipartError) -> InvalidRequest:
    """`error` tells of the form alone: none of its messages repeats a byte of the body."""
    return InvalidRequest(f"The form cannot be read: {type(error).__name__}; is it whole?", code="invalid_form")
