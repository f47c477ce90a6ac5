"""The file of a backup: a ZIP with entries that stream, and a manifest that is written last.

Owns names and durability of entries; knows no table. A backup that was cut short has no manifest and not even its own
name: it is written beside it and renamed when it is durable.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from jobs.errors import PenstockError

FORMAT = 1
MANIFEST = "manifest.json"
READ_BYTES = 1024 * 1024


class BackupFailed(PenstockError):
    """The backup cannot be made, or the file is not one."""


@dataclass(slots=True)
class Manifest:
    """What the file holds. `revision` is that of the tables; `columns` are in the order of a row's values."""

    made_at: str
    revision: str
    database: str
    with_files: bool
    format: int = FORMAT
    columns: dict[str, list[str]] = field(default_factory=dict)
    num_rows: dict[str, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    """Objects of the vault that rows name, and their sizes in bytes; -1 where they are not in the file."""


class Writer:
    """Adds entries, one at a time."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    @contextmanager
    def entry(self, name: str) -> Iterator[IO[bytes]]:
        with self._archive.open(name, "w", force_zip64=True) as entry:
            yield entry

    def close(self, manifest: Manifest) -> None:
        self._archive.writestr(MANIFEST, json.dumps(asdict(manifest), indent=1))


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Write the file `path`, which must not be there yet. Only its owner may read it.

    Raises:
        BackupFailed: it is there already, or the disk refuses.
    """
    if path.exists():
        raise BackupFailed(f"{path} is there already: a backup never overwrites another.")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _private(part) as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                yield Writer(archive)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as error:
        raise BackupFailed(f"{path} cannot be written ({error.strerror or type(error).__name__}).") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b")


class Reader:
    """Reads entries. `manifest` says what is there."""

    def __init__(self, archive: zipfile.ZipFile, manifest: Manifest) -> None:
        self._archive = archive
        self.manifest = manifest

    def lines(self, name: str) -> Iterator[bytes]:
        with self._archive.open(name) as entry:
            yield from entry

    def pieces(self, name: str) -> Iterator[bytes]:
        with self._archive.open(name) as entry:
            while piece := entry.read(READ_BYTES):
                yield piece

    def verify(self) -> None:
        """Read all of it once, against the checksums. Raises BackupFailed for the first entry that is broken."""
        broken = self._archive.testzip()
        if broken is not None:
            raise BackupFailed(f"The backup is damaged: {broken} is not what was written.")


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """Open a backup. Raises BackupFailed when the file is none, or is damaged where it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield Reader(archive, _manifest(archive, path))
    except OSError as error:
        raise BackupFailed(f"{path} cannot be read ({error.strerror or type(error).__name__}).") from None
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise BackupFailed(f"{path} is no whole backup: it is damaged, cut short, or another file.") from None


def _manifest(archive: zipfile.ZipFile, path: Path) -> Manifest:
    try:
        found = json.loads(archive.read(MANIFEST))
        made_by_newer = int(found["format"]) > FORMAT
        manifest = None if made_by_newer else Manifest(**found)
    except (KeyError, TypeError, ValueError):
        raise BackupFailed(f"{path} is no backup of Penstock: it has no manifest that can be read.") from None
    if manifest is None:
        raise BackupFailed(f"{path} has format {found['format']}; this version reads up to {FORMAT}.")
    return manifest
