"""Files: their rows and segments. The bytes are in the vault, which nothing here knows.

Locks: a batch before its files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from jobs.errors import InvalidRequest, NotFound
from jobs.ids import new_file_id
from jobs.records import Erasable, Filed, NewFile
from jobs.store import idempotency
from jobs.store.idempotency import Call
from jobs.store.intake import check_text
from jobs.store.reading import rows
from jobs.store.scope import UNFINISHED, AnyRow, Scope
from jobs.tables import Batch, File, FileSegment

INPUT = "batch"
OUTPUT = "batch_output"
MAX_FILENAME = 255
_FILE_ID = re.compile(r"file-[0-9a-f]{32}")


def create(scope: Scope, new: NewFile, *, owner: str, file_id: str | None, call: Call) -> Filed:
    """Make a file whose bytes are stored already. See `Store.create_file`."""
    check_text("idempotency_key", call.key)
    check_text("filename", new.filename)
    if len(new.filename) > MAX_FILENAME:
        raise InvalidRequest(f"filename is longer than {MAX_FILENAME} characters", param="filename")
    file_id = file_id or new_file_id()
    made = idempotency.earlier(scope, idempotency.FILES, owner, call, [file_id])
    if made is not None:
        return Filed(made[0], replayed=True)
    scope.connection.execute(sa.insert(File), [_row(scope, new, file_id, owner)])
    start = 0
    segments = []
    for name, num_bytes in new.segments:
        segments.append({"file_id": file_id, "start_byte": start, "num_bytes": num_bytes, "object_name": name})
        start += num_bytes
    if segments:
        scope.connection.execute(sa.insert(FileSegment), segments)
    return Filed(file_id)


def _row(scope: Scope, new: NewFile, file_id: str, owner: str) -> dict[str, Any]:
    return {
        "id": file_id,
        "owner": owner,
        "purpose": new.purpose,
        "filename": new.filename,
        "num_bytes": new.num_bytes,
        "sha256": new.sha256,
        "created_at": scope.now,
        "expires_at": _after(scope, new.expires_at_seconds),
        "complete_at": scope.now,
        "num_lines": new.num_lines,
        "num_invalid": new.num_invalid,
        "urls": dict(new.urls),
        "tokens": dict(new.tokens),
        "checked_object": new.checked_object,
        "checked_model": new.checked_model,
    }


def _after(scope: Scope, seconds: float | None) -> Any:
    if seconds is None:
        return None
    try:
        return scope.now + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        raise InvalidRequest("expires_after.seconds is out of range", param="expires_after.seconds") from None


def get(scope: Scope, file_id: str, owner: str | None) -> File:
    """A file that was not deleted. Raises NotFound."""
    found = rows(scope, sa.select(File).where(File.id == file_id, File.deleted_at.is_(None)))
    if not found or owner not in {None, found[0].owner}:
        raise NotFound("file", file_id)
    return found[0]


def page(
    scope: Scope, *, owner: str | None, purpose: str | None, limit: int, after: str | None, ascending: bool
) -> tuple[list[File], bool]:
    """A page of files by id, which is the time of their making, and whether more follow."""
    query = sa.select(File).where(File.deleted_at.is_(None))
    if owner is not None:
        query = query.where(File.owner == owner)
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    if after is not None:
        cursor = get(scope, after, owner).id
        query = query.where(File.id > cursor if ascending else File.id < cursor)
    found = rows(scope, query.order_by(File.id.asc() if ascending else File.id.desc()).limit(limit + 1))
    return list(found[:limit]), len(found) > limit


def segments(scope: Scope, file_id: str) -> list[FileSegment]:
    query = sa.select(FileSegment).where(FileSegment.file_id == file_id)
    return list(rows(scope, query.order_by(FileSegment.start_byte)))


def delete(scope: Scope, file_id: str, owner: str | None) -> None:
    """Mark a file as deleted. See `Store.delete_file`."""
    batch_id = get(scope, file_id, owner).batch_id
    scope.lock_batches([batch_id])
    locked = scope.connection.execute(
        sa.select(File.purpose, File.deleted_at).where(File.id == file_id).with_for_update()
    ).one()
    if locked.deleted_at is not None:
        raise NotFound("file", file_id)
    user = _user(scope, file_id, batch_id)
    if user is not None:
        doing = "has not taken all its lines yet" if locked.purpose == INPUT else "still writes it"
        message = f"The file {file_id!r} cannot be deleted: the batch {user!r} {doing}."
        raise InvalidRequest(message, param="file_id", code="file_in_use")
    scope.connection.execute(sa.update(File).where(File.id == file_id).values(deleted_at=scope.now))


def _user(scope: Scope, file_id: str, batch_id: str | None) -> str | None:
    """The batch that still needs the file: it takes its lines from it, or writes its results to it."""
    query = sa.select(Batch.id).where(UNFINISHED)
    if batch_id is None:
        query = query.where(Batch.input_file_id == file_id, Batch.taken_at.is_(None))
    else:
        query = query.where(
            Batch.id == batch_id, sa.or_(Batch.output_file_id == file_id, Batch.error_file_id == file_id)
        )
    found: str | None = scope.connection.scalar(query.limit(1))
    return found


def expired(scope: Scope, limit: int) -> Sequence[str]:
    """Files whose time is over and which nobody needs any more."""
    taking = sa.exists().where(UNFINISHED, Batch.input_file_id == File.id, Batch.taken_at.is_(None))
    query = sa.select(File.id).where(
        sa.text("files.expires_at IS NOT NULL AND files.deleted_at IS NULL"),
        File.expires_at <= scope.now,
        File.complete_at.is_not(None),
        sa.not_(taking),
    )
    return scope.connection.scalars(query.order_by(File.expires_at).limit(limit)).all()


def erasable(scope: Scope, limit: int) -> list[Erasable]:
    """Deleted files whose objects are still stored."""
    query = (
        sa.select(File.id, File.checked_object)
        .where(File.deleted_at.is_not(None))
        .where(sa.or_(File.checked_object.is_not(None), sa.exists().where(FileSegment.file_id == File.id)))
    )
    found = scope.connection.execute(query.limit(limit)).all()
    return [_erasable(scope, row) for row in found]


def _erasable(scope: Scope, row: AnyRow) -> Erasable:
    names = [segment.object_name for segment in segments(scope, row.id)]
    return Erasable(row.id, [*names, *([row.checked_object] if row.checked_object else [])])


def erased(scope: Scope, file_id: str) -> None:
    """Forget the objects of a deleted file: they are gone."""
    update = sa.update(File).where(File.id == file_id, File.deleted_at.is_not(None)).values(checked_object=None)
    if scope.connection.execute(update.returning(File.id)).first() is not None:
        scope.connection.execute(sa.delete(FileSegment).where(FileSegment.file_id == file_id))


def set_checked(scope: Scope, file_id: str, values: dict[str, Any]) -> None:
    """Note what a new check of an input has found, and where its lines are. See `Store.set_checked`."""
    taking = sa.select(Batch.id).where(UNFINISHED, Batch.input_file_id == file_id, Batch.taken_at.is_(None))
    batch_id = scope.connection.scalar(taking.limit(1))
    if batch_id is not None:  # It remembers a byte of the lines as they are.
        message = f"The lines of {file_id} are being taken in by {batch_id}; they cannot be checked anew meanwhile."
        raise InvalidRequest(message, param="input_file_id", code="file_in_use")
    update = sa.update(File).where(File.id == file_id, File.deleted_at.is_(None)).values(values)
    if scope.connection.execute(update.returning(File.id)).first() is None:
        raise NotFound("file", file_id)


def merge_segments(scope: Scope, file_id: str, start: int, end: int, object_name: str) -> list[str]:
    """Let one object stand for the segments that make up the bytes [start, end). See `Store.merge_segments`."""
    alive = sa.select(File.id).where(File.id == file_id, File.deleted_at.is_(None))
    if scope.connection.execute(alive.with_for_update()).first() is None:
        return []
    old = [segment for segment in segments(scope, file_id) if start <= segment.start_byte < end]
    if len(old) < 2 or old[0].start_byte != start or old[-1].start_byte + old[-1].num_bytes != end:
        return []
    ours = (FileSegment.file_id == file_id, FileSegment.start_byte >= start, FileSegment.start_byte < end)
    scope.connection.execute(sa.delete(FileSegment).where(*ours))
    whole = {"file_id": file_id, "start_byte": start, "num_bytes": end - start, "object_name": object_name}
    scope.connection.execute(sa.insert(FileSegment), [whole])
    return [segment.object_name for segment in old]


def unknown_objects(scope: Scope, names: Collection[str]) -> list[str]:
    """Those of the named objects that bear the id of a file which does not hold them (any more)."""
    owners = {name: found.group() for name in names if (found := _FILE_ID.search(name)) is not None}
    ids = set(owners.values())
    held = set(scope.connection.scalars(sa.select(FileSegment.object_name).where(FileSegment.file_id.in_(ids))))
    held |= set(scope.connection.scalars(sa.select(File.checked_object).where(File.id.in_(ids))))
    return [name for name in names if name in owners and name not in held]
