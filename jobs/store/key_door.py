"""The store's methods for API keys, and for what an owner has open."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.keys import NewKey
from jobs.store import keys, quotas
from jobs.store.door import Door
from jobs.tables import ApiKey


class KeyDoor(Door):
    """API keys. Methods that take an id take a key's hint as well."""

    def create_key(self, new: NewKey) -> tuple[ApiKey, str]:
        """Make a key: its row, and the key itself, which is not stored. Raises InvalidRequest."""
        with self._writing() as scope:
            return keys.create(scope, new)

    def find_key(self, secret: str) -> ApiKey | None:
        """The living key that a caller sent, if it is one."""
        with self._reading() as scope:
            return keys.find(scope, secret)

    def any_key(self, *, alive: bool) -> bool:
        """Whether there is a key at all; `alive`: one that is neither revoked nor over."""
        with self._reading() as scope:
            return keys.any_key(scope, alive=alive)

    def list_keys(self) -> Sequence[ApiKey]:
        """All keys, those that have ended too, the oldest first."""
        with self._reading() as scope:
            return keys.every(scope)

    def revoke_key(self, key_id: str) -> ApiKey:
        """End a key. Raises NotFound."""
        with self._writing() as scope:
            return keys.revoke(scope, key_id)

    def rotate_key(self, key_id: str, grace_seconds: float) -> tuple[ApiKey, str]:
        """Make a key like this one and let this one end after `grace_seconds`. Raises NotFound, InvalidRequest."""
        with self._writing() as scope:
            return keys.rotate(scope, key_id, grace_seconds)

    def forget_key(self, key_id: str) -> None:
        """Delete the row of a key that has ended. Raises NotFound, InvalidRequest."""
        with self._writing() as scope:
            keys.forget(scope, key_id)

    def queued_tokens(self, owner: str) -> int:
        """Prompt tokens and `max_tokens` of what the owner has queued or running (see `jobs.store.quotas`)."""
        with self._reading() as scope:
            return quotas.queued_tokens(scope, owner)
