"""Batches, and the files that they are made from and written to."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import JSON, Base, Id, Instant, where


class Batch(Base):
    """Jobs that were submitted together. Its counters are kept by the statements that end jobs.

    A batch made from a file knows `num_total` from the start; its lines come into `jobs` a chunk at a time, and
    `taken_at` is set with the last of them. A line that could never run is a job that failed at birth.
    """

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), default="")
    num_total: Mapped[int] = mapped_column(default=0)
    num_succeeded: Mapped[int] = mapped_column(default=0)
    num_failed: Mapped[int] = mapped_column(default=0)
    num_cancelled: Mapped[int] = mapped_column(default=0)
    num_expired: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(Instant)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(Instant)
    ended_at: Mapped[datetime | None] = mapped_column(Instant, doc="Set while every line has ended.")
    job_metadata: Mapped[dict[str, str]] = mapped_column("metadata", JSON, default=dict)

    endpoint: Mapped[str] = mapped_column(String(64), default="/v1/jobs")
    model: Mapped[str | None] = mapped_column(String(256))
    weight: Mapped[float] = mapped_column(default=1.0, doc="Share of the window beside the owner's other batches.")
    served_at: Mapped[datetime | None] = mapped_column(Instant, doc="When a line was last dispatched.")
    completion_window: Mapped[str | None] = mapped_column(String(32), doc="As the caller wrote it.")
    expires_at: Mapped[datetime | None] = mapped_column(Instant, doc="End of the window: the deadline of its lines.")

    input_file_id: Mapped[str | None] = mapped_column(Id, doc="None: not made from a file.")
    intake_byte: Mapped[int] = mapped_column(BigInteger, default=0, doc="How far the checked file has been read.")
    num_taken: Mapped[int] = mapped_column(default=0, doc="Lines that are rows of `jobs`.")
    taken_at: Mapped[datetime | None] = mapped_column(Instant, doc="When all its lines were.")
    failed_at: Mapped[datetime | None] = mapped_column(Instant, doc="Refused as a whole; `errors` says why.")
    errors: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON, doc='[{"code","message","param","line"}]')

    num_ends: Mapped[int] = mapped_column(default=0, doc="The newest `end_number`; never goes back.")
    num_prompt_tokens: Mapped[int] = mapped_column(BigInteger, default=0, doc="Of the lines that have ended.")
    num_completion_tokens: Mapped[int] = mapped_column(BigInteger, default=0)
    num_tokens_asked: Mapped[int] = mapped_column(
        BigInteger, default=0, doc="Prompt tokens and `max_tokens` of all its lines that can run."
    )

    output_file_id: Mapped[str | None] = mapped_column(Id)
    error_file_id: Mapped[str | None] = mapped_column(Id)
    output_cursor: Mapped[int] = mapped_column(default=0, doc="The newest `end_number` that the output file covers.")
    error_cursor: Mapped[int] = mapped_column(default=0, doc="And the error file.")
    output_order: Mapped[str] = mapped_column(String(16), default="completion")
    output_expires_after_seconds: Mapped[int | None] = mapped_column(BigInteger)
    traceparent: Mapped[str | None] = mapped_column(String(64), doc="W3C trace context of the call that made it.")
    finalized_at: Mapped[datetime | None] = mapped_column(Instant, doc="When its files were whole.")
    lines_deleted_at: Mapped[datetime | None] = mapped_column(Instant, doc="When the time of all its lines was over.")

    __table_args__ = (
        CheckConstraint(
            "num_succeeded + num_failed + num_cancelled + num_expired <= num_total", "counters_within_total"
        ),
        CheckConstraint("num_taken <= num_total", "taken_within_total"),
        CheckConstraint("weight > 0", "weight"),
        CheckConstraint("output_order IN ('completion', 'input')", "output_order"),
        Index("ix_batches_open", "id", **where("ended_at IS NULL")),
        # What an owner has open: counted before it gets more.
        Index("ix_batches_owner_open", "owner", "id", **where("ended_at IS NULL")),
        # What the clerk has to do: lines to take in, files to write or to finish.
        Index(
            "ix_batches_unfinished",
            "id",
            **where("input_file_id IS NOT NULL AND finalized_at IS NULL AND failed_at IS NULL"),
        ),
        Index("ix_batches_kept", "ended_at", **where("ended_at IS NOT NULL AND lines_deleted_at IS NULL")),
        Index("ix_batches_owner", "owner", "id"),
    )


class BatchSample(Base):
    """How far a batch had come at an instant: what rates and the time to its end are reckoned from."""

    __tablename__ = "batch_samples"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    at: Mapped[datetime] = mapped_column(Instant, primary_key=True)
    num_ended: Mapped[int]
    num_completion_tokens: Mapped[int] = mapped_column(BigInteger)


class File(Base):
    """A file as its owner sees it. Its bytes are its segments', one after the other.

    `purpose` `batch`: an input, checked while it arrived. `batch_output`: written by the clerk; it grows until
    `complete_at`. A deleted file keeps its row, so that its batch still knows it.
    """

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), default="")
    purpose: Mapped[str] = mapped_column(String(32))
    filename: Mapped[str] = mapped_column(String(255))
    num_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    sha256: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    deleted_at: Mapped[datetime | None] = mapped_column(Instant)
    complete_at: Mapped[datetime | None] = mapped_column(Instant)
    batch_id: Mapped[str | None] = mapped_column(String(48), doc="The batch whose results it holds.")

    num_lines: Mapped[int] = mapped_column(default=0, doc="Lines that are not blank; of a checked input, all.")
    num_invalid: Mapped[int] = mapped_column(default=0, doc="Of them, those that can never run.")
    urls: Mapped[dict[str, int]] = mapped_column(JSON, default=dict, doc="Valid lines by their `url`.")
    tokens: Mapped[dict[str, int]] = mapped_column(
        JSON, default=dict, doc="Prompt tokens and `max_tokens` of the valid lines, by their `url`."
    )
    checked_object: Mapped[str | None] = mapped_column(String(255), doc="Where the checked lines are stored.")
    checked_model: Mapped[str | None] = mapped_column(String(64), doc="SHA-256 of the model they were checked for.")

    __table_args__ = (
        CheckConstraint("purpose IN ('batch', 'batch_output')", "purpose"),
        Index("ix_files_owner", "owner", "id"),
        Index("ix_files_expires", "expires_at", **where("expires_at IS NOT NULL AND deleted_at IS NULL")),
    )


class FileSegment(Base):
    """A run of a file's bytes, stored as one object. Segments follow each other without a gap."""

    __tablename__ = "file_segments"

    file_id: Mapped[str] = mapped_column(ForeignKey("files.id"), primary_key=True)
    start_byte: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    object_name: Mapped[str] = mapped_column(String(255))
