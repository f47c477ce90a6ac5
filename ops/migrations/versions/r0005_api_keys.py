"""API keys, and what is needed to count what an owner has open

Revision: 0005, after 0004. Rows of before have no tokens counted: batches that are open while this runs count as empty.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
INSTANT = sa.DateTime(timezone=True)


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("hint", sa.String(length=16), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("requests_per_minute", sa.Integer()),
        sa.Column("queued_tokens", sa.Integer()),
        sa.Column("open_batches", sa.Integer()),
        sa.Column("batch_lines", sa.Integer()),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT),
        sa.Column("revoked_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("hint", name=op.f("uq_api_keys_hint")),
    )
    op.add_column("batches", sa.Column("num_tokens_asked", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("files", sa.Column("tokens", JSON, nullable=False, server_default="{}"))
    op.create_index("ix_batches_owner_open", "batches", ["owner", "id"], **_where("ended_at IS NULL"))
    op.create_index("ix_jobs_owner_loose", "jobs", ["owner", "id"], **_where("batch_id IS NULL AND ended_at IS NULL"))


def downgrade() -> None:
    op.drop_index("ix_jobs_owner_loose", "jobs")
    op.drop_index("ix_batches_owner_open", "batches")
    op.execute(sa.text("ALTER TABLE files DROP COLUMN tokens"))
    op.execute(sa.text("ALTER TABLE batches DROP COLUMN num_tokens_asked"))
    op.drop_table("api_keys")
