"""webhook add, list, change, test, deliveries and remove, over real HTTP."""

from __future__ import annotations

import json
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


def test_a_webhook_is_disabled_enabled_and_changed(penstock: Penstock, server: FakeAPI) -> None:
    penstock("webhook", "add", URL, "--batch-lines")
    assert penstock("webhook", "change", "webhook_0", "--disable").out == "webhook_0 disabled\n"
    assert "(disabled)" in penstock("webhook", "list").out
    words = ("--enable", "--url", f"{URL}/2", "--event", "job.failed", "--no-batch-lines")
    assert penstock("webhook", "change", "webhook_0", *words).out == "webhook_0 enabled\n"
    assert server.webhooks["webhook_0"] == {
        "id": "webhook_0",
        "secret": "whsec_x",
        "disabled_at": None,
        "url": f"{URL}/2",
        "events": ["job.failed"],
        "include_batch_lines": False,
    }
    shown = json.loads(penstock("webhook", "change", "webhook_0", "--json", "--event", "job.expired").out)
    assert shown["events"] == ["job.expired"]


def test_a_change_of_nothing_is_refused_before_it_is_sent(penstock: Penstock, server: FakeAPI) -> None:
    refused = penstock("webhook", "change", "webhook_0")
    assert (refused.status, server.seen) == (2, [])
    assert "--enable" in refused.err
