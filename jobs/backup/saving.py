"""Makes a backup while the system runs: all tables as of one instant, then the objects that those rows name.

SQLite: a read transaction over the write-ahead log; PostgreSQL: one REPEATABLE READ transaction. Nobody waits for it.
The objects are copied after that. They never change, and none that the snapshot names is deleted meanwhile: the
backup holds an office (`BACKUP_OFFICE`), and retention deletes nothing while somebody does.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from jobs.backup import rows
from jobs.backup.archive import BackupFailed, Manifest, Writer, writing
from jobs.database import transaction
from jobs.errors import NotFound, StoreUnavailable
from jobs.files import Vault
from jobs.store import Store
from jobs.store.registry import BACKUP_OFFICE

Names = dict[str, str]
"""Object → the file that it belongs to."""


def save(store: Store, vault: Vault | None, path: Path) -> Manifest:
    """Write a backup to `path`; without a vault, only say which objects it names.

    Raises:
        BackupFailed: another backup runs, the file is there already, or an object is missing.
        StoreUnavailable, StorageUnavailable: the database, or the storage of files, cannot serve now.
    """
    with writing(path) as out, _office(store):
        manifest, names = _save_tables(store, out, with_files=vault is not None)
        for name, file_id in names.items():
            manifest.objects[name] = -1 if vault is None else _save_object(vault, out, name, file_id)
        out.close(manifest)
    return manifest


def _save_tables(store: Store, out: Writer, *, with_files: bool) -> tuple[Manifest, Names]:
    with _snapshot(store) as connection:
        found = rows.revision(connection)
        if found is None:
            raise BackupFailed("The database has no tables: there is nothing to back up.")
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = Manifest(made_at, found, connection.dialect.name, with_files)
        tables = rows.read_tables(connection)
        for table in tables:
            manifest.columns[table.name] = [column.name for column in table.columns]
            manifest.num_rows[table.name] = 0
            with out.entry(f"tables/{table.name}.jsonl") as entry:
                for line in rows.dump(connection, table):
                    entry.write(line)
                    manifest.num_rows[table.name] += 1
        return manifest, named_objects(connection, tables)


@contextmanager
def _snapshot(store: Store) -> Iterator[Connection]:
    """One transaction that sees one instant. It may rest while the disk is slow: nobody waits for its locks."""
    engine = store.engine
    if engine.dialect.name == "sqlite":
        with transaction(engine, writes=False) as connection:
            yield connection
        return
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with transaction(engine.execution_options(**options), writes=False) as connection:
        connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield connection


def named_objects(connection: Connection, tables: list[sa.Table]) -> Names:
    """The objects of files that are not deleted. Those that a result file still grows by come first."""
    by_name = {table.name: table for table in tables}
    if "files" not in by_name:  # before revision 0002
        return {}
    file, segment = by_name["files"], by_name["file_segments"]
    alive = file.c.deleted_at.is_(None)
    growing_first = file.c.complete_at.is_not(None)
    segments = (
        sa.select(segment.c.object_name, file.c.id)
        .join(file, file.c.id == segment.c.file_id)
        .where(alive)
        .order_by(growing_first, file.c.id, segment.c.start_byte)
    )
    checked = sa.select(file.c.checked_object, file.c.id).where(alive, file.c.checked_object.is_not(None))
    return {name: file_id for query in (segments, checked) for name, file_id in connection.execute(query)}


def _save_object(vault: Vault, out: Writer, name: str, file_id: str) -> int:
    num_bytes = 0
    try:
        with out.entry(f"files/{name}") as entry:
            for piece in vault.read(name):
                entry.write(piece)
                num_bytes += len(piece)
    except NotFound:
        raise BackupFailed(f"An object of {file_id} is not in the storage of files: {name}.") from None
    return num_bytes


@contextmanager
def _office(store: Store) -> Iterator[None]:
    """Hold the backup's office, and keep it from a thread."""
    holder = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    if not store.hold_office(BACKUP_OFFICE, holder):
        raise BackupFailed("Another backup is running.")
    done = threading.Event()
    keeper = threading.Thread(target=_keep, args=(store, holder, done), name="backup-office", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        done.set()
        keeper.join()
        store.resign_office(BACKUP_OFFICE, holder)


def _keep(store: Store, holder: str, done: threading.Event) -> None:
    while not done.wait(store.settings.leader_seconds / 3):
        try:
            store.hold_office(BACKUP_OFFICE, holder)
        except StoreUnavailable:  # the snapshot fails by itself; an object that goes meanwhile is missed
            continue
