"""Listens to what is said to all workers: cancels, so that one takes effect within a second, and who follows what.

A cancel is a flag in the row first, and readers say again whom they follow; the channels only make it quick. Whatever
was missed while Redis was away is asked for as soon as the channels are there again (`on_return`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import redis

LISTEN_SECONDS = 1.0
RETRY_SECONDS = 0.5


class Listener:
    """Calls `hearers[channel](message)` for each message, and `on_return()` each time all the channels are there
    (again). On one thread: no hearer may wait."""

    def __init__(
        self, client: redis.Redis, hearers: Mapping[str, Callable[[str], None]], on_return: Callable[[], None]
    ) -> None:
        self._client = client
        self._hearers = dict(hearers)
        self._on_return = on_return
        self._confirmed: set[str] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
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
                with self._client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
                    self._confirmed.clear()
                    pubsub.subscribe(*self._hearers)
                    self._listen(pubsub)
            except (redis.RedisError, OSError):
                self.listening.clear()
                self._stopping.wait(RETRY_SECONDS)

    def _listen(self, pubsub: Any) -> None:
        # redis-py subscribes again by itself after a lost connection, and then confirms each channel again.
        while not self._stopping.is_set():
            message = pubsub.get_message(timeout=LISTEN_SECONDS)
            if message is None:
                continue
            channel = message["channel"].decode()
            if message["type"] == "subscribe":
                self._confirm(channel)
            elif message["type"] == "message":
                self._hearers[channel](message["data"].decode())

    def _confirm(self, channel: str) -> None:
        self._confirmed.add(channel)
        if len(self._confirmed) == len(self._hearers):
            self._confirmed.clear()
            self.listening.set()
            self._on_return()
