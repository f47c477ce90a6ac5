"""The store's methods for webhooks and their deliveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from jobs.store import deliveries, webhooks
from jobs.store.door import Door
from jobs.store.idempotency import Call
from jobs.tables import Delivery, Webhook
from jobs.webhooks import DueDelivery, NewWebhook, Tried, WebhookChange


class WebhookDoor(Door):
    """Webhooks and their deliveries. `owner=None` means anybody's; another owner's are NotFound."""

    def create_webhook(
        self,
        new: NewWebhook,
        owner: str = "",
        *,
        idempotency_key: str | None = None,
        body_sha256: str | None = None,
        silent_retry: bool = False,
    ) -> tuple[Webhook, bool]:
        """Make a webhook. True: an earlier call had made it.

        Raises:
            InvalidRequest: the owner has as many as there may be.
            IdempotencyConflict: the key was used with another body.
            NotFound: the webhook that the earlier call made was deleted since.
        """
        call = Call(idempotency_key, body_sha256, silent_retry)
        with self._writing() as scope:
            return webhooks.create(scope, new, owner=owner, call=call)

    def get_webhook(self, webhook_id: str, owner: str | None = None) -> Webhook:
        """Raises NotFound, for a deleted one too."""
        with self._reading() as scope:
            return webhooks.get(scope, webhook_id, owner)

    def list_webhooks(
        self, owner: str | None = None, limit: int = 20, after: str | None = None
    ) -> tuple[Sequence[Webhook], bool]:
        """A page, newest first, and whether more follow. Raises NotFound for a cursor that names none."""
        with self._reading() as scope:
            return webhooks.page(scope, owner, limit, after)

    def change_webhook(self, webhook_id: str, change: WebhookChange, owner: str | None = None) -> Webhook:
        """Change what the change names; disabling gives up what waits. Raises NotFound."""
        with self._writing() as scope:
            return webhooks.change(scope, webhook_id, change, owner)

    def delete_webhook(self, webhook_id: str, owner: str | None = None) -> None:
        """Make no more deliveries, and give up those that wait. Raises NotFound."""
        with self._writing() as scope:
            webhooks.delete(scope, webhook_id, owner)

    def test_webhook(self, webhook_id: str, owner: str | None = None) -> Delivery:
        """Make a delivery of the event `webhook.test`. Raises NotFound; InvalidRequest for a disabled webhook."""
        with self._writing() as scope:
            return webhooks.send_test(scope, webhook_id, owner)

    def deliveries(
        self, webhook_id: str, owner: str | None = None, limit: int = 20, after: str | None = None
    ) -> tuple[Sequence[Delivery], bool]:
        """A page of a webhook's deliveries, newest first, and whether more follow. Raises NotFound."""
        with self._reading() as scope:
            return webhooks.deliveries(scope, webhook_id, owner, limit, after)

    def delivery(self, webhook_id: str, delivery_id: str, owner: str | None = None) -> Delivery:
        """Raises NotFound."""
        with self._reading() as scope:
            return webhooks.delivery(scope, webhook_id, delivery_id, owner)

    def retry_delivery(self, webhook_id: str, delivery_id: str, owner: str | None = None) -> Delivery:
        """Have a delivery tried once more, at once. Raises NotFound; InvalidRequest for a disabled webhook."""
        with self._writing() as scope:
            return webhooks.retry(scope, webhook_id, delivery_id, owner)

    def due_deliveries(self, limit: int, busy: Mapping[str, int] | None = None) -> list[DueDelivery]:
        """Claim deliveries whose time has come: nobody else gets them while this attempt may run. `busy`: how many
        attempts the caller has running, by webhook."""
        with self._reading() as scope:
            if not deliveries.any_work(scope):
                return []
        # Losing a claim or a note with the power repeats a delivery, which its id makes known: no fsync for either.
        with self._writing(durable=False) as scope:
            return deliveries.claim_due(scope, limit, busy or {})

    def note_delivery(self, due: DueDelivery, tried: Tried) -> datetime | None:
        """Note how an attempt went; when the next one is due, if any. Nothing changes for an attempt that is over."""
        with self._writing(durable=False) as scope:
            return deliveries.note(scope, due, tried)
