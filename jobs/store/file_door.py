"""The store's methods for files. Their bytes are in the vault (`jobs.files`); rows and segments are here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from jobs.records import Erasable, Filed, NewFile
from jobs.store import files
from jobs.store.door import Door
from jobs.store.idempotency import Call
from jobs.tables import File, FileSegment


class FileDoor(Door):
    """Files as their owners see them. `owner=None` means anybody's; another owner's files are NotFound."""

    def create_file(
        self,
        new: NewFile,
        *,
        owner: str = "",
        file_id: str | None = None,
        idempotency_key: str | None = None,
        body_sha256: str | None = None,
        silent_retry: bool = False,
    ) -> Filed:
        """Make a file of objects that are stored already. `file_id`: made before, because the objects bear it.

        Raises:
            InvalidRequest: a name that cannot be stored, or an expiry that no calendar has.
            IdempotencyConflict: the key was used with another body.
        """
        call = Call(idempotency_key, body_sha256, silent_retry)
        with self._writing() as scope:
            return files.create(scope, new, owner=owner, file_id=file_id, call=call)

    def get_file(self, file_id: str, owner: str | None = None) -> File:
        """A file. Raises NotFound, for a deleted one too."""
        with self._reading() as scope:
            return files.get(scope, file_id, owner)

    def list_files(
        self,
        owner: str | None = None,
        purpose: str | None = None,
        limit: int = 20,
        after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> tuple[list[File], bool]:
        """A page of files, and whether more follow. Raises NotFound for a cursor that names no file."""
        with self._reading() as scope:
            return files.page(scope, owner=owner, purpose=purpose, limit=limit, after=after, ascending=order == "asc")

    def segments(self, file_id: str) -> list[FileSegment]:
        """The objects that hold a file's bytes, in their order."""
        with self._reading() as scope:
            return files.segments(scope, file_id)

    def delete_file(self, file_id: str, owner: str | None = None) -> None:
        """Delete a file; its objects are erased later (`erasable_files`).

        Raises:
            NotFound: no such file of this owner.
            InvalidRequest: a batch takes its lines from it, or writes its results to it.
        """
        with self._writing() as scope:
            files.delete(scope, file_id, owner)

    def expired_files(self, limit: int = 100) -> Sequence[str]:
        """Ids of files whose time is over and which no batch needs: to be deleted."""
        with self._reading() as scope:
            return files.expired(scope, limit)

    def erasable_files(self, limit: int = 100) -> list[Erasable]:
        """Deleted files whose objects may still be stored. Call `file_erased` when they are gone."""
        with self._reading() as scope:
            return files.erasable(scope, limit)

    def file_erased(self, file_id: str) -> None:
        """Note that a deleted file's objects are gone."""
        with self._writing() as scope:
            files.erased(scope, file_id)

    def set_checked(
        self,
        file_id: str,
        *,
        checked_object: str,
        checked_model: str,
        num_lines: int,
        num_invalid: int,
        urls: Mapping[str, int],
        tokens: Mapping[str, int] | None = None,
    ) -> None:
        """Note what another check of an input has found.

        Raises:
            NotFound: no such file.
            InvalidRequest: a batch is just taking its lines in.
        """
        values = {
            "checked_object": checked_object,
            "checked_model": checked_model,
            "num_lines": num_lines,
            "num_invalid": num_invalid,
            "urls": dict(urls),
            "tokens": dict(tokens or {}),
        }
        with self._writing() as scope:
            files.set_checked(scope, file_id, values)

    def merge_segments(self, file_id: str, start: int, end: int, object_name: str) -> list[str]:
        """Let the stored object `object_name` stand for the segments that make up the file's bytes [start, end).

        Answers the names of the objects that are needed no more. None: these bytes are not two segments or more (any
        more), or the file was deleted; nothing was changed, the object is nobody's.
        """
        with self._writing() as scope:
            return files.merge_segments(scope, file_id, start, end, object_name)

    def unknown_objects(self, names: Collection[str]) -> list[str]:
        """Those of these objects that bear the id of a file which does not hold them. Names without one are left out:
        they may be anybody's."""
        with self._reading() as scope:
            return files.unknown_objects(scope, names)
