"""Webhooks as their owner sees them: made, listed, changed, deleted; their deliveries read, tested, sent once more.

Knows nothing of how a delivery is made by an end (`outbox`) or tried (`deliveries`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from jobs.errors import InvalidRequest, NotFound
from jobs.ids import new_id
from jobs.store import idempotency, outbox, reading
from jobs.store.idempotency import Call
from jobs.store.scope import Scope
from jobs.tables import Delivery, Webhook
from jobs.webhooks import MAX_TRIES, MAX_WEBHOOKS, NewWebhook, WebhookChange, new_secret

CHUNK = 1000
"""Waiting deliveries that one transaction gives up: other writers get their turn between two."""


def create(scope: Scope, new: NewWebhook, *, owner: str, call: Call) -> tuple[Webhook, bool]:
    """Write a webhook, or find the one that the call has made before. See `Store.create_webhook`."""
    webhook_id = new_id("webhook")
    made = idempotency.earlier(scope, idempotency.WEBHOOKS, owner, call, [webhook_id])
    if made is not None:
        return get(scope, made[0], owner), True
    _refuse_too_many(scope, owner)
    row = {
        "id": webhook_id,
        "owner": owner,
        "url": new.url,
        "events": list(dict.fromkeys(new.events)),
        "include_batch_lines": new.include_batch_lines,
        "description": new.description,
        "secret": new_secret(),
        "created_at": scope.now,
    }
    scope.connection.execute(sa.insert(Webhook), [row])
    return get(scope, webhook_id, owner), False


def _refuse_too_many(scope: Scope, owner: str) -> None:
    query = sa.select(sa.func.count()).select_from(Webhook).where(Webhook.owner == owner, Webhook.deleted_at.is_(None))
    if (scope.connection.scalar(query) or 0) >= MAX_WEBHOOKS:
        raise InvalidRequest(
            f"There are {MAX_WEBHOOKS} webhooks already, which is the limit.", code="too_many_webhooks"
        )


def get(scope: Scope, webhook_id: str, owner: str | None) -> Webhook:
    found = reading.rows(scope, sa.select(Webhook).where(Webhook.id == webhook_id, Webhook.deleted_at.is_(None)))
    if not found or owner not in {None, found[0].owner}:
        raise NotFound("webhook", webhook_id)
    return found[0]


def page(scope: Scope, owner: str | None, limit: int, after: str | None) -> tuple[Sequence[Webhook], bool]:
    query = sa.select(Webhook).where(Webhook.deleted_at.is_(None))
    if owner is not None:
        query = query.where(Webhook.owner == owner)
    if after is not None:
        query = query.where(Webhook.id < get(scope, after, owner).id)
    found = reading.rows(scope, query.order_by(Webhook.id.desc()).limit(limit + 1))
    return found[:limit], len(found) > limit


def change(scope: Scope, webhook_id: str, wanted: WebhookChange, owner: str | None) -> Webhook:
    """Change what is named. What was given up while it was disabled stays so; what still waits goes on, to the URL that
    holds then."""
    get(scope, webhook_id, owner)
    values: dict[str, Any] = {
        "url": wanted.url,
        "events": None if wanted.events is None else list(dict.fromkeys(wanted.events)),
        "include_batch_lines": wanted.include_batch_lines,
        "description": wanted.description,
    }
    values = {name: value for name, value in values.items() if value is not None}
    if wanted.enabled:
        values["disabled_at"] = None
    if values:
        scope.connection.execute(sa.update(Webhook).where(Webhook.id == webhook_id).values(**values))
    if wanted.enabled is False:
        disable(scope, webhook_id)
    return get(scope, webhook_id, owner)


def delete(scope: Scope, webhook_id: str, owner: str | None) -> None:
    """End it, and what waits for it. Its row stays, without the secret: deliveries point to it."""
    get(scope, webhook_id, owner)
    scope.connection.execute(sa.update(Webhook).where(Webhook.id == webhook_id).values(deleted_at=scope.now, secret=""))
    give_up_waiting(scope, webhook_id)


def disable(scope: Scope, webhook_id: str) -> None:
    """Its target is gone, or its owner wants it: nothing more is made for it or tried."""
    scope.connection.execute(
        sa.update(Webhook).where(Webhook.id == webhook_id, Webhook.disabled_at.is_(None)).values(disabled_at=scope.now)
    )
    give_up_waiting(scope, webhook_id)


def give_up_waiting(scope: Scope, webhook_id: str) -> None:
    """Give up a chunk of what waits for an ended webhook; the courier's rounds see to the rest."""
    waiting = sa.select(Delivery.id).where(Delivery.webhook_id == webhook_id, Delivery.next_attempt_at.is_not(None))
    ids = scope.connection.scalars(waiting.order_by(Delivery.id).limit(CHUNK).with_for_update()).all()
    scope.connection.execute(sa.update(Delivery).where(Delivery.id.in_(ids)).values(next_attempt_at=None))


def send_test(scope: Scope, webhook_id: str, owner: str | None) -> Delivery:
    _refuse_disabled(get(scope, webhook_id, owner))
    return _delivery(scope, webhook_id, outbox.add_test(scope, webhook_id))


def deliveries(
    scope: Scope, webhook_id: str, owner: str | None, limit: int, after: str | None
) -> tuple[Sequence[Delivery], bool]:
    """A page, newest first."""
    get(scope, webhook_id, owner)
    query = sa.select(Delivery).where(Delivery.webhook_id == webhook_id)
    if after is not None:
        query = query.where(Delivery.id < _delivery(scope, webhook_id, after).id)
    found = reading.rows(scope, query.order_by(Delivery.id.desc()).limit(limit + 1))
    return found[:limit], len(found) > limit


def delivery(scope: Scope, webhook_id: str, delivery_id: str, owner: str | None) -> Delivery:
    get(scope, webhook_id, owner)
    return _delivery(scope, webhook_id, delivery_id)


def _delivery(scope: Scope, webhook_id: str, delivery_id: str) -> Delivery:
    query = sa.select(Delivery).where(Delivery.id == delivery_id, Delivery.webhook_id == webhook_id)
    found = reading.rows(scope, query)
    if not found:
        raise NotFound("delivery", delivery_id)
    return found[0]


def retry(scope: Scope, webhook_id: str, delivery_id: str, owner: str | None) -> Delivery:
    """Have it tried at once, be it taken, given up or waiting. One that is being tried just now is left to that, unless
    it was given up meanwhile: nobody would come back to it."""
    _refuse_disabled(get(scope, webhook_id, owner))
    query = sa.select(Delivery.id).where(Delivery.id == delivery_id, Delivery.webhook_id == webhook_id)
    scope.connection.execute(query.with_for_update()).all()
    found = _delivery(scope, webhook_id, delivery_id)
    if found.num_attempts >= max(MAX_TRIES, scope.settings.webhook_max_attempts):
        raise InvalidRequest(
            f"This delivery has been tried {found.num_attempts} times, which is the limit.", code="too_many_attempts"
        )
    if found.num_attempts == len(found.history) or found.next_attempt_at is None:
        scope.connection.execute(
            sa.update(Delivery).where(Delivery.id == delivery_id).values(next_attempt_at=scope.now)
        )
    return _delivery(scope, webhook_id, delivery_id)


def _refuse_disabled(webhook: Webhook) -> None:
    if webhook.disabled_at is not None:
        raise InvalidRequest(
            "This webhook is disabled, as when its target answers 410 (gone). Enable it first: 'enabled': true.",
            code="webhook_disabled",
        )
