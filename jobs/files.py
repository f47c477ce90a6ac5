"""The vault: where the bytes of files are, on disk or in an object store, through fsspec.

Owns objects: named runs of bytes, written once as a whole and never changed after that. Knows no batch and no table:
which objects make up a file, and which may go, the rows say. Names, below `settings.files_url`:

    inputs/{file_id}.jsonl                              a file as it was uploaded
    checked/…                                           its checked lines (`jobs.checked`)
    outputs/{file_id}-{start_byte}-{nonce}.jsonl        a segment of a result file

An object is there whole or not at all: whoever is killed while writing leaves nothing that a reader could take for
it. What nobody's rows name is swept a day later (`Vault.stored_before`, `Vault.abandon_uploads`).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from jobs.errors import NotFound, PenstockError, StorageUnavailable
from jobs.settings import Settings

FOLDERS = ("inputs", "checked", "outputs")
READ_BYTES = 1024 * 1024
PART_BYTES = 8 * 1024 * 1024
"""Part of an upload to an object store: what a writer holds in memory. 10,000 parts, S3's limit, are 80 GB."""
_S3_OPTIONS: dict[str, Any] = {
    "default_block_size": PART_BYTES,
    "config_kwargs": {"connect_timeout": 5, "read_timeout": 60},
}


def input_name(file_id: str) -> str:
    return f"inputs/{file_id}.jsonl"


def checked_name(file_id: str) -> str:
    """A fresh name: the lines may be checked again, for another model, while somebody reads the old ones."""
    return f"checked/{file_id}-{uuid.uuid4().hex[:12]}.jsonl"


def output_name(file_id: str, start_byte: int) -> str:
    """A fresh name: of two writers at the same byte one wins, and the other's object must not replace it."""
    return f"outputs/{file_id}-{start_byte:020d}-{uuid.uuid4().hex[:12]}.jsonl"


class Sink(Protocol):
    """What a writer writes into: a file of this machine, or fsspec's upload."""

    def write(self, data: bytes, /) -> object: ...


class ObjectWriter:
    """Takes the bytes of one object. The object appears when the block it was opened for is left."""

    def __init__(self, name: str, sink: Sink, failures: tuple[type[Exception], ...]) -> None:
        self.name = name
        self.num_bytes = 0
        self._sink = sink
        self._failures = failures

    def write(self, data: bytes) -> None:
        with _mapped(None, self._failures):
            self._sink.write(data)
        self.num_bytes += len(data)


class Vault:
    """Objects by name. Sync; any thread may call.

    Raises:
        StorageUnavailable: the disk or the object store cannot serve now; the same call may be made again.
        NotFound: no such object.
    """

    def __init__(self, url: str) -> None:
        options = _S3_OPTIONS if url.startswith(("s3://", "s3a://")) else {}
        try:
            self._fs, root = url_to_fs(url, use_listings_cache=False, **options)
        except Exception as error:  # whatever a storage's own library finds wrong with its settings
            missing = isinstance(error, ImportError) and options
            reason = "the extra `s3` is not installed" if missing else f"{type(error).__name__}: {error}"
            raise PenstockError(f"PENSTOCK_FILES_URL: this storage cannot be used ({reason}).") from None
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        # Object stores fail in many ways of their own libraries; a disk only with OSError.
        self._failures: tuple[type[Exception], ...] = (OSError,) if self._local else (Exception,)

    @classmethod
    def open(cls, settings: Settings) -> Vault:
        """The vault of `settings.files_url`; without one, a folder in `settings.home`."""
        return cls(settings.files_url or str(settings.home.absolute() / "files"))

    @contextmanager
    def writer(self, name: str) -> Iterator[ObjectWriter]:
        """Write one object. It is durable once the block is left, and not there at all if the block raises."""
        opened = self._local_sink(name) if self._local else self._remote_sink(name)
        with opened as sink:
            yield ObjectWriter(name, sink, self._failures)

    @contextmanager
    def _local_sink(self, name: str) -> Iterator[Sink]:
        """Write beside the name, then rename: the folder's entry is made durable after the bytes are."""
        path = Path(self._path(name))
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
        with _mapped(None, self._failures):
            _make_folder(path.parent)
            file = part.open("wb")
        try:
            yield file
            with _mapped(None, self._failures):
                _make_durable(file)
                part.replace(path)
                _sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                file.close()
            part.unlink(missing_ok=True)
            raise

    @contextmanager
    def _remote_sink(self, name: str) -> Iterator[Sink]:
        """fsspec's upload, which its own `with` and its finalizer would complete after an error as well."""
        with _mapped(None, self._failures):
            file = self._fs.open(self._path(name), "wb")
        try:
            yield file
            with _mapped(None, self._failures):
                file.close()
        except BaseException:
            with suppress(*self._failures):
                file.discard()
            file.closed = True
            raise

    def read(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yield the bytes [start, end) piece by piece; without an end, to the object's."""
        path = self._path(name)
        with _mapped(name, self._failures):
            stop = int(self._fs.size(path)) if end is None else end
        while start < stop:
            with _mapped(name, self._failures):
                piece: bytes = self._fs.cat_file(path, start=start, end=min(stop, start + READ_BYTES))
            if not piece:
                return
            yield piece
            start += len(piece)

    def exists(self, name: str) -> bool:
        with _mapped(name, self._failures):
            return bool(self._fs.exists(self._path(name)))

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is as good as deleted."""
        with _mapped(name, self._failures), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def stored_before(self, instant: datetime) -> Iterator[str]:
        """Names of the objects last written before `instant`, and of what a killed writer left on a disk."""
        for folder in FOLDERS:
            with _mapped(folder, self._failures):
                found = self._listing(folder)
            for entry in found:
                if entry["type"] == "file" and _written_at(entry) < instant:
                    yield f"{folder}/{entry['name'].rsplit('/', 1)[-1]}"

    def _listing(self, folder: str) -> list[dict[str, Any]]:
        try:
            return list(self._fs.ls(self._path(folder), detail=True))
        except FileNotFoundError:
            return []

    def abandon_uploads(self, instant: datetime) -> int:
        """Give up uploads to S3 that began before `instant` and were never completed: they cost, and no listing
        shows them. Answers how many."""
        if not hasattr(self._fs, "list_multipart_uploads"):
            return 0
        bucket, _, prefix = self._root.partition("/")
        with _mapped(bucket, self._failures):
            left = [
                upload
                for upload in self._fs.list_multipart_uploads(bucket)
                if upload["Key"].startswith(f"{prefix}/" if prefix else FOLDERS) and upload["Initiated"] < instant
            ]
            for upload in left:
                named = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                self._fs.call_s3("abort_multipart_upload", **named)
        return len(left)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


@contextmanager
def _mapped(name: str | None, failures: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn a storage's errors into ours. Their text may hold addresses and keys: only their kind is told.

    `name` is the object that is read. To a writer (None) a bucket or folder that is missing is an outage.
    """
    try:
        yield
    except PenstockError:
        raise
    except failures as error:
        if name is not None and isinstance(error, FileNotFoundError):
            raise NotFound("object", name) from None
        raise StorageUnavailable(f"The storage of files cannot serve now ({type(error).__name__}).") from None


def _make_folder(folder: Path) -> None:
    """Make a folder, and durable that it is there."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)


def _make_durable(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _written_at(entry: dict[str, Any]) -> datetime:
    """When an object was written: `mtime` of a disk (Unix seconds), `LastModified` of S3, `created` elsewhere.

    A storage that tells none of them is taken to have written it just now: nothing there is swept.
    """
    told = entry.get("mtime") or entry.get("LastModified") or entry.get("last_modified") or entry.get("created")
    if isinstance(told, int | float):
        return datetime.fromtimestamp(told, UTC)
    if isinstance(told, datetime):
        return told if told.tzinfo else told.replace(tzinfo=UTC)
    return datetime.now(UTC)
