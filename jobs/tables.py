"""The tables. What must never happen is a constraint here, not only a rule in code.

A job is one row in `jobs`. Each try is a row in `attempts`; the finished text is the one row in `generations`
(its primary key is the job: a second one cannot be stored). Instants are aware UTC; counts start with `num_`.

Lock order, for PostgreSQL: batch, job, attempt, generation.
"""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON as GenericJSON
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from jobs.states import ENDED, AttemptOutcome, FinishReason, JobState, Priority

JSON = GenericJSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Id = String(48)


class Instant(TypeDecorator[datetime]):
    """An aware UTC instant. SQLite keeps it as naive UTC text, which sorts; PostgreSQL as `timestamptz`."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


def _one_of(column: str, values: object) -> str:
    names = ", ".join(f"'{value}'" for value in sorted(str(value) for value in values))  # type: ignore[attr-defined]
    return f"{column} IN ({names})"


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


_UNPUBLISHED = "state = 'queued' AND published_at IS NULL"


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


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

    __table_args__ = (
        CheckConstraint(
            "num_succeeded + num_failed + num_cancelled + num_expired <= num_total", "counters_within_total"
        ),
        CheckConstraint("num_taken <= num_total", "taken_within_total"),
        CheckConstraint("weight > 0", "weight"),
        CheckConstraint("output_order IN ('completion', 'input')", "output_order"),
        Index("ix_batches_open", "id", **_where("ended_at IS NULL")),
        # What an owner has open: counted before it gets more.
        Index("ix_batches_owner_open", "owner", "id", **_where("ended_at IS NULL")),
        # What the clerk has to do: lines to take in, files to write or to finish.
        Index(
            "ix_batches_unfinished",
            "id",
            **_where("input_file_id IS NOT NULL AND finalized_at IS NULL AND failed_at IS NULL"),
        ),
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
        Index("ix_files_expires", "expires_at", **_where("expires_at IS NOT NULL AND deleted_at IS NULL")),
    )


class FileSegment(Base):
    """A run of a file's bytes, stored as one object. Segments follow each other without a gap."""

    __tablename__ = "file_segments"

    file_id: Mapped[str] = mapped_column(ForeignKey("files.id"), primary_key=True)
    start_byte: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    object_name: Mapped[str] = mapped_column(String(255))


class Webhook(Base):
    """Where an owner wants to hear of ends. `secret` signs each delivery (Standard Webhooks); deleted, it has none."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), default="")
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(JSON, doc="Types of event, such as `batch.completed`.")
    include_batch_lines: Mapped[bool] = mapped_column(default=False, doc="Hear of each line's end: `job.*` of batches.")
    description: Mapped[str] = mapped_column(String(512), default="")
    secret: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime] = mapped_column(Instant)
    disabled_at: Mapped[datetime | None] = mapped_column(Instant, doc="When its target said that it is gone (410).")
    deleted_at: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (
        Index("ix_webhooks_owner", "owner", "id"),
        # Read by each transaction that ends a job: with nobody listening it is empty.
        Index("ix_webhooks_listening", "id", **_where("deleted_at IS NULL AND disabled_at IS NULL")),
    )


class Delivery(Base):
    """One event for one webhook, made by the transaction that ended the object. Tried until taken or given up."""

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    event_type: Mapped[str] = mapped_column(String(64))
    object_id: Mapped[str] = mapped_column(Id)
    data: Mapped[dict[str, Any]] = mapped_column(JSON, doc="What is told of the object: ids and numbers only.")
    created_at: Mapped[datetime] = mapped_column(Instant)
    next_attempt_at: Mapped[datetime | None] = mapped_column(
        Instant, doc="None: taken, or given up. While it is being tried: when the courier that tries counts as dead."
    )
    delivered_at: Mapped[datetime | None] = mapped_column(Instant)
    num_attempts: Mapped[int] = mapped_column(default=0, doc="Begun; one more than `history` has while one runs.")
    history: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list, doc='[{"at","status","error","seconds"}]')

    __table_args__ = (
        Index("ix_deliveries_due", "webhook_id", "next_attempt_at", **_where("next_attempt_at IS NOT NULL")),
        Index("ix_deliveries_webhook", "webhook_id", "id"),
    )


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
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON, doc='{"code","message","retryable"}')
    traceparent: Mapped[str | None] = mapped_column(
        String(64), doc="W3C trace context of the call that made it; a line of a file has its batch's."
    )

    __table_args__ = (
        CheckConstraint(_one_of("state", JobState), "state"),
        CheckConstraint(_one_of("priority", Priority), "priority"),
        CheckConstraint("(prompt IS NULL) <> (messages IS NULL)", "one_input"),
        CheckConstraint("seed BETWEEN 0 AND 4294967294", "seed"),
        CheckConstraint("(state = 'running') = (lease_expires_at IS NOT NULL)", "lease_while_running"),
        CheckConstraint(f"({_one_of('state', ENDED)}) = (ended_at IS NOT NULL)", "ended_at_when_ended"),
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
            **_where(_UNPUBLISHED),
        ),
        Index("ix_jobs_published", "priority", "published_at", "id", **_where("published_at IS NOT NULL")),
        Index("ix_jobs_lease", "lease_expires_at", **_where("lease_expires_at IS NOT NULL")),
        Index("ix_jobs_deadline", "deadline_at", **_where("deadline_at IS NOT NULL AND ended_at IS NULL")),
        # What listings read: a batch in the order of its lines (the unique constraint above), by state, by owner.
        Index("ix_jobs_batch", "batch_id", "state", "line_number"),
        Index(
            "uq_jobs_batch_id_end_number",
            "batch_id",
            "end_number",
            unique=True,
            **_where("end_number IS NOT NULL"),
        ),
        Index("ix_jobs_owner", "owner", "id"),
        # An owner's open jobs outside of batches. No line of a batch is ever in it.
        Index("ix_jobs_owner_loose", "owner", "id", **_where("batch_id IS NULL AND ended_at IS NULL")),
        Index("ix_jobs_state", "state", "id"),
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
        CheckConstraint(f"outcome IS NULL OR {_one_of('outcome', AttemptOutcome)}", "outcome"),
        CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", "ended_with_outcome"),
        # At most one attempt of a job runs at a time.
        Index(
            "uq_attempts_running",
            "job_id",
            unique=True,
            **_where("outcome IS NULL"),
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
        CheckConstraint(f"finish_reason IS NULL OR {_one_of('finish_reason', FinishReason)}", "finish_reason"),
        Index("ix_generations_fingerprint", "fingerprint", **_where("fingerprint IS NOT NULL")),
    )


class Model(Base):
    """A model that a worker has announced: what the API needs to check a request, without the weights."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(String(256), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    context_tokens: Mapped[int] = mapped_column(doc="Context of one slot, in tokens: prompt and completion together.")
    vocabulary: Mapped[bytes] = mapped_column(
        LargeBinary, doc="A GGUF file with the metadata and no tensors, zlib-compressed."
    )
    recipe_id: Mapped[str | None] = mapped_column(ForeignKey("recipes.id"))
    details: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    announced_at: Mapped[datetime] = mapped_column(Instant)

    @property
    def vocabulary_gguf(self) -> bytes:
        """The vocabulary as the worker announced it, decompressed."""
        return zlib.decompress(self.vocabulary)


class Worker(Base):
    """A worker's newest heartbeat."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    model: Mapped[str] = mapped_column(String(256))
    slots: Mapped[int]
    busy_slots: Mapped[int]
    tokens_per_second: Mapped[float]
    details: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    started_at: Mapped[datetime] = mapped_column(Instant)
    seen_at: Mapped[datetime] = mapped_column(Instant)


class IdempotencyKey(Base):
    """What a caller's key made, so that the same call twice makes one thing."""

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True, default="")
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    object_ids: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Instant)

    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)


class ApiKey(Base):
    """Who may call. The key itself is shown once, when it is made, and stored nowhere.

    A key that was revoked or is over keeps its row: it shows who had one, and that keys are asked for here.
    """

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    hint: Mapped[str] = mapped_column(String(16), doc="How the key begins: finds it, and may be shown.")
    sha256: Mapped[str] = mapped_column(String(64), doc="Of the whole key.")
    name: Mapped[str] = mapped_column(String(128))
    owner: Mapped[str] = mapped_column(String(64), doc="Whose objects it makes and sees; keys may share one.")
    scopes: Mapped[list[str]] = mapped_column(JSON)
    requests_per_minute: Mapped[int | None]
    queued_tokens: Mapped[int | None] = mapped_column(doc="This and the next two: see `jobs.keys.Quota`.")
    open_batches: Mapped[int | None]
    batch_lines: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(Instant)
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    revoked_at: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (UniqueConstraint("hint"),)


class Office(Base):
    """Who leads. One row a role; a holder that stays silent past `expires_at` may be replaced."""

    __tablename__ = "offices"

    role: Mapped[str] = mapped_column(String(32), primary_key=True)
    holder: Mapped[str] = mapped_column(String(128))
    expires_at: Mapped[datetime] = mapped_column(Instant)
