"""replays

Revision: 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NEW_COLUMNS = (sa.Column("replay_of", sa.String(length=48)), sa.Column("row_class", sa.String(length=8)))


def upgrade() -> None:
    for column in NEW_COLUMNS:
        op.add_column("jobs", column)


def downgrade() -> None:
    for column in NEW_COLUMNS:
        op.execute(sa.text(f"ALTER TABLE jobs DROP COLUMN {column.name}"))
