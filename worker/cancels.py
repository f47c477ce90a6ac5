"""Listens for cancels, so that one takes effect within a second.

A cancel is a flag in the row first; the channel only makes it quick. Whatever was missed while Redis was away is
found with the next renewal of the leases, which is asked for as soon as the channel is there again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import redis

logger = logging.getLogger("penstock.cancels")

LISTEN_SECONDS = 1.0
RETRY_SECONDS = 0.5


class CancelListener:
    """Calls `on_cancel(job_id)` for each message, and `on_return()` each time the channel is there (again)."""

    def __init__(
        self, client: redis.Redis, channel: str, on_cancel: Callable[[str], None], on_return: Callable[[], None]
    ) -> None:
        self._client = client
        self._channel = channel
        self._on_cancel = on_cancel
        self._on_return = on_return
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cancel-listener", daemon=True)
        self.listening = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident:
            self._thread.join(timeout=2 * LISTEN_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._client.pubsub() as pubsub:
                    pubsub.subscribe(self._channel)
                    self._listen(pubsub)
            except (redis.RedisError, OSError):
                self.listening.clear()
                self._stopping.wait(RETRY_SECONDS)

    def _listen(self, pubsub: Any) -> None:
        # redis-py subscribes again by itself after a lost connection, and then confirms it again.
        while not self._stopping.is_set():
            message = pubsub.get_message(timeout=LISTEN_SECONDS)
            if message is None:
                continue
            if message["type"] == "subscribe":
                self.listening.set()
                self._on_return()
            elif message["type"] == "message":
                self._on_cancel(message["data"].decode())
