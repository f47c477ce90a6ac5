"""Takes a backup back into an empty database and an empty vault, and has the audit look at the result.

In this order: the file is read whole against its checksums; the target must be empty; the objects; the tables as they
were, in one transaction; the migrations that came since. Whoever is killed before that transaction commits has an empty
database still, and may begin again. What was running when the backup was made is given back at the end, as a drain
does it: queued again, no attempt spent. Nothing else may run on the target meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from jobs.backup import rows
from jobs.backup.archive import BackupFailed, Manifest, Reader
from jobs.database import knows_revision, migrate, transaction
from jobs.files import Vault
from jobs.records import AttemptRef, Interrupted
from jobs.store import Store
from jobs.tables import Attempt, Job, Office

CHUNK = 500


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore has done. `problems` are the audit's; `num_missing` objects that a row names are not there."""

    num_rows: int
    num_objects: int
    num_requeued: int
    num_missing: int
    problems: list[str]


def restore(store: Store, vault: Vault, source: Reader) -> Restored:
    """Fill the empty database of `store`, and `vault`, from `source`.

    Raises:
        BackupFailed: the file is damaged or newer than this code, the target is not empty, or something runs on it.
        StoreUnavailable, StorageUnavailable: the database, or the storage of files, cannot serve now.
    """
    manifest = source.manifest
    if not knows_revision(manifest.revision):
        raise BackupFailed(f"The backup has tables of revision {manifest.revision}: restore it with a newer Penstock.")
    source.verify()
    _check_empty(store.engine)
    _check_vault(vault, manifest)
    num_objects = _put_objects(vault, source)
    url = store.engine.url.render_as_string(hide_password=False)
    migrate(url, "base")  # the tables have no rows: they may have another revision than the backup's
    migrate(url, manifest.revision)
    num_rows = _fill(store.engine, source)
    migrate(url)
    num_requeued = _give_back(store)
    _learn(store.engine)
    return Restored(num_rows, num_objects, num_requeued, _num_missing(vault, manifest), store.audit())


def _check_empty(engine: Engine) -> None:
    with transaction(engine, writes=False) as connection:
        found = rows.revision(connection)
        if found is not None and not knows_revision(found):
            raise BackupFailed(f"The database has tables of revision {found}: restore with a newer Penstock.")
        for table in rows.read_tables(connection):
            if connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first():
                raise BackupFailed(f"The database is not empty: {table.name} has rows. Restore into an empty one.")
        if sa.inspect(connection).has_table(Office.__tablename__) and _somebody_leads(connection):
            raise BackupFailed("Something runs on this database: stop every role before a restore.")


def _somebody_leads(connection: Connection) -> bool:
    return connection.scalar(sa.select(Office.role).where(Office.expires_at > datetime.now(UTC)).limit(1)) is not None


def _check_vault(vault: Vault, manifest: Manifest) -> None:
    """Objects of this backup may be there, from a restore that was cut short; nobody else's."""
    if not manifest.with_files:
        return
    for name in vault.stored_before(datetime.now(UTC) + timedelta(days=1)):
        if name not in manifest.objects:
            raise BackupFailed(f"The storage of files is not empty: it has {name}. Restore into an empty one.")


def _put_objects(vault: Vault, source: Reader) -> int:
    if not source.manifest.with_files:
        return 0
    for name in source.manifest.objects:
        with vault.writer(name) as out:
            for piece in source.pieces(f"files/{name}"):
                out.write(piece)
    return len(source.manifest.objects)


def _fill(engine: Engine, source: Reader) -> int:
    """Insert every row in one transaction, and count them against the manifest before it commits."""
    manifest = source.manifest
    with transaction(engine, writes=True) as connection:
        tables = {table.name: table for table in rows.read_tables(connection)}
        told = {name: set(columns) for name, columns in manifest.columns.items()}
        if told != {name: set(table.columns.keys()) for name, table in tables.items()}:
            raise BackupFailed("The backup's tables are not those of its revision.")
        for name, table in tables.items():
            found = rows.load(connection, table, manifest.columns[name], source.lines(f"tables/{name}.jsonl"))
            if found != manifest.num_rows[name]:
                raise BackupFailed(f"The backup is not whole: {found} of {manifest.num_rows[name]} rows of {name}.")
    return sum(manifest.num_rows.values())


def _give_back(store: Store) -> int:
    """Queue again what ran, and forget the messages: they went to a Redis that may not be this one."""
    num_requeued = 0
    for refs in _running(store.engine):
        store.finish_many([(ref, Interrupted()) for ref in refs])
        num_requeued += len(refs)
    store.unpublish_all()
    return num_requeued


def _running(engine: Engine) -> Iterator[Sequence[AttemptRef]]:
    query = sa.select(Job.id, Job.attempt).join(Attempt, (Attempt.job_id == Job.id) & (Attempt.number == Job.attempt))
    while True:
        with transaction(engine, writes=False) as connection:
            found = connection.execute(query.where(Attempt.outcome.is_(None)).order_by(Job.id).limit(CHUNK)).all()
        if not found:
            return
        yield [AttemptRef(row.id, row.attempt) for row in found]


def _learn(engine: Engine) -> None:
    """PostgreSQL plans by statistics that its own housekeeping would gather only later."""
    if engine.dialect.name == "postgresql":
        with transaction(engine, writes=True) as connection:
            connection.execute(sa.text("ANALYZE"))


def _num_missing(vault: Vault, manifest: Manifest) -> int:
    """Of a backup without files: how many objects the storage lacks."""
    return 0 if manifest.with_files else sum(not vault.exists(name) for name in manifest.objects)
