"""Runs migrations on the connection that `jobs.database.migrate` opened, inside its transaction.

Owns no connection and no lock. `alembic` itself may be pointed here too (`-x url=…`) to write a new revision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import context

from jobs.database import open_engine
from jobs.settings import Settings
from jobs.tables import Base

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def run(connection: Connection) -> None:
    """Run on `connection`; whoever opened it commits."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        # SQLite alters a table by copying it.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


def run_alone() -> None:
    """For the `alembic` command: open the database that it, or the settings, name."""
    url = context.get_x_argument(as_dictionary=True).get("url") or Settings().resolved_database_url
    with open_engine(url).begin() as connection:
        run(connection)


given = context.config.attributes.get("connection")
if given is None:
    run_alone()
else:
    run(given)
