"""Opening the database: the engine, its transactions, its migrations, and which of its errors are outages.

Owns what differs between SQLite and PostgreSQL at the level of a connection. Knows no job and no statement about
one. `python -m jobs.database migrate` brings a database to the newest tables.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from jobs.errors import PenstockError, StoreRefused, StoreUnavailable
from jobs.settings import Settings

POOL_SIZE = 16
BUSY_SECONDS = 15.0
"""How long a statement waits for another writer before it counts as an outage."""
IDLE_TRANSACTION_SECONDS = 15
"""PostgreSQL ends a transaction that sleeps for so long: a stopped process must not keep its row locks."""
MIGRATIONS = Path(__file__).resolve().parent.parent / "ops" / "migrations"
_MIGRATION_LOCK = 0x50454E53  # "PENS": the advisory lock that migrations of one PostgreSQL database queue for.

_SQLITE_OUTAGES = (
    "SQLITE_BUSY",
    "SQLITE_CANTOPEN",
    "SQLITE_FULL",
    "SQLITE_IOERR",
    "SQLITE_LOCKED",
    "SQLITE_NOMEM",
    "SQLITE_PROTOCOL",
    "SQLITE_READONLY",
)
# SQLSTATE classes and codes: connection, resources (disk full, too many clients), operator (shutdown), system,
# deadlock and serialization, lock timeout, read-only standby, idle transaction ended, tables not there yet.
_POSTGRES_OUTAGES = ("08", "53", "57", "58", "40001", "40P01", "55P03", "25006", "25P03", "42P01")


def open_engine(url: str, *, pool_size: int = POOL_SIZE) -> Engine:
    """Open a pool of connections to `url`, which keeps so many open (of a PostgreSQL). Nothing connects yet, so the
    database may come up later.

    No parameter is ever shown in an error or a log (`hide_parameters`): prompts are parameters.
    """
    parsed = _with_driver(make_url(url))
    if parsed.get_backend_name() == "sqlite":
        return _open_sqlite(parsed)
    if parsed.get_backend_name() == "postgresql":
        return _open_postgres(parsed, pool_size)
    raise PenstockError(f"PENSTOCK_DATABASE_URL: {parsed.get_backend_name()!r} is neither sqlite nor postgresql.")


def _with_driver(url: URL) -> URL:
    return url.set(drivername="postgresql+psycopg") if url.drivername in {"postgres", "postgresql"} else url


def _open_sqlite(url: URL) -> Engine:
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url, hide_parameters=True, pool_size=POOL_SIZE, max_overflow=48, connect_args={"timeout": BUSY_SECONDS}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # The driver opens no transaction of its own: `_begin_sqlite` does.
    _enter_wal(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL. SQLite's busy timeout does not cover the switch, and two processes may race to it."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] in {"wal", "memory"}:
                return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    """Open the transaction that `reading` or `writing` asked for.

    A writer takes the write lock at once (IMMEDIATE): a reader that turns writer later could only fail. FULL makes
    a commit durable before it is acknowledged; NORMAL spares the fsync where losing the commit with the power is
    harmless (a claim or a renewal: whoever held the lease lost the power too, since SQLite has one machine).
    """
    options = connection.get_execution_options()
    wanted = "FULL" if options.get("durable", True) else "NORMAL"
    held = connection.info.setdefault("synchronous", "FULL")
    if options.get("writes", True) and wanted != held:
        connection.connection.execute(f"PRAGMA synchronous = {wanted}")
        connection.info["synchronous"] = wanted
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes", True) else "BEGIN")


def _open_postgres(url: URL, pool_size: int) -> Engine:
    # A host that is cut off, rather than down, answers nothing: every wait has a bound.
    bounds = {
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=pool_size,
        max_overflow=48,
        pool_timeout=BUSY_SECONDS,
        connect_args={name: value for name, value in bounds.items() if name not in url.query},
    )
    event.listen(engine, "connect", _prepare_postgres)
    return engine


def _prepare_postgres(connection: Any, _: ConnectionPoolEntry) -> None:
    connection.autocommit = True
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_TRANSACTION_SECONDS}s'")
    connection.execute(f"SET lock_timeout = '{BUSY_SECONDS}s'")
    connection.autocommit = False


@contextmanager
def transaction(engine: Engine, *, writes: bool, durable: bool = True) -> Iterator[Connection]:
    """Run the block in one transaction; commit at its end, roll back when it raises.

    Raises:
        StoreUnavailable: the database cannot be reached, is locked for long, or is full. The same call may be made
            again: nothing was changed, unless the connection broke during the commit itself.
        StoreRefused: a constraint of the tables refused a statement.
    """
    with outages_mapped(), engine.execution_options(writes=writes, durable=durable).begin() as connection:
        yield connection


@contextmanager
def outages_mapped() -> Iterator[None]:
    """Turn the driver's errors into ours, without their text: it may hold rows."""
    try:
        yield
    except PoolTimeout:
        raise StoreUnavailable("Every connection to the database is taken.") from None
    except IntegrityError as error:
        raise StoreRefused(_rule(error)) from None
    except DBAPIError as error:
        reason = _outage(error)
        if reason is None:
            raise StoreRefused(_rule(error)) from None
        raise StoreUnavailable(f"The database cannot serve now ({reason}).") from None
    except SQLAlchemyError as error:
        raise StoreRefused(type(error).__name__) from None


def _outage(error: DBAPIError) -> str | None:
    """Name the outage that an error of the driver means; None for any other error."""
    original = error.orig
    if isinstance(original, sqlite3.Error):
        name = getattr(original, "sqlite_errorname", "") or type(original).__name__
        missing = "no such table" in str(original)
        return "no tables yet" if missing else name if name.startswith(_SQLITE_OUTAGES) else None
    state = getattr(original, "sqlstate", None)
    if state is None:
        # By kind, not by name: a host that is cut off gives psycopg's `ConnectionTimeout`, which is one of them.
        gone = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
        return "cannot connect" if gone else None
    return f"SQLSTATE {state}" if state.startswith(_POSTGRES_OUTAGES) else None


def _rule(error: DBAPIError) -> str:
    """Name the constraint that refused, without the row."""
    diagnosis = getattr(error.orig, "diag", None)
    named = getattr(diagnosis, "constraint_name", None)
    if named:
        return str(named)
    text = str(error.orig)
    return text if text.startswith(("CHECK", "UNIQUE", "FOREIGN KEY", "NOT NULL")) else type(error.orig).__name__


def migrate(url: str, revision: str = "head") -> None:
    """Bring the tables of `url` to `revision`, up or down the chain. Several processes may do it at once.

    One transaction does it all under a lock that the others wait for (PostgreSQL: an advisory lock; SQLite: the
    write lock), so they find the work done.

    Raises:
        StoreUnavailable: the database cannot be reached.
    """
    engine = open_engine(url)
    try:
        with transaction(engine, writes=True) as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            _run_migrations(connection, revision)
    finally:
        engine.dispose()


def migration_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without an ini file: the scripts lie beside this package, installed or not."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def knows_revision(revision: str) -> bool:
    """Whether this code has the migration of that name."""
    return any(
        script.revision == revision for script in ScriptDirectory.from_config(migration_config()).walk_revisions()
    )


def _run_migrations(connection: Connection, revision: str) -> None:
    config = migration_config(connection)
    if revision == "base" or revision.startswith("-"):
        command.downgrade(config, revision)
    elif revision == "head" and _is_ahead(connection):
        return
    else:
        command.upgrade(config, revision)


def _is_ahead(connection: Connection) -> bool:
    """Whether newer code has migrated already: an upgrade under way, or one that was rolled back. Migrations only
    add, so this code works with those tables, and there is nothing to do (`ops/decisions/0038`)."""
    heads = MigrationContext.configure(connection).get_current_heads()
    return any(not knows_revision(head) for head in heads)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m jobs.database migrate [--url URL]`."""
    parser = argparse.ArgumentParser(prog="python -m jobs.database", description="Prepare Penstock's database.")
    parser.add_argument("action", choices=["migrate"])
    parser.add_argument("--url", default="", help="default: PENSTOCK_DATABASE_URL, or SQLite in PENSTOCK_HOME")
    chosen = parser.parse_args(arguments)
    url = chosen.url or Settings().resolved_database_url
    try:
        migrate(url)
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"penstock: {make_url(url).render_as_string(hide_password=True)} has the newest tables.")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
