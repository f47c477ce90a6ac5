"""webhook add, list, test, deliveries and remove, over real HTTP."""

from __future__ import annotations

from collections.abc import Callable

from tests.cli.conftest import Said
from tests.support.fake_api import FakeAPI

Penstock = Callable[..., Said]
URL = "https://example.com/hook"


def test_a_webhook_is_added_with_its_secret_shown_once(penstock: Penstock, server: FakeAPI) -> None:
    assert penstock("webhook", "add", URL).out == "webhook_0\nsecret: whsec_x\n"
    penstock("webhook", "add", URL, "--event", "job.failed", "--batch-lines")
    assert [(hook["events"][0], hook["include_batch_lines"]) for hook in server.webhooks.values()] == [
        ("batch.completed", False),
        ("job.failed", True),
    ]


def test_webhooks_are_listed_tested_and_removed(penstock: Penstock) -> None:
    penstock("webhook", "add", URL)
    assert URL in penstock("webhook", "list").out
    assert "delivery_0 pending" in penstock("webhook", "test", "webhook_0").out
    assert "pending (http_status 503)" in penstock("webhook", "deliveries", "webhook_0").out
    assert penstock("webhook", "remove", "webhook_0").out == "webhook_0 removed\n"
