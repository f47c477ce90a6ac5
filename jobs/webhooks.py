"""The values of webhooks: which events there are, what a delivery says and how it is signed, when it is tried again.

Knows the wire (Standard Webhooks) and no database, no socket. A message holds ids and numbers, never a prompt, a
completion, metadata or a `custom_id`: it leaves the house.
"""

from __future__ import annotations

import json
import math
import random
import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from standardwebhooks import Webhook as Signer

BATCH_EVENTS = ("batch.completed", "batch.failed", "batch.expired", "batch.cancelled")
JOB_EVENTS = ("job.succeeded", "job.failed", "job.cancelled", "job.expired")
EVENTS = BATCH_EVENTS + JOB_EVENTS
TEST_EVENT = "webhook.test"
"""Sent when its owner asks for it, whatever the webhook listens to."""

MAX_WEBHOOKS = 100
"""Of one owner: each end looks through all of them."""
MAX_TRIES = 100
"""Attempts of one delivery, those that its owner asked for included: its history is a row that must stay small."""

BACKOFF_SECONDS = 5.0
BACKOFF_FACTOR = 3.0
BACKOFF_MAX_SECONDS = 6 * 3600.0
"""Twelve attempts reach over about a day."""
RETRY_AFTER_MAX_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """What an owner asks for; `url` was checked (`jobs.targets`)."""

    url: str
    events: Sequence[str]
    include_batch_lines: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class WebhookChange:
    """What is to be another way; None: stays as it is. `enabled`: whether it is told of ends at all."""

    url: str | None = None
    events: Sequence[str] | None = None
    include_batch_lines: bool | None = None
    description: str | None = None
    enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """One attempt at a delivery, claimed: `number` fences what is noted of it."""

    id: str
    number: int
    webhook_id: str
    url: str
    secret: str
    event_type: str
    created_at: datetime
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tried:
    """How an attempt went. `status`: of the reply, if there was one. `error`: a class of errors, never a message."""

    status: int | None
    error: str | None
    seconds: float
    retry_after_seconds: float | None = None

    @property
    def taken(self) -> bool:
        return self.error is None

    @property
    def gone(self) -> bool:
        """Whether the target said that it wants no more of them, ever."""
        return self.status == HTTPStatus.GONE


def new_secret() -> str:
    """Make a secret as Standard Webhooks writes it: `whsec_` and 32 bytes in base64."""
    return "whsec_" + b64encode(secrets.token_bytes(32)).decode()


def message(due: DueDelivery) -> bytes:
    """The body: the same bytes in each attempt."""
    said = {"type": due.event_type, "timestamp": due.created_at.isoformat(), "data": dict(due.data)}
    return json.dumps(said, separators=(",", ":")).encode()


def signed_headers(due: DueDelivery, body: bytes, now: datetime) -> dict[str, str]:
    """Id, time and signature. The id is the delivery's, so that a receiver knows a repeat; the time is the attempt's,
    as receivers refuse what is minutes old."""
    return {
        "webhook-id": due.id,
        "webhook-timestamp": str(math.floor(now.timestamp())),
        "webhook-signature": Signer(due.secret).sign(due.id, now.astimezone(UTC), body.decode()),
    }


def delay_seconds(number: int, retry_after_seconds: float | None, dice: random.Random) -> float:
    """How long to wait after the failed attempt `number`: growing, a fifth more or less by chance, and no less than
    the target asked for."""
    # The exponent is bounded: an operator may allow more attempts than a float has room for.
    planned = min(BACKOFF_MAX_SECONDS, BACKOFF_SECONDS * BACKOFF_FACTOR ** min(number - 1, 32))
    chosen = min(BACKOFF_MAX_SECONDS, planned * dice.uniform(0.8, 1.2))
    return max(chosen, min(retry_after_seconds or 0.0, RETRY_AFTER_MAX_SECONDS))


def parse_retry_after(value: str, now: datetime) -> float | None:
    """Seconds that a `Retry-After` asks for: a number or a date; None for anything else."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - now).total_seconds())
