"""jobs that were deleted, and what finds those whose time is over

Revision: 0006, after 0005.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_jobs_deleted": ("jobs", "deleted_at", "deleted_at IS NOT NULL"),
    "ix_jobs_kept": ("jobs", "ended_at", "batch_id IS NULL AND ended_at IS NOT NULL AND deleted_at IS NULL"),
    "ix_batches_kept": ("batches", "ended_at", "ended_at IS NOT NULL AND lines_deleted_at IS NULL"),
}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("deleted_at", sa.DateTime(timezone=True)))
    op.add_column("batches", sa.Column("lines_deleted_at", sa.DateTime(timezone=True)))
    for name, (table, column, condition) in INDEXES.items():
        where = sa.text(condition)
        op.create_index(name, table, [column], sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for name, (table, _, _) in INDEXES.items():
        op.drop_index(name, table)
    op.execute(sa.text("ALTER TABLE batches DROP COLUMN lines_deleted_at"))
    op.execute(sa.text("ALTER TABLE jobs DROP COLUMN deleted_at"))
