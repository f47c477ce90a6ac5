"""Jobs: what was asked, each try at it, and the text that came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from jobs.states import ENDED, AttemptOutcome, FinishReason, JobState, Priority
from jobs.tables.base import JSON, Base, Id, Instant, one_of, where

_UNPUBLISHED = "state = 'queued' AND published_at IS NULL"


class Job(Base):
    """One accepted prompt, and how far it has come."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    state: Mapped[str] = mapped_column(String(16), default=JobState.QUEUED)
    owner: Mapped[str] = mapped_column(String(64), default="")
    model: Mapped[str] = mapped_column(String(256))
    priority: Mapped[str] = mapped_column(String(16))
    prompt: Mapped[str | None] = mapped_column(Text)
    messages: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON)
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON)
    seed: Mapped[int] = mapped_column(BigInteger)
    num_prompt_tokens: Mapped[int]
    job_metadata: Mapped[dict[str, str]] = mapped_column("metadata", JSON, default=dict)

    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id"))
    custom_id: Mapped[str | None] = mapped_column(String(512))
    line_number: Mapped[int | None]
    dispatch_order: Mapped[int] = mapped_column(
        BigInteger, default=0, doc="Place among the lines of its batch: those with a common prefix stand together."
    )
    end_number: Mapped[int | None] = mapped_column(doc="Its place in the order in which its batch's lines ended.")

    replay_of: Mapped[str | None] = mapped_column(Id, doc="The ended job that it runs again, to compare.")
    origin: Mapped[dict[str, Any] | None] = mapped_column(
        JSON, doc="What another wire needs to show the job as it was asked for."
    )
    row_class: Mapped[str | None] = mapped_column(
        String(8), doc="The row class it has to run in; none: the worker chooses."
    )

    attempt: Mapped[int] = mapped_column(default=0, doc="Number of the newest attempt; 0 before the first.")
    num_failures: Mapped[int] = mapped_column(default=0, doc="Attempts that count against `max_attempts`.")
    max_attempts: Mapped[int] = mapped_column(default=3)
    lease_expires_at: Mapped[datetime | None] = mapped_column(Instant, doc="Set exactly while running.")
    available_at: Mapped[datetime] = mapped_column(Instant, doc="Not before: backoff between attempts.")
    published_at: Mapped[datetime | None] = mapped_column(Instant, doc="Last nudge sent while queued.")
    cancel_requested_at: Mapped[datetime | None] = mapped_column(Instant)
    deadline_at: Mapped[datetime | None] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant)
    started_at: Mapped[datetime | None] = mapped_column(Instant, doc="First claim.")
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    deleted_at: Mapped[datetime | None] = mapped_column(Instant, doc="Of its texts nothing is left: `store.deleting`.")
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON, doc='{"code","message","retryable"}')
    traceparent: Mapped[str | None] = mapped_column(
        String(64), doc="W3C trace context of the call that made it; a line of a file has its batch's."
    )

    __table_args__ = (
        CheckConstraint(one_of("state", JobState), "state"),
        CheckConstraint(one_of("priority", Priority), "priority"),
        CheckConstraint("(prompt IS NULL) <> (messages IS NULL)", "one_input"),
        CheckConstraint("seed BETWEEN 0 AND 4294967294", "seed"),
        CheckConstraint("(state = 'running') = (lease_expires_at IS NOT NULL)", "lease_while_running"),
        CheckConstraint(f"({one_of('state', ENDED)}) = (ended_at IS NOT NULL)", "ended_at_when_ended"),
        CheckConstraint("state = 'queued' OR published_at IS NULL", "published_while_queued"),
        CheckConstraint("num_failures <= attempt", "failures_within_attempts"),
        CheckConstraint("end_number IS NULL OR ended_at IS NOT NULL", "end_number_when_ended"),
        UniqueConstraint("batch_id", "line_number"),
        # What the dispatcher reads. All are partial, so that a round costs what it moves and not what waits: a batch
        # of 1,000,000 queued lines is in `ix_jobs_unpublished` only, which is entered at the head of one batch
        # for as many rows as the window has room; the published ones are as many as the window holds.
        Index(
            "ix_jobs_unpublished",
            "priority",
            "batch_id",
            "dispatch_order",
            "available_at",
            "id",
            **where(_UNPUBLISHED),
        ),
        Index("ix_jobs_published", "priority", "published_at", "id", **where("published_at IS NOT NULL")),
        Index("ix_jobs_lease", "lease_expires_at", **where("lease_expires_at IS NOT NULL")),
        Index("ix_jobs_deadline", "deadline_at", **where("deadline_at IS NOT NULL AND ended_at IS NULL")),
        # What listings read: a batch in the order of its lines (the unique constraint above), by state, by owner.
        Index("ix_jobs_batch", "batch_id", "state", "line_number"),
        Index(
            "uq_jobs_batch_id_end_number",
            "batch_id",
            "end_number",
            unique=True,
            **where("end_number IS NOT NULL"),
        ),
        Index("ix_jobs_owner", "owner", "id"),
        # An owner's open jobs outside of batches. No line of a batch is ever in it.
        Index("ix_jobs_owner_loose", "owner", "id", **where("batch_id IS NULL AND ended_at IS NULL")),
        Index("ix_jobs_state", "state", "id"),
        # Single jobs in the order in which they ended: what is deleted by itself. No line of a batch is ever in it.
        Index(
            "ix_jobs_kept",
            "ended_at",
            **where("batch_id IS NULL AND ended_at IS NOT NULL AND deleted_at IS NULL"),
        ),
        # What is left of deleted jobs, until it goes too.
        Index("ix_jobs_deleted", "deleted_at", **where("deleted_at IS NOT NULL")),
    )


class Attempt(Base):
    """One try at a job. `outcome` is null exactly while it runs."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str] = mapped_column(String(128))
    outcome: Mapped[str | None] = mapped_column(String(16))
    started_at: Mapped[datetime] = mapped_column(Instant)
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON)

    __table_args__ = (
        CheckConstraint("number >= 1", "number"),
        CheckConstraint(f"outcome IS NULL OR {one_of('outcome', AttemptOutcome)}", "outcome"),
        CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", "ended_with_outcome"),
        # At most one attempt of a job runs at a time.
        Index(
            "uq_attempts_running",
            "job_id",
            unique=True,
            **where("outcome IS NULL"),
        ),
    )


class Recipe(Base):
    """All that decides a text besides prompt, parameters and seed. Its id is a short hash of its body."""

    __tablename__ = "recipes"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Instant)


class Generation(Base):
    """The stored text of an ended job: whole when it succeeded, as far as it came when cancelled or expired."""

    __tablename__ = "generations"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    attempt: Mapped[int]
    completion: Mapped[str] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(String(16))
    num_prompt_tokens: Mapped[int]
    num_completion_tokens: Mapped[int]
    prompt_token_ids: Mapped[list[int]] = mapped_column(JSON)
    completion_token_ids: Mapped[list[int]] = mapped_column(JSON)
    logprobs: Mapped[list[Any] | None] = mapped_column(JSON)
    recipe_id: Mapped[str] = mapped_column(ForeignKey("recipes.id"))
    continuity: Mapped[dict[str, Any] | None] = mapped_column(
        JSON,
        doc="How it took up what an earlier attempt had told: mode, from_attempt, tokens[, matches]. Or the job `of` "
        "which it is the generation, `reused`.",
    )
    fingerprint: Mapped[str | None] = mapped_column(
        String(32), doc="Of an exact, whole one: hash of all that decides its text besides the recipe."
    )
    timings: Mapped[dict[str, float]] = mapped_column(JSON, doc="Seconds: queued, prefill, first_token, decode, total.")
    stored_at: Mapped[datetime] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint(f"finish_reason IS NULL OR {one_of('finish_reason', FinishReason)}", "finish_reason"),
        Index("ix_generations_fingerprint", "fingerprint", **where("fingerprint IS NOT NULL")),
    )
