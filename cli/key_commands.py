"""Commands about API keys. They work on the database, so they are run where it can be reached."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.connection import JsonOption
from cli.errors import UsageError
from cli.roles import become

keys_app = typer.Typer(no_args_is_help=True, help="API keys: who may call, what they may do, and how much.")

KeyId = Annotated[str, typer.Argument(metavar="ID", help="A key's id, or how it begins (psk_…, as the list has it).")]


@keys_app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    *,
    owner: Annotated[
        str | None, typer.Option(help="Whose objects it makes and sees; keys may share one [an owner of its own].")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="jobs:read, jobs:write, metrics or admin; may be repeated [jobs:read and jobs:write]."),
    ] = None,
    expires: Annotated[str | None, typer.Option(metavar="TIME", help="Such as 90d or 12h [never].")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Requests a minute.")] = None,
    queued_tokens: Annotated[
        int | None, typer.Option(min=1, help="Prompt tokens and max_tokens that are queued or running.")
    ] = None,
    open_batches: Annotated[int | None, typer.Option(min=1, help="Batches at a time.")] = None,
    batch_lines: Annotated[int | None, typer.Option(min=1, help="Lines of one batch.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it: it is shown this once."""
    options = {
        "--owner": owner,
        "--expires": expires,
        "--requests-per-minute": requests_per_minute,
        "--queued-tokens": queued_tokens,
        "--open-batches": open_batches,
        "--batch-lines": batch_lines,
    }
    words = [f"{option}={value}" for option, value in options.items() if value is not None]
    words += [f"--scope={one}" for one in scope or ()]
    become("keys", "create", *words, *_json(as_json), "--", name)


@keys_app.command("list")
def list_keys(*, as_json: JsonOption = False) -> None:
    """List every key without its secret: owners, scopes, limits, and which have ended."""
    become("keys", "list", *_json(as_json))


@keys_app.command("revoke")
def revoke(key_id: KeyId) -> None:
    """End a key now. A running API notices within seconds."""
    become("keys", "revoke", _checked(key_id))


@keys_app.command("rotate")
def rotate(
    key_id: KeyId,
    *,
    grace: Annotated[str, typer.Option(metavar="TIME", help="How long the old key goes on; 0 ends it now.")] = "1d",
    as_json: JsonOption = False,
) -> None:
    """Make a key like this one, for the same owner, and print it; this one ends after a while."""
    become("keys", "rotate", f"--grace={grace}", *_json(as_json), _checked(key_id))


@keys_app.command("forget")
def forget(key_id: KeyId) -> None:
    """Delete what is kept of a key that has ended."""
    become("keys", "forget", _checked(key_id))


def _checked(key_id: str) -> str:
    if key_id.startswith("-"):
        raise UsageError("ID: the id of a key.")
    return key_id


def _json(as_json: bool) -> list[str]:
    return ["--json"] if as_json else []
