"""Webhooks, and what each was told or is to be told."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from jobs.tables.base import JSON, Base, Id, Instant, where


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
        Index("ix_webhooks_listening", "id", **where("deleted_at IS NULL AND disabled_at IS NULL")),
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
        Index("ix_deliveries_due", "webhook_id", "next_attempt_at", **where("next_attempt_at IS NOT NULL")),
        Index("ix_deliveries_webhook", "webhook_id", "id"),
    )
