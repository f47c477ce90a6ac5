"""One upload: a form's bytes go in as they arrive, and two objects of the vault come out, or nothing.

The objects appear together once all is well; whatever raises before that leaves neither. Rows are the caller's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from http import HTTPStatus

from api.errors import Refusal
from api.intake.checked_lines import CheckedLines
from api.intake.form import FILE, Form, unsupported
from api.models import ServedModel
from api.wire import MAX_EXPIRY_SECONDS
from jobs.errors import InvalidRequest
from jobs.files import Vault, checked_name, input_name
from jobs.ids import new_file_id
from jobs.records import NewFile
from jobs.settings import Settings

PURPOSE = "batch"
_GZIP = b"\x1f\x8b"


def file_too_large(limit_bytes: int) -> Refusal:
    """The connection is closed: the rest of the file is not read."""
    return Refusal(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"file: it is larger than the limit of {limit_bytes} bytes.",
        code="file_too_large",
        param=FILE,
        headers={"Connection": "close"},
    )


class _Discarded(Exception):
    """Ends the writers of an upload that failed."""


class Upload:
    """Takes one upload. Blocks: to be called from threads, by one at a time. `file_id` names what it will make."""

    def __init__(self, boundary: str, *, vault: Vault, model: ServedModel, settings: Settings) -> None:
        self.file_id = new_file_id()
        self._names = (input_name(self.file_id), checked_name(self.file_id))
        self._vault = vault
        self._model = model
        self._settings = settings
        self._form = Form(boundary, self._take)
        self._writers = ExitStack()
        self._sha256 = hashlib.sha256()
        self._num_bytes = 0
        self._opened: tuple[Callable[[bytes], object], CheckedLines] | None = None

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body. Raises InvalidRequest, Refusal, StorageUnavailable."""
        self._form.feed(chunk)

    def finish(self) -> NewFile:
        """The body is over: check the rest, and make both objects durable. Raises as `feed` does."""
        self._form.finish()
        expires_at_seconds = _checked_fields(self._form.fields)
        if self._opened is None:
            raise InvalidRequest("file: it is empty.", param=FILE, code="empty_file")
        tally = self._opened[1].finish()
        self._writers.close()
        return NewFile(
            purpose=PURPOSE,
            filename=self._form.filename or "",
            num_bytes=self._num_bytes,
            segments=[(self._names[0], self._num_bytes)],
            sha256=self._sha256.hexdigest(),
            num_lines=tally.num_lines,
            num_invalid=tally.num_invalid,
            urls=dict(tally.urls),
            tokens=dict(tally.tokens),
            checked_object=self._names[1],
            checked_model=self._model.fingerprint,
            expires_at_seconds=expires_at_seconds,
        )

    def discard(self) -> None:
        """Leave nothing behind, whatever was written. Not after a call whose outcome nobody knows."""
        with suppress(_Discarded), self._writers:
            raise _Discarded
        for name in self._names:
            self._vault.delete(name)

    def _take(self, data: bytes) -> None:
        write, lines = self._opened or self._open(data)
        self._num_bytes += len(data)
        if self._num_bytes > self._settings.max_file_bytes:
            raise file_too_large(self._settings.max_file_bytes)
        self._sha256.update(data)
        write(data)
        lines.feed(data)

    def _open(self, first: bytes) -> tuple[Callable[[bytes], object], CheckedLines]:
        """With the file's first bytes: an upload that is refused before them makes no object at all."""
        if first.startswith(_GZIP):
            raise unsupported("file: it is compressed; send JSON lines as they are.", FILE)
        original, checked = (self._writers.enter_context(self._vault.writer(name)) for name in self._names)
        lines = CheckedLines(checked.write, self._model, self._settings)
        self._opened = original.write, lines
        return self._opened


def _checked_fields(fields: Mapping[str, str]) -> float | None:
    """Check the form's fields; the seconds after which the file expires, if it does."""
    purpose = fields.get("purpose")
    if purpose is None:
        raise InvalidRequest("purpose: it is missing; send 'batch'.", param="purpose", code="missing_field")
    if purpose != PURPOSE:
        raise InvalidRequest("purpose: only 'batch' is taken here.", param="purpose")
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest("expires_after.anchor: must be 'created_at'.", param="expires_after.anchor")
    if seconds is None or not seconds.isascii() or not seconds.isdigit() or not _is_expiry(seconds):
        message = f"expires_after.seconds: must be a whole number from 1 to {MAX_EXPIRY_SECONDS}."
        raise InvalidRequest(message, param="expires_after.seconds")
    return float(seconds)


def _is_expiry(seconds: str) -> bool:
    return len(seconds) < 12 and 1 <= int(seconds) <= MAX_EXPIRY_SECONDS


def upload_fingerprint(new: NewFile) -> str:
    """What makes two uploads the same: the file, its name and its fields, not the form they came in."""
    said = f"{new.sha256}\n{new.num_bytes}\n{new.expires_at_seconds}\n{new.purpose}\n{new.filename}"
    return hashlib.sha256(said.encode()).hexdigest()
