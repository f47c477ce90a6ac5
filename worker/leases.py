"""Keeps the leases of the jobs that run here, and stops those that may not run on.

    renewed together    one statement for all, every third of a lease
    lost                the database says that the attempt no longer holds its job: stop, and drop the result
    cancel asked for    by the flag in the row (with a renewal), and at once by the channel of cancels
    out of touch        a lease not renewed for its whole length, by the local monotonic clock: stop, give the job
                        back. The database's clock decides; ours may only stop us earlier

Knows attempts and live generations; not what they say, and not how a result is stored.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

from jobs.errors import StoreUnavailable
from jobs.records import AttemptRef, ClaimedJob, Renewal

logger = logging.getLogger("penstock.leases")

CLOCK_SECONDS = 0.5
"""How often the local clock is held against the leases."""


class Renews(Protocol):
    """The part of the store that renews."""

    def renew(self, refs: Sequence[AttemptRef], worker: str) -> Renewal: ...


class Stoppable(Protocol):
    """The part of a generation that stops it."""

    def cancel(self) -> None: ...
    def interrupt(self) -> None: ...


class Lease:
    """One job's stay in this worker, from before its claim (so that no cancel is missed) to after its end."""

    def __init__(self, keeper: LeaseKeeper, job_id: str) -> None:
        self._keeper = keeper
        self.job_id = job_id
        self.ref: AttemptRef | None = None
        self.expires_at = 0.0
        """On the keeper's monotonic clock."""
        self.lost = False
        """The attempt no longer holds the job: whatever it made must be dropped."""
        self._generation: Stoppable | None = None
        self._stop: str | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeper.release(self)

    def hold(self, job: ClaimedJob, claimed_at: float) -> None:
        """The claim was granted. `claimed_at`: the monotonic time just before it was asked for."""
        self.expires_at = claimed_at + job.lease_seconds
        self.ref = job.ref

    def attach(self, generation: Stoppable) -> None:
        """The generation to stop; one that was asked to stop before is stopped now."""
        with self._lock:
            self._generation, stop = generation, self._stop
        self._pass_on(stop)

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop is not None

    def cancel(self) -> None:
        self._end("cancel")

    def interrupt(self) -> None:
        self._end("interrupt")

    def lose(self) -> None:
        self.lost = True
        self._end("cancel")

    def _end(self, how: str) -> None:
        with self._lock:
            self._stop = self._stop or how
        self._pass_on(how)

    def _pass_on(self, how: str | None) -> None:
        generation = self._generation
        if generation is None or how is None:
            return
        generation.cancel() if how == "cancel" else generation.interrupt()


class LeaseKeeper:
    """Renews for `worker`. `start` runs its two threads; tests call `renew` and `check_clock` themselves."""

    def __init__(
        self, store: Renews, worker: str, lease_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._worker = worker
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._leases: set[Lease] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._renew_now = threading.Event()
        self._idle = threading.Condition(self._lock)
        self._threads = [
            threading.Thread(target=self._keep_renewing, name="lease-keeper", daemon=True),
            threading.Thread(target=self._keep_checking, name="lease-clock", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._renew_now.set()
        for thread in self._threads:
            if thread.ident:
                thread.join(timeout=5)

    def watch(self, job_id: str) -> Lease:
        """Begin a stay; leave it as a context manager."""
        lease = Lease(self, job_id)
        with self._lock:
            self._leases.add(lease)
        return lease

    def release(self, lease: Lease) -> None:
        with self._idle:
            self._leases.discard(lease)
            self._idle.notify_all()

    @property
    def num_held(self) -> int:
        return len(self._leases)

    def wait_idle(self, timeout_seconds: float) -> bool:
        """Wait until no job is here; whether that came in time."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._leases, timeout_seconds)

    def cancel(self, job_id: str) -> None:
        """Somebody asked for this job to be cancelled; not ours, not our business."""
        for lease in self._snapshot():
            if lease.job_id == job_id:
                lease.cancel()

    def interrupt_all(self) -> None:
        """A drain is over: every job that still runs goes back."""
        for lease in self._snapshot():
            lease.interrupt()

    def renew_soon(self) -> None:
        """Renew without waiting for the next time: cancels may have been missed."""
        self._renew_now.set()

    def renew(self) -> None:
        """Renew every held lease, in one statement. Raises StoreUnavailable."""
        held = {lease.ref: lease for lease in self._snapshot() if lease.ref is not None and not lease.lost}
        if not held:
            return
        asked_at = self._clock()
        renewal = self._store.renew(list(held), self._worker)
        for ref in renewal.held:
            held[ref].expires_at = asked_at + self._lease_seconds
        for ref in renewal.cancel_requested:
            held[ref].cancel()
        for ref in renewal.lost:
            if held[ref] in self._leases:  # a result stored while we asked is an end, not a loss
                logger.warning("Attempt %d of %s lost its lease; it is stopped here.", ref.number, ref.job_id)
                held[ref].lose()

    def check_clock(self) -> None:
        """Stop what was not renewed for a whole lease; the job is given back if it still is ours."""
        now = self._clock()
        for lease in self._snapshot():
            if lease.ref is not None and lease.expires_at <= now and not lease.stopped:
                logger.warning("The lease of %s could not be renewed in time; the job goes back.", lease.job_id)
                lease.interrupt()

    def _snapshot(self) -> list[Lease]:
        with self._lock:
            return list(self._leases)

    def _keep_renewing(self) -> None:
        period = self._lease_seconds / 3
        wait = period
        while not self._stopping.is_set():
            self._renew_now.wait(wait)
            self._renew_now.clear()
            try:
                self.renew()
                wait = period
            except StoreUnavailable:
                wait = min(period, 1.0)
                logger.warning("Leases cannot be renewed, the database is out of reach; next try in %.1f s.", wait)
            except Exception:
                logger.exception("A renewal failed; the next one comes in its turn.")
                wait = period

    def _keep_checking(self) -> None:
        while not self._stopping.wait(min(CLOCK_SECONDS, self._lease_seconds / 4)):
            self.check_clock()
