"""Commands about webhooks: who is told of the ends of jobs and batches."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import screen
from cli.connection import ApiKeyOption, ApiOption, JsonOption, connect
from cli.errors import UsageError

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="The id of a webhook.")]
DEFAULT_EVENTS = ("batch.completed", "batch.failed", "batch.expired", "batch.cancelled")

webhook_app = typer.Typer(no_args_is_help=True, help="URLs that are told when jobs and batches end.")


@webhook_app.command("add")
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to post.")],
    *,
    events: Annotated[
        list[str] | None,
        typer.Option("--event", metavar="TYPE", help="Such as job.failed; may be repeated (every end of a batch)."),
    ] = None,
    batch_lines: Annotated[
        bool, typer.Option("--batch-lines", help="The job events of the lines of batches too.")
    ] = False,
    as_json: JsonOption = False,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Have URL told of ends. Prints the secret that signs what it is told: it is shown this once."""
    with connect(api, api_key) as client:
        wanted = {"url": url, "events": list(events or DEFAULT_EVENTS), "include_batch_lines": batch_lines}
        webhook = client.create_webhook(wanted)
    if as_json:
        screen.print_json(webhook)
        return
    print(webhook["id"])
    print(f"secret: {webhook['secret']}")


@webhook_app.command("list")
def list_webhooks(*, as_json: JsonOption = False, api: ApiOption = None, api_key: ApiKeyOption = None) -> None:
    """List webhooks."""
    with connect(api, api_key) as client:
        page = client.webhooks(limit=100)
    if as_json:
        screen.print_json(page)
    else:
        screen.print_table(screen.webhooks_table(page["data"]))


@webhook_app.command("change")
def change(
    webhook_id: WebhookId,
    *,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Where to post from now on.")] = None,
    events: Annotated[
        list[str] | None,
        typer.Option("--event", metavar="TYPE", help="What to be told of, instead of what it was; may be repeated."),
    ] = None,
    batch_lines: Annotated[
        bool | None, typer.Option("--batch-lines/--no-batch-lines", help="The job events of the lines of batches too.")
    ] = None,
    enabled: Annotated[
        bool | None,
        typer.Option("--enable/--disable", help="Tell it of ends again, also after a 410; or tell it no more for now."),
    ] = None,
    as_json: JsonOption = False,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Enable a webhook, disable it, or change where and of what it is told. Its secret stays."""
    wanted = {"url": url, "events": events or None, "include_batch_lines": batch_lines, "enabled": enabled}
    changes = {name: value for name, value in wanted.items() if value is not None}
    if not changes:
        raise UsageError("Say what to change: --url, --event, --batch-lines, --enable or --disable.")
    with connect(api, api_key) as client:
        webhook = client.change_webhook(webhook_id, changes)
    if as_json:
        screen.print_json(webhook)
    else:
        print(f"{webhook['id']} {'disabled' if webhook['disabled_at'] else 'enabled'}")


@webhook_app.command("remove")
def remove(webhook_id: WebhookId, *, api: ApiOption = None, api_key: ApiKeyOption = None) -> None:
    """Tell a webhook nothing more."""
    with connect(api, api_key) as client:
        client.delete_webhook(webhook_id)
    print(f"{webhook_id} removed")


@webhook_app.command("test")
def send_test(webhook_id: WebhookId, *, api: ApiOption = None, api_key: ApiKeyOption = None) -> None:
    """Send a webhook a test event. How it went is in its deliveries."""
    with connect(api, api_key) as client:
        delivery = client.test_webhook(webhook_id)
    print(f"{delivery['id']} {delivery['status']}: `penstock webhook deliveries {webhook_id}` shows how it went")


@webhook_app.command("deliveries")
def deliveries(
    webhook_id: WebhookId,
    *,
    limit: Annotated[int, typer.Option(min=1, max=100, help="At most so many.")] = 20,
    as_json: JsonOption = False,
    api: ApiOption = None,
    api_key: ApiKeyOption = None,
) -> None:
    """Show what a webhook was told, or could not be told, newest first."""
    with connect(api, api_key) as client:
        page = client.deliveries(webhook_id, limit=limit)
    if as_json:
        screen.print_json(page)
    else:
        screen.print_table(screen.deliveries_table(page["data"]))
