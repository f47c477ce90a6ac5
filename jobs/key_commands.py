"""`python -m jobs.key_commands create|list|revoke|rotate|forget`: what an operator does with API keys.

Works on the database itself, as whoever may read it needs no key. A key is printed once, alone on standard output, so
that it can be piped into a file; all that is said about it goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from jobs.database import migrate, open_engine
from jobs.errors import InvalidRequest, PenstockError
from jobs.keys import USUAL_SCOPES, KeyScope, NewKey, Quota, read_scopes
from jobs.settings import Settings
from jobs.store import Store
from jobs.tables import ApiKey
from jobs.windows import window_seconds

LIMITS = ("requests_per_minute", "queued_tokens", "open_batches", "batch_lines")
DEFAULT_GRACE = "1d"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when it was done, 1 with one line on standard error when it could not be."""
    chosen = _parser().parse_args(arguments)
    settings = Settings()
    try:
        if not settings.database_url:
            migrate(settings.resolved_database_url)  # the embedded database: nobody else prepares it
        store = Store(open_engine(settings.resolved_database_url), settings=settings)
        chosen.run(store, chosen)
    except PenstockError as error:
        _tell(f"penstock: {error}")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="penstock keys", description="API keys.")
    commands = parser.add_subparsers(required=True)
    create = commands.add_parser("create", help="make a key, and print it: it is shown this once")
    create.add_argument("name", help="what it is for, for whoever reads the list")
    create.add_argument("--owner", help="whose objects it makes and sees (an owner of its own)")
    create.add_argument("--scope", action="append", dest="scopes", help=f"of {', '.join(KeyScope)}; may be repeated")
    create.add_argument("--expires", help="after a number and a unit, such as 90d (never)")
    for name in LIMITS:
        create.add_argument(f"--{name.replace('_', '-')}", type=int, help="a limit of this key")
    create.set_defaults(run=_create)
    listing = commands.add_parser("list", help="every key, without its secret")
    listing.set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="end a key now")
    revoke.set_defaults(run=_revoke)
    rotate = commands.add_parser("rotate", help="make a key like an old one, which ends a while later")
    rotate.add_argument("--grace", default=DEFAULT_GRACE, help=f"how long the old one goes on ({DEFAULT_GRACE}); 0: no")
    rotate.set_defaults(run=_rotate)
    forget = commands.add_parser("forget", help="delete the row of a key that has ended")
    forget.set_defaults(run=_forget)
    for command in (revoke, rotate, forget):
        command.add_argument("id", help="a key's id, or how it begins (psk_ and twelve digits)")
    for command in (create, listing, rotate):
        command.add_argument("--json", action="store_true", dest="as_json")
    return parser


def _create(store: Store, chosen: argparse.Namespace) -> None:
    new = NewKey(
        chosen.name,
        chosen.owner,
        read_scopes(chosen.scopes) if chosen.scopes else USUAL_SCOPES,
        None if chosen.expires is None else _seconds(chosen.expires, "expires"),
        chosen.requests_per_minute,
        Quota(chosen.queued_tokens, chosen.open_batches, chosen.batch_lines),
    )
    _show_new(*store.create_key(new), as_json=chosen.as_json)


def _show_new(key: ApiKey, secret: str, *, as_json: bool) -> None:
    if as_json:
        _print(json.dumps({**_as_json(key), "key": secret}))
        return
    _tell(f"{key.id} for the owner {key.owner}; {_ends(key)}. The key itself is shown this once:")
    _print(secret)


def _list(store: Store, chosen: argparse.Namespace) -> None:
    keys = store.list_keys()
    if chosen.as_json:
        _print(json.dumps([_as_json(key) for key in keys]))
        return
    now = datetime.now(UTC)
    rows = [("KEY", "NAME", "OWNER", "SCOPES", "LIMITS", "STATE")]
    rows += [(key.hint, key.name, key.owner, ",".join(key.scopes), _limits(key), _state(key, now)) for key in keys]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        _print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if store.settings.api_keys:
        _tell(f"{len(store.settings.api_keys)} more in PENSTOCK_API_KEYS")


def _revoke(store: Store, chosen: argparse.Namespace) -> None:
    key = store.revoke_key(chosen.id)
    seconds = store.settings.key_cache_seconds
    _tell(f"{key.hint} ({key.name}) is revoked; a running API takes it for {seconds:g} s more at most.")


def _rotate(store: Store, chosen: argparse.Namespace) -> None:
    grace = 0.0 if chosen.grace == "0" else _seconds(chosen.grace, "grace")
    _show_new(*store.rotate_key(chosen.id, grace), as_json=chosen.as_json)


def _forget(store: Store, chosen: argparse.Namespace) -> None:
    store.forget_key(chosen.id)
    _tell(f"{chosen.id} is forgotten.")


def _seconds(text: str, param: str) -> float:
    try:
        return window_seconds(text)
    except InvalidRequest:
        message = f"{param}: a positive number and a unit (s, m, h or d), such as 90d."
        raise InvalidRequest(message, param=param) from None


def _as_json(key: ApiKey) -> dict[str, Any]:
    """All but the hash."""
    instants = {name: getattr(key, name) for name in ("created_at", "expires_at", "revoked_at")}
    return {
        "id": key.id,
        "hint": key.hint,
        "name": key.name,
        "owner": key.owner,
        "scopes": list(key.scopes),
        "limits": {name: getattr(key, name) for name in LIMITS},
        **{name: None if instant is None else instant.isoformat() for name, instant in instants.items()},
    }


def _limits(key: ApiKey) -> str:
    set_here = {name: getattr(key, name) for name in LIMITS if getattr(key, name) is not None}
    return " ".join(f"{name}={limit}" for name, limit in set_here.items()) or "–"


def _state(key: ApiKey, now: datetime) -> str:
    if key.revoked_at is not None:
        return f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
    if key.expires_at is not None and key.expires_at <= now:
        return f"expired {key.expires_at:%Y-%m-%d %H:%M}"
    return _ends(key)


def _ends(key: ApiKey) -> str:
    return "never expires" if key.expires_at is None else f"until {key.expires_at:%Y-%m-%d %H:%M} UTC"


def _print(line: str) -> None:
    print(line)  # noqa: T201


def _tell(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
