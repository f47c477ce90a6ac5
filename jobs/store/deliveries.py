"""Trying deliveries: which are due, whose attempt it is, and what became of it.

A claim moves `next_attempt_at` to when the claimant counts as dead and begins an attempt (`num_attempts` is one ahead
of `history` from then on); what is noted of an attempt is fenced by its number. So two couriers never make the same
attempt, and a late one changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from jobs.store import webhooks
from jobs.store.counts import Deed
from jobs.store.outbox import LISTENING
from jobs.store.scope import AnyRow, Scope
from jobs.tables import Delivery, Webhook
from jobs.webhooks import DueDelivery, Tried, delay_seconds

CLAIM_MARGIN_SECONDS = 30.0
"""A claim outlives the time that an attempt may take by so much: time to note what became of it."""
MAX_PER_WEBHOOK = 4
"""Attempts at one target at a time: one that is slow leaves room for the others."""

_WAITING = sa.text("deliveries.next_attempt_at IS NOT NULL")
_INTERRUPTED = "interrupted"


def any_work(scope: Scope) -> bool:
    """Whether `claim_due` would find anything. Reads only: most rounds end here."""
    return bool(_with_due(scope) or _ended_with_waiting(scope))


def claim_due(scope: Scope, limit: int, busy: Mapping[str, int]) -> list[DueDelivery]:
    """Claim up to `limit` due deliveries. `busy`: attempts that the caller has running, by webhook.

    Gives up, by the way, a chunk of what waits for webhooks that have ended.
    """
    for webhook_id in _ended_with_waiting(scope):
        webhooks.give_up_waiting(scope, webhook_id)
    claimed: list[DueDelivery] = []
    hooks = list(_with_due(scope))
    scope.random.shuffle(hooks)  # Each has the same chance while there are more than room.
    for webhook in hooks:
        room = min(limit - len(claimed), MAX_PER_WEBHOOK - busy.get(webhook.id, 0))
        if room > 0:
            claimed += _claim_of(scope, webhook, room)
    return claimed


_DUE = (
    sa.exists()
    .where(Delivery.webhook_id == Webhook.id, _WAITING)
    .where(Delivery.next_attempt_at <= sa.bindparam("now", type_=Delivery.next_attempt_at.type))
)
_WITH_DUE = sa.select(Webhook.id, Webhook.url, Webhook.secret).where(LISTENING, _DUE)
_ENDED_WITH_WAITING = (
    sa.select(Webhook.id)
    .where(
        sa.or_(Webhook.deleted_at.is_not(None), Webhook.disabled_at.is_not(None)),
        sa.exists().where(Delivery.webhook_id == Webhook.id, _WAITING),
    )
    .limit(1)
)


def _with_due(scope: Scope) -> Sequence[AnyRow]:
    return scope.connection.execute(_WITH_DUE, {"now": scope.now}).all()


def _ended_with_waiting(scope: Scope) -> Sequence[str]:
    return scope.connection.scalars(_ENDED_WITH_WAITING).all()


def _claim_of(scope: Scope, webhook: AnyRow, room: int) -> Iterator[DueDelivery]:
    query = (
        sa.select(
            Delivery.id,
            Delivery.event_type,
            Delivery.created_at,
            Delivery.data,
            Delivery.num_attempts,
            Delivery.history,
        )
        .where(Delivery.webhook_id == webhook.id, _WAITING, Delivery.next_attempt_at <= scope.now)
        .order_by(Delivery.next_attempt_at)
        .limit(room)
        .with_for_update(skip_locked=True)
    )
    for row in scope.connection.execute(query).all():
        history = _with_interrupted(scope, row)
        spent = len(history) > len(row.history) and row.num_attempts >= scope.settings.webhook_max_attempts
        _update(scope, row.id, history=history, **_after_claim(scope, row.num_attempts, spent=spent))
        if not spent:
            yield DueDelivery(
                id=row.id,
                number=row.num_attempts + 1,
                webhook_id=webhook.id,
                url=webhook.url,
                secret=webhook.secret,
                event_type=row.event_type,
                created_at=row.created_at,
                data=row.data,
            )


def _with_interrupted(scope: Scope, row: AnyRow) -> list[dict[str, Any]]:
    """The history; with an entry for an attempt of which nothing was ever heard, whose courier must have died."""
    if row.num_attempts == len(row.history):
        return list(row.history)
    return [*row.history, _entry(scope.now, Tried(status=None, error=_INTERRUPTED, seconds=0.0))]


def _after_claim(scope: Scope, num_attempts: int, *, spent: bool) -> dict[str, Any]:
    if spent:
        return {"next_attempt_at": None}
    hold = scope.settings.webhook_timeout_seconds + CLAIM_MARGIN_SECONDS
    return {"num_attempts": num_attempts + 1, "next_attempt_at": scope.now + timedelta(seconds=hold)}


def note(scope: Scope, due: DueDelivery, tried: Tried) -> datetime | None:
    """Note how the attempt `due.number` went; answer when the next one is due, if there will be one.

    Lock order: webhook, delivery.

    That the target is gone is news of the webhook as it is, unless it has another URL by now, or was disabled (and
    perhaps enabled again) while the attempt ran, which has given the attempt up.
    """
    gone = tried.gone and _locked_url(scope, due.webhook_id) == due.url
    columns = sa.select(Delivery.webhook_id, Delivery.num_attempts, Delivery.history, Delivery.next_attempt_at)
    row = scope.connection.execute(columns.where(Delivery.id == due.id).with_for_update()).one_or_none()
    if row is None or row.num_attempts != due.number or len(row.history) >= due.number:
        return None
    if gone and row.next_attempt_at is not None:
        webhooks.disable(scope, due.webhook_id)
    next_attempt_at = _next(scope, row, tried)
    scope.counts[Deed.DELIVERY_TRIED, _how(tried, next_attempt_at)] += 1
    values = {"history": [*row.history, _entry(scope.now, tried)], "next_attempt_at": next_attempt_at}
    _update(scope, due.id, **values, **({"delivered_at": scope.now} if tried.taken else {}))
    return next_attempt_at


def _locked_url(scope: Scope, webhook_id: str) -> str | None:
    return scope.connection.scalar(sa.select(Webhook.url).where(Webhook.id == webhook_id).with_for_update())


def _next(scope: Scope, row: AnyRow, tried: Tried) -> datetime | None:
    if tried.taken or row.num_attempts >= scope.settings.webhook_max_attempts:
        return None
    listening = sa.select(Webhook.id).where(Webhook.id == row.webhook_id, LISTENING)
    if scope.connection.scalar(listening) is None:
        return None  # Deleted or disabled while this attempt ran.
    return scope.now + timedelta(seconds=delay_seconds(row.num_attempts, tried.retry_after_seconds, scope.random))


def _how(tried: Tried, next_attempt_at: datetime | None) -> str:
    if tried.taken:
        return "taken"
    return "given_up" if next_attempt_at is None else "failed"


def _entry(now: datetime, tried: Tried) -> dict[str, Any]:
    return {"at": now.isoformat(), "status": tried.status, "error": tried.error, "seconds": tried.seconds}


def _update(scope: Scope, delivery_id: str, **values: Any) -> None:
    scope.connection.execute(sa.update(Delivery).where(Delivery.id == delivery_id).values(**values))
