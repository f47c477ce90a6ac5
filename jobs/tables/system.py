"""Who is there: models, workers, who holds an office; who may call, and which calls were made."""

from __future__ import annotations

import zlib
from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import JSON, Base, Id, Instant


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
