"""the trace that a job or a batch was asked for in

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = ("jobs", "batches")


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("traceparent", sa.String(length=64)))


def downgrade() -> None:
    for table in TABLES:
        op.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN traceparent"))
