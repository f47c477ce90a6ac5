"""The courier: takes deliveries out of the outbox to their targets, and notes how each attempt went.

A thread beside the dispatcher's, with an office of its own. One round: hold the office → claim what is due, as much as
there are hands free → a thread for each. It keeps nothing that matters: killed at any point, the next courier finds
what it had claimed due again when the claim runs out. So an event is delivered at least once, under one id.

Logs name deliveries by id, never by URL: that may hold a secret of its owner's.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import stamina
import structlog

from jobs.errors import PenstockError, StoreUnavailable
from jobs.posting import Postman
from jobs.settings import Settings
from jobs.store import Store
from jobs.store.deliveries import CLAIM_MARGIN_SECONDS
from jobs.tenure import Tenure
from jobs.webhooks import DueDelivery, Tried, message, signed_headers

log = structlog.get_logger("penstock.courier")

OFFICE = "courier"
MAX_ATTEMPTS_AT_ONCE = 32
POLL_SECONDS = 0.5
IDLE_SECONDS = 1.0
"""Between two rounds where nothing was due for a minute."""
BUSY_SECONDS = 60.0
OUTAGE_SECONDS = 2.0
STOP_SECONDS = 3.0
"""So long a stopping courier waits for its attempts. What is left is found interrupted, and tried again."""


class Courier:
    """Runs rounds. `step` is one of them; `run` repeats it until told to stop."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        postman: Postman | None = None,
        *,
        holder: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._settings = settings
        self._postman = postman or Postman(allow_private=settings.webhook_allow_private)
        self._monotonic = monotonic
        self._tenure = Tenure(store, OFFICE, settings.leader_seconds, holder=holder, monotonic=monotonic)
        self._due_at = float("-inf")
        self._lock = threading.Lock()
        self._running: dict[threading.Thread, str] = {}
        self._hand_free = threading.Event()

    def step(self) -> int:
        """Run one round; how many attempts it began.

        Raises:
            StoreUnavailable: the database is out of reach; nothing was done or lost.
        """
        busy = self._busy()
        free = MAX_ATTEMPTS_AT_ONCE - busy.total()
        if free <= 0 or not self._tenure.held():
            return 0
        # The time of an attempt counts from before its claim: it is over while the claim holds.
        until = self._monotonic() + self._settings.webhook_timeout_seconds
        due = self._store.due_deliveries(free, busy)
        if due:
            self._due_at = self._monotonic()
        for one in due:
            self._begin(one, until)
        return len(due)

    def _busy(self) -> Counter[str]:
        with self._lock:
            return Counter(self._running.values())

    def _begin(self, due: DueDelivery, until: float) -> None:
        thread = threading.Thread(target=self._attempt, args=(due, until), name="delivery", daemon=True)
        with self._lock:
            self._running[thread] = due.webhook_id
        thread.start()

    def _attempt(self, due: DueDelivery, until: float) -> None:
        try:
            self._deliver(due, until)
        except PenstockError as error:
            log.warning("delivery_not_noted", id=due.id, code=error.code, next="tried again when its claim runs out")
        finally:
            with self._lock:
                del self._running[threading.current_thread()]
            self._hand_free.set()

    def _deliver(self, due: DueDelivery, until: float) -> None:
        body = message(due)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Penstock",
            **signed_headers(due, body, datetime.now(UTC)),
        }
        tried = self._postman.post(due.url, headers, body, until=until)
        next_attempt_at = self._note(due, tried)
        if not tried.taken:
            log.warning(
                "delivery_failed",
                id=due.id,
                webhook=due.webhook_id,
                attempt=due.number,
                status=tried.status,
                error=tried.error,
                next=_next(tried, next_attempt_at),
            )

    def _note(self, due: DueDelivery, tried: Tried) -> datetime | None:
        for attempt in stamina.retry_context(on=StoreUnavailable, attempts=None, timeout=CLAIM_MARGIN_SECONDS):
            with attempt:
                return self._store.note_delivery(due, tried)
        raise AssertionError("stamina ends with a result or an error")

    def run(self, stop: threading.Event) -> None:
        """Run rounds until `stop`: now and then, and at once when an attempt has ended."""
        while not stop.is_set():
            idle = self._monotonic() - self._due_at > BUSY_SECONDS
            wait_seconds = IDLE_SECONDS if idle else POLL_SECONDS
            self._hand_free.clear()
            try:
                self.step()
            except StoreUnavailable:
                wait_seconds = OUTAGE_SECONDS
            except PenstockError as error:
                log.error("courier_round_failed", code=error.code, reason=str(error), next="another round")
            self._hand_free.wait(wait_seconds)
        self._leave()

    def _leave(self) -> None:
        until = time.monotonic() + STOP_SECONDS
        for thread in list(self._running):
            thread.join(max(0.0, until - time.monotonic()))
        self._tenure.resign()


def _next(tried: Tried, next_attempt_at: datetime | None) -> str:
    if tried.gone:
        return "none: the webhook is disabled"
    return "none" if next_attempt_at is None else next_attempt_at.isoformat()


def start(store: Store, settings: Settings, stop: threading.Event) -> threading.Thread:
    """Run a courier in a thread of its own until `stop`."""
    thread = threading.Thread(target=Courier(store, settings).run, args=(stop,), name="courier", daemon=True)
    thread.start()
    return thread
