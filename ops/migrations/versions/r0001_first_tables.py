"""the first tables

Revision: 0001, after nothing.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
INSTANT = sa.DateTime(timezone=True)

TABLES = ("generations", "attempts", "models", "jobs", "workers", "recipes", "offices", "idempotency_keys", "batches")
"""Children first: a downgrade drops them in this order."""


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    _create_batches()
    _create_idempotency_keys()
    _create_offices()
    _create_recipes()
    _create_workers()
    _create_jobs()
    _create_models()
    _create_attempts()
    _create_generations()


def downgrade() -> None:
    for table in TABLES:
        op.drop_table(table)


def _create_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("num_total", sa.Integer(), nullable=False),
        sa.Column("num_succeeded", sa.Integer(), nullable=False),
        sa.Column("num_failed", sa.Integer(), nullable=False),
        sa.Column("num_cancelled", sa.Integer(), nullable=False),
        sa.Column("num_expired", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("cancel_requested_at", INSTANT, nullable=True),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.Column("metadata", JSON, nullable=False),
        sa.CheckConstraint(
            "num_succeeded + num_failed + num_cancelled + num_expired <= num_total",
            name=op.f("ck_batches_counters_within_total"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.create_index("ix_batches_open", "batches", ["id"], **_where("ended_at IS NULL"))


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("object_ids", JSON, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_idempotency_keys")),
    )


def _create_offices() -> None:
    op.create_table(
        "offices",
        sa.Column("role", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.String(length=128), nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("role", name=op.f("pk_offices")),
    )


def _create_recipes() -> None:
    op.create_table(
        "recipes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("body", JSON, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recipes")),
    )


def _create_workers() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("busy_slots", sa.Integer(), nullable=False),
        sa.Column("tokens_per_second", sa.Double(), nullable=False),
        sa.Column("details", JSON, nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=48), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("priority", sa.String(length=16), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=True),
        sa.Column("messages", JSON, nullable=True),
        sa.Column("parameters", JSON, nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("num_prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("metadata", JSON, nullable=False),
        sa.Column("batch_id", sa.String(length=48), nullable=True),
        sa.Column("custom_id", sa.String(length=512), nullable=True),
        sa.Column("line_number", sa.Integer(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("num_failures", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("lease_expires_at", INSTANT, nullable=True),
        sa.Column("available_at", INSTANT, nullable=False),
        sa.Column("published_at", INSTANT, nullable=True),
        sa.Column("cancel_requested_at", INSTANT, nullable=True),
        sa.Column("deadline_at", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT, nullable=True),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (lease_expires_at IS NOT NULL)", name=op.f("ck_jobs_lease_while_running")
        ),
        sa.CheckConstraint(
            "(state IN ('cancelled', 'expired', 'failed', 'succeeded')) = (ended_at IS NOT NULL)",
            name=op.f("ck_jobs_ended_at_when_ended"),
        ),
        sa.CheckConstraint("priority IN ('batch', 'interactive')", name=op.f("ck_jobs_priority")),
        sa.CheckConstraint(
            "state IN ('cancelled', 'expired', 'failed', 'queued', 'running', 'succeeded')", name=op.f("ck_jobs_state")
        ),
        sa.CheckConstraint("(prompt IS NULL) <> (messages IS NULL)", name=op.f("ck_jobs_one_input")),
        sa.CheckConstraint("state = 'queued' OR published_at IS NULL", name=op.f("ck_jobs_published_while_queued")),
        sa.CheckConstraint("num_failures <= attempt", name=op.f("ck_jobs_failures_within_attempts")),
        sa.CheckConstraint("seed BETWEEN 0 AND 4294967294", name=op.f("ck_jobs_seed")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_jobs_batch_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("batch_id", "line_number", name=op.f("uq_jobs_batch_id_line_number")),
    )
    op.create_index("ix_jobs_batch", "jobs", ["batch_id", "state", "line_number"])
    op.create_index(
        "ix_jobs_deadline", "jobs", ["deadline_at"], **_where("deadline_at IS NOT NULL AND ended_at IS NULL")
    )
    op.create_index("ix_jobs_lease", "jobs", ["lease_expires_at"], **_where("lease_expires_at IS NOT NULL"))
    op.create_index("ix_jobs_owner", "jobs", ["owner", "id"])
    op.create_index(
        "ix_jobs_published",
        "jobs",
        ["priority", "published_at", "id"],
        **_where("published_at IS NOT NULL"),
    )
    op.create_index("ix_jobs_state", "jobs", ["state", "id"])
    op.create_index(
        "ix_jobs_unpublished",
        "jobs",
        ["priority", "batch_id", "available_at", "id"],
        **_where("state = 'queued' AND published_at IS NULL"),
    )


def _create_models() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("context_tokens", sa.Integer(), nullable=False),
        sa.Column("vocabulary", sa.LargeBinary(), nullable=False),
        sa.Column("recipe_id", sa.String(length=32), nullable=True),
        sa.Column("details", JSON, nullable=False),
        sa.Column("announced_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_models_recipe_id")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_models")),
    )


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(length=48), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=128), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.Column("error", JSON, nullable=True),
        sa.CheckConstraint(
            "outcome IS NULL OR outcome IN"
            " ('cancelled', 'expired', 'failed', 'interrupted', 'lease_lost', 'succeeded')",
            name=op.f("ck_attempts_outcome"),
        ),
        sa.CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name=op.f("ck_attempts_ended_with_outcome")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_attempts_number")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id")),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_attempts")),
    )
    op.create_index("uq_attempts_running", "attempts", ["job_id"], unique=True, **_where("outcome IS NULL"))


def _create_generations() -> None:
    op.create_table(
        "generations",
        sa.Column("job_id", sa.String(length=48), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("completion", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.String(length=16), nullable=True),
        sa.Column("num_prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("num_completion_tokens", sa.Integer(), nullable=False),
        sa.Column("prompt_token_ids", JSON, nullable=False),
        sa.Column("completion_token_ids", JSON, nullable=False),
        sa.Column("logprobs", JSON, nullable=True),
        sa.Column("recipe_id", sa.String(length=32), nullable=False),
        sa.Column("timings", JSON, nullable=False),
        sa.Column("stored_at", INSTANT, nullable=False),
        sa.CheckConstraint(
            "finish_reason IS NULL OR finish_reason IN ('length', 'stop')", name=op.f("ck_generations_finish_reason")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_generations_job_id")),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name=op.f("fk_generations_recipe_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_generations")),
    )
