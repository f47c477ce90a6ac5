"""/v1/webhooks: where to be told of ends, and how the telling went."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api.body import fingerprint, parse_object, read_body
from api.checking import validated
from api.hook_wire import (
    DeletedWebhook,
    DeliveryObject,
    DeliveryPage,
    NewWebhookObject,
    WebhookChanges,
    WebhookObject,
    WebhookPage,
    WebhookRequest,
    delivery_object,
    new_webhook_object,
    page_fields,
    webhook_object,
)
from api.idempotency import Calling, note_replay
from api.keys import Maker, Owner
from api.reading import check_id, cursor_of
from api.routes import refusals
from api.routes.jobs import body_after_key
from api.services import Services, services
from jobs.targets import check_url
from jobs.webhooks import NewWebhook, WebhookChange

router = APIRouter(tags=["webhooks"])

Parts = Annotated[Services, Depends(services)]

_CREATE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": WebhookRequest.model_json_schema(),
                "example": {"url": "https://example.com/hooks/penstock", "events": ["batch.completed", "batch.failed"]},
            }
        },
    }
}
_CHANGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": WebhookChanges.model_json_schema(), "example": {"enabled": True}},
        },
    }
}


class PageQuery(BaseModel):
    """Which page."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=100, description="At most so many.")] = 20
    after: str | None = Field(default=None, description="Id of the last one of the page before.")


Page = Annotated[PageQuery, Query()]


@router.post(
    "/v1/webhooks",
    status_code=201,
    response_model=NewWebhookObject,
    summary="Make a webhook",
    responses=refusals(400, 401, 404, 409, 413, 415, 503),
    openapi_extra=_CREATE_BODY,
)
def create(
    parts: Parts,
    maker: Maker,
    caller: Calling,
    raw: Annotated[bytes, Depends(body_after_key)],
    response: Response,
) -> NewWebhookObject:
    """Each event is a POST of `{"type", "timestamp", "data"}`, signed as Standard Webhooks says (`webhook-id`,
    `webhook-timestamp`, `webhook-signature`) with the `secret` of this answer. Any 2xx takes it; other answers and
    failures are tried again, further and further apart for about a day, under the same `webhook-id`. 410 disables the
    webhook, until its owner enables it again.

    `job.*` events are of single jobs; those of the lines of batches come only with `include_batch_lines`.
    """
    body = parse_object(raw)
    request = validated(WebhookRequest, body)
    check_url(request.url, allow_private=parts.settings.webhook_allow_private)
    row, replayed = parts.store.create_webhook(
        NewWebhook(request.url, request.events, request.include_batch_lines, request.description),
        maker.owner,
        **caller.terms(fingerprint(body)),
    )
    note_replay(response, replayed)
    return new_webhook_object(row)


@router.get("/v1/webhooks", response_model=WebhookPage, summary="List webhooks", responses=refusals(400, 401, 503))
def list_webhooks(parts: Parts, owner: Owner, query: Page) -> WebhookPage:
    """Newest first, without their secrets."""
    with cursor_of("webhook", query.after) as after:
        rows, has_more = parts.store.list_webhooks(owner, query.limit, after)
    return WebhookPage(**page_fields([webhook_object(row) for row in rows], has_more=has_more))


@router.get(
    "/v1/webhooks/{webhook_id}",
    response_model=WebhookObject,
    summary="Read a webhook",
    responses=refusals(401, 404, 503),
)
def read(parts: Parts, owner: Owner, webhook_id: str) -> WebhookObject:
    return webhook_object(parts.store.get_webhook(check_id("webhook", webhook_id), owner))


@router.post(
    "/v1/webhooks/{webhook_id}",
    response_model=WebhookObject,
    summary="Change a webhook",
    responses=refusals(400, 401, 404, 413, 415, 503),
    openapi_extra=_CHANGE_BODY,
)
def change(parts: Parts, owner: Owner, webhook_id: str, raw: Annotated[bytes, Depends(read_body)]) -> WebhookObject:
    """Enable or disable it, or give it another URL or other events; its secret stays. Of what ended while it was
    disabled nothing was written for it. Deliveries that were given up stay in its history, and can be sent again one
    by one."""
    check_id("webhook", webhook_id)
    request = validated(WebhookChanges, parse_object(raw))
    parts.store.get_webhook(webhook_id, owner)  # before a name is looked up for somebody whose it is not
    if request.url is not None:
        check_url(request.url, allow_private=parts.settings.webhook_allow_private)
    return webhook_object(parts.store.change_webhook(webhook_id, WebhookChange(**dict(request)), owner))


@router.delete(
    "/v1/webhooks/{webhook_id}",
    response_model=DeletedWebhook,
    summary="Delete a webhook",
    responses=refusals(401, 404, 503),
)
def delete(parts: Parts, owner: Owner, webhook_id: str) -> DeletedWebhook:
    """What waits for it is given up. A delivery that is under way may still arrive."""
    parts.store.delete_webhook(check_id("webhook", webhook_id), owner)
    return DeletedWebhook(id=webhook_id)


@router.post(
    "/v1/webhooks/{webhook_id}/test",
    status_code=202,
    response_model=DeliveryObject,
    summary="Send a test event",
    responses=refusals(400, 401, 404, 503),
)
def test(parts: Parts, owner: Owner, webhook_id: str) -> DeliveryObject:
    """Send the event `webhook.test`. How it went: read the delivery that is answered."""
    return delivery_object(parts.store.test_webhook(check_id("webhook", webhook_id), owner))


@router.get(
    "/v1/webhooks/{webhook_id}/deliveries",
    response_model=DeliveryPage,
    summary="List a webhook's deliveries",
    responses=refusals(400, 401, 404, 503),
)
def deliveries(parts: Parts, owner: Owner, webhook_id: str, query: Page) -> DeliveryPage:
    """Newest first, each with all its attempts. They are kept for 30 days."""
    webhook = parts.store.get_webhook(check_id("webhook", webhook_id), owner)
    with cursor_of("delivery", query.after) as after:
        rows, has_more = parts.store.deliveries(webhook.id, owner, query.limit, after)
    return DeliveryPage(**page_fields([delivery_object(row) for row in rows], has_more=has_more))


@router.get(
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}",
    response_model=DeliveryObject,
    summary="Read a delivery",
    responses=refusals(401, 404, 503),
)
def read_delivery(parts: Parts, owner: Owner, webhook_id: str, delivery_id: str) -> DeliveryObject:
    ids = check_id("webhook", webhook_id), check_id("delivery", delivery_id)
    return delivery_object(parts.store.delivery(*ids, owner))


@router.post(
    "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/retry",
    status_code=202,
    response_model=DeliveryObject,
    summary="Send a delivery again",
    responses=refusals(400, 401, 404, 503),
)
def retry(parts: Parts, owner: Owner, webhook_id: str, delivery_id: str) -> DeliveryObject:
    """Try it at once, whether it was taken, given up or waits. One that is being tried just now goes on as it is."""
    ids = check_id("webhook", webhook_id), check_id("delivery", delivery_id)
    return delivery_object(parts.store.retry_delivery(*ids, owner))
