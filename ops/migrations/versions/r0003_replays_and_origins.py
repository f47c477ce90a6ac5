"""replays, reuse, and what other wires remember of a job

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
NEW_COLUMNS = (
    sa.Column("replay_of", sa.String(length=48)),
    sa.Column("row_class", sa.String(length=8)),
    sa.Column("origin", JSON),
)


def upgrade() -> None:
    op.add_column("generations", sa.Column("continuity", JSON))
    op.add_column("generations", sa.Column("fingerprint", sa.String(length=32)))
    known = sa.text("fingerprint IS NOT NULL")
    op.create_index(
        "ix_generations_fingerprint", "generations", ["fingerprint"], sqlite_where=known, postgresql_where=known
    )
    for column in NEW_COLUMNS:
        op.add_column("jobs", column)


def downgrade() -> None:
    op.drop_index("ix_generations_fingerprint", "generations")
    op.execute(sa.text("ALTER TABLE generations DROP COLUMN fingerprint"))
    op.execute(sa.text("ALTER TABLE generations DROP COLUMN continuity"))
    for column in NEW_COLUMNS:
        op.execute(sa.text(f"ALTER TABLE jobs DROP COLUMN {column.name}"))
