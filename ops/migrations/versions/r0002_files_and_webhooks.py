"""files, batches made from them, and webhooks

Revision: 0002, after 0001. Columns are added with defaults, and with their constraints in the same statement: that is
cheap on both databases whatever the size of the table, and older code may go on writing rows meanwhile.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
INSTANT = sa.DateTime(timezone=True)
ID = sa.String(length=48)

TABLES = ("deliveries", "webhooks", "file_segments", "files", "batch_samples")
"""Children first: a downgrade drops them in this order."""

NEW_COLUMNS: dict[str, tuple[tuple[sa.Column[Any], tuple[str, str] | None], ...]] = {
    "batches": (
        (sa.Column("endpoint", sa.String(64), nullable=False, server_default="/v1/jobs"), None),
        (sa.Column("model", sa.String(256)), None),
        (sa.Column("weight", sa.Double(), nullable=False, server_default="1.0"), ("weight", "weight > 0")),
        (sa.Column("served_at", INSTANT), None),
        (sa.Column("completion_window", sa.String(32)), None),
        (sa.Column("expires_at", INSTANT), None),
        (sa.Column("input_file_id", ID), None),
        (sa.Column("intake_byte", sa.BigInteger(), nullable=False, server_default="0"), None),
        (
            sa.Column("num_taken", sa.Integer(), nullable=False, server_default="0"),
            ("taken_within_total", "num_taken <= num_total"),
        ),
        (sa.Column("taken_at", INSTANT), None),
        (sa.Column("failed_at", INSTANT), None),
        (sa.Column("errors", JSON), None),
        (sa.Column("num_ends", sa.Integer(), nullable=False, server_default="0"), None),
        (sa.Column("num_prompt_tokens", sa.BigInteger(), nullable=False, server_default="0"), None),
        (sa.Column("num_completion_tokens", sa.BigInteger(), nullable=False, server_default="0"), None),
        (sa.Column("output_file_id", ID), None),
        (sa.Column("error_file_id", ID), None),
        (sa.Column("output_cursor", sa.Integer(), nullable=False, server_default="0"), None),
        (sa.Column("error_cursor", sa.Integer(), nullable=False, server_default="0"), None),
        (
            sa.Column("output_order", sa.String(16), nullable=False, server_default="completion"),
            ("output_order", "output_order IN ('completion', 'input')"),
        ),
        (sa.Column("output_expires_after_seconds", sa.BigInteger()), None),
        (sa.Column("finalized_at", INSTANT), None),
    ),
    "jobs": (
        (sa.Column("dispatch_order", sa.BigInteger(), nullable=False, server_default="0"), None),
        (
            sa.Column("end_number", sa.Integer()),
            ("end_number_when_ended", "end_number IS NULL OR ended_at IS NOT NULL"),
        ),
    ),
}

NUMBER_THE_ENDS = """
UPDATE jobs SET end_number = numbered.place FROM (
    SELECT id, row_number() OVER (PARTITION BY batch_id ORDER BY ended_at, id) AS place
    FROM jobs WHERE batch_id IS NOT NULL AND ended_at IS NOT NULL
) AS numbered WHERE jobs.id = numbered.id
"""
FILL_BATCHES = """
UPDATE batches SET num_taken = num_total, taken_at = created_at,
    num_ends = num_succeeded + num_failed + num_cancelled + num_expired
"""
COUNT_TOKENS = """
UPDATE batches SET num_prompt_tokens = spent.prompt, num_completion_tokens = spent.completion FROM (
    SELECT jobs.batch_id AS batch_id, sum(generations.num_prompt_tokens) AS prompt,
        sum(generations.num_completion_tokens) AS completion
    FROM generations JOIN jobs ON jobs.id = generations.job_id WHERE jobs.batch_id IS NOT NULL GROUP BY jobs.batch_id
) AS spent WHERE batches.id = spent.batch_id
"""


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    for table, columns in NEW_COLUMNS.items():
        for column, check in columns:
            _add(table, column, check)
    for statement in (NUMBER_THE_ENDS, FILL_BATCHES, COUNT_TOKENS):
        op.execute(sa.text(statement))
    op.create_index(
        "ix_batches_unfinished",
        "batches",
        ["id"],
        **_where("input_file_id IS NOT NULL AND finalized_at IS NULL AND failed_at IS NULL"),
    )
    op.create_index("ix_batches_owner", "batches", ["owner", "id"])
    op.drop_index("ix_jobs_unpublished", "jobs")
    _create_unpublished("dispatch_order", "available_at")
    op.create_index(
        "uq_jobs_batch_id_end_number",
        "jobs",
        ["batch_id", "end_number"],
        unique=True,
        **_where("end_number IS NOT NULL"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    _create_batch_samples()
    _create_files()
    _create_webhooks()


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)
    op.drop_index("ix_idempotency_keys_created_at", "idempotency_keys")
    op.drop_index("uq_jobs_batch_id_end_number", "jobs")
    op.drop_index("ix_jobs_unpublished", "jobs")
    _create_unpublished("available_at")
    op.drop_index("ix_batches_owner", "batches")
    op.drop_index("ix_batches_unfinished", "batches")
    for table, columns in NEW_COLUMNS.items():
        for column, _ in columns:
            op.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN {column.name}"))


def _add(table: str, column: sa.Column[Any], check: tuple[str, str] | None) -> None:
    dialect = op.get_bind().dialect
    kind = column.type.compile(dialect)
    default = "" if column.server_default is None else f" DEFAULT '{column.server_default.arg}'"  # type: ignore[attr-defined]
    null = "" if column.nullable else " NOT NULL"
    checked = "" if check is None else f" CONSTRAINT ck_{table}_{check[0]} CHECK ({check[1]})"
    op.execute(sa.text(f"ALTER TABLE {table} ADD COLUMN {column.name} {kind}{default}{null}{checked}"))


def _create_unpublished(*order: str) -> None:
    op.create_index(
        "ix_jobs_unpublished",
        "jobs",
        ["priority", "batch_id", *order, "id"],
        **_where("state = 'queued' AND published_at IS NULL"),
    )


def _create_batch_samples() -> None:
    op.create_table(
        "batch_samples",
        sa.Column("batch_id", ID, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("num_ended", sa.Integer(), nullable=False),
        sa.Column("num_completion_tokens", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_batch_samples_batch_id")),
        sa.PrimaryKeyConstraint("batch_id", "at", name=op.f("pk_batch_samples")),
    )


def _create_files() -> None:
    op.create_table(
        "files",
        sa.Column("id", ID, nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64)),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT),
        sa.Column("deleted_at", INSTANT),
        sa.Column("complete_at", INSTANT),
        sa.Column("batch_id", ID),
        sa.Column("num_lines", sa.Integer(), nullable=False),
        sa.Column("num_invalid", sa.Integer(), nullable=False),
        sa.Column("urls", JSON, nullable=False),
        sa.Column("checked_object", sa.String(255)),
        sa.Column("checked_model", sa.String(64)),
        sa.CheckConstraint("purpose IN ('batch', 'batch_output')", name=op.f("ck_files_purpose")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_files")),
    )
    op.create_index("ix_files_owner", "files", ["owner", "id"])
    op.create_index(
        "ix_files_expires", "files", ["expires_at"], **_where("expires_at IS NOT NULL AND deleted_at IS NULL")
    )
    op.create_table(
        "file_segments",
        sa.Column("file_id", ID, nullable=False),
        sa.Column("start_byte", sa.BigInteger(), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("object_name", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("fk_file_segments_file_id")),
        sa.PrimaryKeyConstraint("file_id", "start_byte", name=op.f("pk_file_segments")),
    )


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", ID, nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", JSON, nullable=False),
        sa.Column("secret", sa.String(128), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("deleted_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index("ix_webhooks_owner", "webhooks", ["owner", "id"])
    op.create_table(
        "deliveries",
        sa.Column("id", ID, nullable=False),
        sa.Column("webhook_id", ID, nullable=False),
        sa.Column("event_type", sa.String(64), nullable=False),
        sa.Column("object_id", ID, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("next_attempt_at", INSTANT),
        sa.Column("delivered_at", INSTANT),
        sa.Column("num_attempts", sa.Integer(), nullable=False),
        sa.Column("history", JSON, nullable=False),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name=op.f("fk_deliveries_webhook_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index("ix_deliveries_due", "deliveries", ["next_attempt_at"], **_where("next_attempt_at IS NOT NULL"))
    op.create_index("ix_deliveries_webhook", "deliveries", ["webhook_id", "id"])
