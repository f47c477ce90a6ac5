"""The JSON of webhooks and their deliveries, as types, and the rows made into them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from jobs.tables import Delivery, Webhook
from jobs.targets import MAX_URL_CHARACTERS
from jobs.webhooks import EVENTS

Event = Literal[
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "job.expired",
]
MAX_DESCRIPTION = 512


class WebhookRequest(BaseModel):
    """Where to send what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[StrictStr, Field(min_length=1, max_length=MAX_URL_CHARACTERS)] = Field(
        description="http or https, without user name, password and fragment. Not a private or loopback address, "
        "unless the operator allows it."
    )
    events: Annotated[tuple[Event, ...], Field(min_length=1, max_length=len(EVENTS))]
    include_batch_lines: StrictBool = Field(
        default=False, description="Send `job.*` events of the lines of batches too: as many as there are lines."
    )
    description: Annotated[StrictStr, Field(max_length=MAX_DESCRIPTION)] = ""


class WebhookChanges(BaseModel):
    """What is to be another way. What is left out, or null, stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[StrictStr, Field(min_length=1, max_length=MAX_URL_CHARACTERS)] | None = Field(
        default=None, description="As at its making. What waits is sent there too."
    )
    events: Annotated[tuple[Event, ...], Field(min_length=1, max_length=len(EVENTS))] | None = Field(
        default=None, description="All that it is to be told of, instead of what it was."
    )
    include_batch_lines: StrictBool | None = None
    description: Annotated[StrictStr, Field(max_length=MAX_DESCRIPTION)] | None = None
    enabled: StrictBool | None = Field(
        default=None,
        description="`true` ends a disabling, its target's (410) too; `false` disables it, and gives up what waits.",
    )


class WebhookObject(BaseModel):
    """A webhook. `disabled_at`: when its target answered 410 (gone), or its owner disabled it; nothing is sent
    since."""

    id: str
    object: Literal["webhook"] = "webhook"
    url: str
    events: list[str]
    include_batch_lines: bool
    description: str
    created_at: datetime
    disabled_at: datetime | None


class NewWebhookObject(WebhookObject):
    secret: str = Field(description="Verifies deliveries, as Standard Webhooks says. Shown this once.")


class DeletedWebhook(BaseModel):
    id: str
    object: Literal["webhook"] = "webhook"
    deleted: Literal[True] = True


class DeliveryAttempt(BaseModel):
    """One try. `status`: of the reply, if there was one. `error`: null when it was taken."""

    at: datetime
    status: int | None
    error: str | None = Field(
        description="`http_status`, `redirect` (never followed), `timeout`, `connection_failed`, `tls_failed`, "
        "`invalid_reply`, `name_not_resolved`, `address_not_allowed`, `interrupted`, …"
    )
    seconds: float


class DeliveryObject(BaseModel):
    """One event for one webhook. Its id is the message's `webhook-id`, the same in every attempt."""

    id: str
    object: Literal["webhook.delivery"] = "webhook.delivery"
    webhook_id: str
    type: str
    object_id: str = Field(description="The job or batch that it is about.")
    status: Literal["pending", "delivered", "failed"]
    created_at: datetime
    delivered_at: datetime | None
    next_attempt_at: datetime | None
    attempts: list[DeliveryAttempt]


class WebhookPage(BaseModel):
    """Newest first. For the next page: `?after=` its `last_id`."""

    object: Literal["list"] = "list"
    data: list[WebhookObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeliveryPage(BaseModel):
    """Newest first. For the next page: `?after=` its `last_id`."""

    object: Literal["list"] = "list"
    data: list[DeliveryObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def _fields(row: Webhook) -> dict[str, Any]:
    names = WebhookObject.model_fields.keys() - {"object"}
    return {name: getattr(row, name) for name in names}


def webhook_object(row: Webhook) -> WebhookObject:
    return WebhookObject(**_fields(row))


def new_webhook_object(row: Webhook) -> NewWebhookObject:
    return NewWebhookObject(**_fields(row), secret=row.secret)


def delivery_object(row: Delivery) -> DeliveryObject:
    return DeliveryObject(
        id=row.id,
        webhook_id=row.webhook_id,
        type=row.event_type,
        object_id=row.object_id,
        status="pending" if row.next_attempt_at else "delivered" if row.delivered_at else "failed",
        created_at=row.created_at,
        delivered_at=row.delivered_at,
        next_attempt_at=row.next_attempt_at,
        attempts=[DeliveryAttempt(**entry) for entry in row.history],
    )


class _HasId(Protocol):
    id: str


Item = TypeVar("Item", bound=_HasId)


def page_fields(data: Sequence[Item], *, has_more: bool) -> dict[str, Any]:
    """The fields that every page has."""
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return {"data": list(data), "first_id": first, "last_id": last, "has_more": has_more}
