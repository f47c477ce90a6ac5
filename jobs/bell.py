"""How a role that works in rounds waits for the next one: until somebody rings, or its time has come.

Owns the ear for the dispatch channel and the words about outages. Knows no role and no database.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import structlog
from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError

from jobs.errors import PenstockError
from jobs.events import DISPATCH_CHANNEL

log = structlog.get_logger("penstock.rounds")


class Outage:
    """Says once when something goes away, and once when it is back."""

    def __init__(self) -> None:
        self._code: str | None = None

    def began(self, error: PenstockError) -> None:
        if error.code != self._code:
            self._code = error.code
            log.warning("outage", code=error.code, reason=str(error), next="rounds go on until it is back")

    def over(self) -> None:
        if self._code is not None:
            log.info("outage_over", code=self._code)
            self._code = None


class Bell:
    """Waits for a ring on the dispatch channel; without Redis, just waits."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pubsub: PubSub | None = None

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Wait until somebody rings, or for `seconds`."""
        until = time.monotonic() + seconds
        try:
            if self._pubsub is None:
                self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
                self._pubsub.subscribe(DISPATCH_CHANNEL)
            while not stop.is_set() and (left := until - time.monotonic()) > 0:
                if self._pubsub.get_message(timeout=left) is not None:
                    self._hush()
                    return
        except (RedisError, OSError):
            self.close()
            stop.wait(max(0.0, until - time.monotonic()))

    def _hush(self) -> None:
        """Take the other rings that came meanwhile: one round answers them all."""
        while self._pubsub is not None and self._pubsub.get_message(timeout=0) is not None:
            pass

    def close(self) -> None:
        if self._pubsub is not None:
            with suppress(RedisError, OSError):
                self._pubsub.close()
            self._pubsub = None
