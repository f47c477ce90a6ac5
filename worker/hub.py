"""Files of the model hub, through huggingface_hub: found in its cache, or downloaded into it.

huggingface_hub resumes a download that is cut, but throws the part away when its process ends. A model is gigabytes:
here the part is kept beside the blobs, under the blob's name, and the next process goes on where it ended. The
finished blob is put where huggingface_hub looks for it, which then makes the rest of its cache entry.

`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE` and `HF_TOKEN` mean what they mean there. Knows no names of ours.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from worker.progress import Meter

logger = logging.getLogger("penstock.hub")

NUM_TRIES = 5
"""Tries without a new byte before a download is given up."""


class HubError(Exception):
    """A file of the hub cannot be had. `code` as in `worker.sources.ModelUnavailable`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class HubFile:
    """`revision`: a branch, tag or commit; None is the default branch."""

    repo: str
    file: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}/{self.file}" + (f" at revision {self.revision}" if self.revision else "")


def cached(wanted: HubFile) -> Path | None:
    """The file as the cache has it, without asking anybody; None if it has not."""
    try:
        found = hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return Path(found)


def commit_of(path: Path) -> str | None:
    """The commit that a cached file belongs to: the cache keeps files under `snapshots/COMMIT/`."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None


def fetch(wanted: HubFile) -> Path:
    """The local path of the newest file of that revision; the cached one when the hub is out of reach.

    Raises HubError: `no_network`, `repository_not_found`, `revision_not_found`, `file_not_found`, `access_denied`,
    `disk_full`, `download_failed`.
    """
    held = cached(wanted)
    if held and wanted.revision and re.fullmatch(r"[0-9a-f]{40}", wanted.revision):
        return held
    try:
        metadata = get_hf_file_metadata(hf_hub_url(wanted.repo, wanted.file, revision=wanted.revision))
    except Exception as error:
        reason = _explain(error, wanted)
        if held and reason.code in ("no_network", "access_denied"):
            logger.info("The model hub cannot be asked; using the cached copy of %s.", wanted)
            return held
        raise reason from error
    if held and commit_of(held) == metadata.commit_hash:
        return held
    try:
        return _download(wanted, metadata)
    except HubError:
        raise
    except Exception as error:
        raise _explain(error, wanted) from error


def _download(wanted: HubFile, metadata: Any) -> Path:
    if not metadata.commit_hash or not metadata.etag:
        raise HubError("download_failed", "The server at HF_ENDPOINT does not speak the model hub's protocol.")
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=wanted.repo, repo_type="model") / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    blob, part = folder / metadata.etag, folder / f"{metadata.etag}.part"
    with _locked(folder / f"{metadata.etag}.part.lock"):
        if not blob.exists():
            _transfer(wanted, metadata, part)
            _verify(part, metadata.etag, wanted)
            part.replace(blob)
    return Path(hf_hub_download(wanted.repo, wanted.file, revision=wanted.revision))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time appends to a part; the others wait and then find the blob."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _transfer(wanted: HubFile, metadata: Any, part: Path) -> None:
    """Append to `part` until it has the whole size; a cut connection is taken up again from the last byte."""
    headers, url, size = build_hf_headers(), metadata.location, metadata.size
    if not url.startswith(constants.ENDPOINT):
        headers.pop("authorization", None)  # a signed address of another host: the token is none of its business
    tries = NUM_TRIES
    with Meter(f"Downloading {wanted.file}", size) as meter, part.open("ab") as file:
        _check_room(size, file, part)
        while (before := _size(file)) < (size or 1):
            try:
                _append(url, headers, file, meter)
            except Exception as error:
                tries = NUM_TRIES if _size(file) > before else tries - 1
                if not _is_transport(error) or tries <= 0:
                    raise
                logger.warning("The download was cut at %d MiB; going on from there.", _size(file) // 2**20)
                time.sleep(min(2.0, 0.1 * 2 ** (NUM_TRIES - tries)))


def _append(url: str, headers: dict[str, str], file: BinaryIO, meter: Meter) -> None:
    """Ask for what is missing, and write it piece by piece, so that a cut loses nothing that came."""
    start = _size(file)
    ranged = {**headers, "Range": f"bytes={start}-"} if start else headers
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=ranged, timeout=timeout, follow_redirects=True) as response:
        if response.is_error:
            response.read()
        hf_raise_for_status(response)
        if start and response.status_code != 206:  # the server sends all of it again
            file.truncate(0)
        meter.reach(_size(file))
        for piece in response.iter_bytes():
            file.write(piece)
            meter.advance(len(piece))


def _size(file: BinaryIO) -> int:
    file.flush()
    return file.seek(0, os.SEEK_END)


def _check_room(size: int | None, file: BinaryIO, part: Path) -> None:
    missing = (size or 0) - _size(file)
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        message = f"The download needs {missing // 2**20} MiB more on disk, and {free // 2**20} MiB are free there."
        raise HubError("disk_full", message)


def _verify(part: Path, etag: str, wanted: HubFile) -> None:
    """The etag of a large file is its SHA-256: a part that was damaged must not become the model."""
    if not re.fullmatch(r"[0-9a-f]{64}", etag):
        return
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != etag:
        part.unlink()
        raise HubError("download_failed", f"What came for {wanted} is damaged (its checksum differs); pull it again.")


def _is_transport(error: Exception) -> bool:
    """Broken connections of whichever httpx huggingface_hub uses, by name: it has changed between versions."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return "TransportError" in names and not isinstance(error, HfHubHTTPError)


def _explain(error: Exception, wanted: HubFile) -> HubError:
    """One line for a person, from whatever huggingface_hub raised. The first rule that fits."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    offline = _is_transport(error) or isinstance(error, ConnectionError) or (status or 0) >= 500
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    # To somebody without a token, a private repository and one that is not there look the same.
    denied = "is gated or private" + (" or does not exist" if isinstance(error, RepositoryNotFoundError) else "")
    rules = (
        (
            isinstance(error, GatedRepoError) or status in (401, 403),
            "access_denied",
            f"{wanted.repo} {denied}: accept its terms on the hub, and set HF_TOKEN.",
        ),
        (
            isinstance(error, RevisionNotFoundError),
            "revision_not_found",
            f"{wanted.repo} has no revision {wanted.revision!r}.",
        ),
        (
            isinstance(error, RepositoryNotFoundError | HFValidationError),
            "repository_not_found",
            f"The model hub has no repository {wanted.repo!r}.",
        ),
        (isinstance(error, EntryNotFoundError), "file_not_found", f"{wanted.repo} has no file {wanted.file!r}."),
        (full, "disk_full", "The disk became full during the download; what came so far is kept."),
        (offline, "no_network", "The model hub is out of reach"),
        (True, "download_failed", f"{wanted} could not be downloaded ({type(error).__name__})."),
    )
    return next(HubError(code, message) for fits, code, message in rules if fits)
