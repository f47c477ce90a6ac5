"""Where the server may listen: an address that others can reach needs a key to be there first."""

from __future__ import annotations

from jobs.binding import is_loopback
from jobs.database import open_engine
from jobs.errors import PenstockError
from jobs.settings import Settings
from jobs.store import Store


class UnsafeBinding(Exception):
    """The server would be open to the network with no key asked for."""


def check_binding(settings: Settings) -> None:
    """Raise UnsafeBinding for an address beyond loopback without API keys."""
    if settings.api_keys or is_loopback(settings.host):
        return
    where = f"PENSTOCK_HOST is {settings.host}, which other machines can reach, and no API key"
    remedy = "Make one with `penstock keys create`, set PENSTOCK_API_KEYS, or leave PENSTOCK_HOST at 127.0.0.1."
    try:
        known = _any_key(settings)
    except PenstockError as error:
        raise UnsafeBinding(f"{where} can be looked up. {error} {remedy}") from None
    if not known:
        raise UnsafeBinding(f"{where} is set: anybody could read every job. {remedy}")


def _any_key(settings: Settings) -> bool:
    engine = open_engine(settings.resolved_database_url)
    try:
        return Store(engine, settings=settings).any_key(alive=True)
    finally:
        engine.dispose()
