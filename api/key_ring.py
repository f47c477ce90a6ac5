"""The keys that are known, and who they stand for: the operator's own (`PENSTOCK_API_KEYS`), and those of the database
(`penstock keys create`).

Keys are asked for wherever one is known, ever was one, or somebody else can reach the port.
What the database says of a key is remembered for `key_cache_seconds`: so long a revoked one may still be taken.
Knows no request.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jobs.binding import is_loopback
from jobs.errors import StoreUnavailable
from jobs.keys import UNLIMITED, USUAL_SCOPES, KeyScope, Quota
from jobs.settings import Settings
from jobs.store import Store
from jobs.tables import ApiKey

MAX_REMEMBERED = 10_000
"""Keys whose answer is remembered, those that are none included."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller. `owner` owns what it makes; `key_id` None: nobody asked for a key, so everything is everybody's."""

    key_id: str | None
    owner: str
    scopes: frozenset[KeyScope]
    requests_per_minute: int | None = None
    quota: Quota = UNLIMITED

    @property
    def sees(self) -> str | None:
        """Whose objects are there for it; None: everybody's."""
        return None if self.key_id is None or KeyScope.ADMIN in self.scopes else self.owner

    @property
    def counts(self) -> str | None:
        """Whose jobs it is told the numbers of, where they are not those of an object; None: everybody's."""
        return None if self.key_id is None or self.may(KeyScope.METRICS) else self.owner

    def may(self, scope: KeyScope) -> bool:
        return scope in self.scopes or KeyScope.ADMIN in self.scopes


EVERYBODY = Identity(None, "", frozenset(KeyScope))


def owner_of(key: str) -> str:
    """The owner that stands in the database for one of the operator's keys."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def known_owner(key: str, keys: Iterable[str]) -> str | None:
    """The owner of `key` if it is one of `keys`. Takes the same time whichever it is."""
    given = hashlib.sha256(key.encode()).digest()
    matches = [hmac.compare_digest(given, hashlib.sha256(known.encode()).digest()) for known in keys]
    return owner_of(key) if any(matches) else None


class KeyRing:
    """Answers who a key is, from the settings, the database, or what it heard of late. Any thread may call."""

    def __init__(self, store: Store, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store, self._settings, self._monotonic = store, settings, monotonic
        self._always = bool(settings.api_keys) or not is_loopback(settings.host)
        self._known: OrderedDict[str, tuple[float, Identity | None]] = OrderedDict()
        self._asked_for: tuple[float, bool] | None = None
        self._lock = threading.Lock()

    @property
    def asks(self) -> bool:
        """Whether callers need a key. Through an outage: as it was. Raises StoreUnavailable where nobody knows."""
        if self._always:
            return True
        known = self._asked_for
        if known is None or known[0] <= self._monotonic():
            try:
                known = self._until(), self._store.any_key(alive=False)
            except StoreUnavailable:
                if known is None:
                    raise
            self._asked_for = known
        return known[1]

    def identify(self, key: str) -> Identity | None:
        """The caller with this key, if it is one. Raises StoreUnavailable."""
        owner = known_owner(key, self._settings.api_keys)
        if owner is not None:
            scopes = frozenset(USUAL_SCOPES)
            return Identity(owner, owner, scopes, self._settings.key_requests_per_minute, self._usual_quota())
        name = hashlib.sha256(key.encode()).hexdigest()  # no key stays in memory for longer than its request
        with self._lock:
            known = self._known.get(name)
        if known is not None and known[0] > self._monotonic():
            return known[1]
        row = self._store.find_key(key)
        identity = None if row is None else self._identity(row)
        with self._lock:
            self._known[name] = self._until(), identity
            self._known.move_to_end(name)
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        return identity

    def _until(self) -> float:
        return self._monotonic() + self._settings.key_cache_seconds

    def _identity(self, row: ApiKey) -> Identity:
        usual = self._usual_quota()
        return Identity(
            row.id,
            row.owner,
            frozenset(KeyScope(name) for name in row.scopes if name in set(KeyScope)),
            row.requests_per_minute or self._settings.key_requests_per_minute,
            Quota(
                row.queued_tokens or usual.queued_tokens,
                row.open_batches or usual.open_batches,
                row.batch_lines or usual.batch_lines,
            ),
        )

    def _usual_quota(self) -> Quota:
        settings = self._settings
        return Quota(settings.key_queued_tokens, settings.key_open_batches, settings.key_batch_lines)
