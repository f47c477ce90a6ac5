"""The clerk: takes the lines of batches in, writes their result files, finishes them, and lets go of what is over.

One round: hold the office (two may run; one works) → for each unfinished batch, a different one first each time: take a
chunk of its lines in, append what has ended to its files, finish it if all has → retention. It knows no engine and no
HTTP, needs no Redis (a ring only makes it quicker), holds no state that matters, and may be killed at any point.

A batch that cannot be worked on (a defect, an object that is broken) is set aside for a while; the others go on. While
the database or the storage is away rounds are tried again and nothing is lost: both are asked to do everything once
more from where the last commit was.

Runs as a thread of the dispatcher's process. `python -m jobs.clerk` runs it alone, until SIGTERM.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice

import structlog
from redis import Redis

from jobs import checked
from jobs.bell import Bell, Outage
from jobs.database import open_engine
from jobs.errors import InvalidRequest, NotFound, PenstockError, StorageUnavailable, StoreUnavailable
from jobs.events import EventWriter, open_redis
from jobs.files import Vault
from jobs.logs import configure_logs
from jobs.result_files import KINDS, ResultFiles
from jobs.retention import Retention
from jobs.settings import Settings
from jobs.signals import stop_at_signals
from jobs.store import Store
from jobs.tables import Batch
from jobs.tenure import Tenure

log = structlog.get_logger("penstock.clerk")

OFFICE = "clerk"
CHUNK_LINES = 1000
"""Lines of one transaction: long enough to be quick, short enough for others to get SQLite's one lock."""
YIELD_SECONDS = 0.01
HOUSEKEEPING_SECONDS = 3600.0
HOUSE_ROUND_SECONDS = 0.5
"""Housekeeping takes no more than about so much of a round."""
ASIDE_SECONDS = 60.0
"""A batch that cannot be worked on, and housekeeping that failed, are tried again after so long."""
IDLE_SECONDS = 2.0
"""Between two rounds while no batch is open: whoever makes one rings."""
OUTAGE_SECONDS = 1.0
STOP_SECONDS = 10.0
"""A process that stops waits so long for its clerk. What a slow storage keeps it from is done by the next one."""


class _Stopped(Exception):
    """Long work ends here: the office was lost, or the process is to stop."""


@dataclass(slots=True)
class Round:
    """What one round did. `more`: there is work that can be done at once."""

    leads: bool = True
    num_taken: int = 0
    num_written: int = 0
    num_finished: int = 0
    more: bool = False
    idle: bool = False
    """No batch is open."""


class Clerk:
    """Runs rounds. `step` is one of them; `run` repeats it until told to stop."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        redis: Redis,
        settings: Settings,
        *,
        holder: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        self._store = store
        self._vault = vault
        self._redis = redis
        self._settings = settings
        self._events = EventWriter(redis)
        self._monotonic = monotonic
        self._stop = threading.Event()
        self._tenure = Tenure(store, OFFICE, store.settings.leader_seconds, holder=holder, monotonic=monotonic)
        self._results = ResultFiles(store, vault, self._keep)
        clocks = {"monotonic": monotonic} | ({} if now is None else {"now": now})
        self._retention = Retention(store, vault, **clocks)  # type: ignore[arg-type]
        self._written_at: dict[str, float] = {}
        self._aside_until: dict[str, float] = {}
        self._last_batch = ""
        self._house: Iterator[int] | None = None
        self._house_at = float("-inf")

    def step(self) -> Round:
        """Run one round.

        Raises:
            StoreUnavailable, StorageUnavailable: the database or the storage is out of reach; nothing was lost.
        """
        if not self._tenure.held():
            return Round(leads=False)
        done = Round()
        with suppress(_Stopped):
            batches = self._store.unfinished_batches()
            done.idle = not batches
            self._forget_finished(batches)
            for batch in self._in_turn(batches):
                self._keep()
                self._last_batch = batch.id
                self._work_on(batch, done)
            self._keep_house(done)
        return done

    def _keep(self) -> None:
        """Called between the pieces of long work: ends it when it is no longer ours."""
        if self._stop.is_set() or not self._tenure.held():
            raise _Stopped

    def _in_turn(self, batches: Sequence[Batch]) -> list[Batch]:
        """The batches, from the one after the last that was worked on: one that ends a round does not end them all."""
        later = [batch for batch in batches if batch.id > self._last_batch]
        return [*later, *(batch for batch in batches if batch.id <= self._last_batch)]

    def _forget_finished(self, batches: Sequence[Batch]) -> None:
        left = {batch.id for batch in batches}
        for memory in (self._written_at, self._aside_until):
            for batch_id in memory.keys() - left:
                del memory[batch_id]

    def _work_on(self, batch: Batch, done: Round) -> None:
        if self._monotonic() < self._aside_until.get(batch.id, float("-inf")):
            return
        try:
            if batch.taken_at is None:
                done.num_taken += self._take_in(batch, done)
            self._write_files(batch, done)
        except (StoreUnavailable, StorageUnavailable, _Stopped):
            raise
        except Exception as error:  # its text may hold a line: only its kind is told
            self._aside_until[batch.id] = self._monotonic() + ASIDE_SECONDS
            log.error("batch_set_aside", batch=batch.id, error=type(error).__name__, seconds=ASIDE_SECONDS)

    # Lines in

    def _take_in(self, batch: Batch, done: Round) -> int:
        """Take a chunk of the batch's lines in; how many."""
        try:
            lines, exhausted = self._next_lines(batch)
        except (NotFound, ValueError, LookupError) as error:
            return self._refuse(batch, error)
        next_byte = lines[-1].end if lines else batch.intake_byte
        try:
            taken = self._store.take_in(batch.id, lines, next_byte, done=exhausted)
        except InvalidRequest as error:
            return self._refuse(batch, error)
        done.more = done.more or taken
        if taken and batch.num_taken == 0:
            self._events.wake_dispatcher()
        self._let_others_write()
        return len(lines) if taken else 0

    def _next_lines(self, batch: Batch) -> tuple[list[checked.CheckedLine], bool]:
        """The lines after those that were taken, and whether these are the last."""
        name = self._store.get_file(str(batch.input_file_id)).checked_object
        if name is None:
            raise NotFound("file", str(batch.input_file_id))
        lines = checked.read(self._vault.read(name, batch.intake_byte), batch.intake_byte)
        chunk = list(islice(lines, CHUNK_LINES))
        return chunk, next(lines, None) is None

    def _refuse(self, batch: Batch, error: Exception) -> int:
        """The checked lines are gone or broken, so the batch can never be whole. If none of them was taken it has
        failed; else what was taken runs on, and an operator hears of it."""
        told = {"code": "input_unreadable", "message": "The lines of the input file cannot be read any more."}
        if self._store.fail_batch(batch.id, [{**told, "param": "input_file_id", "line": None}]):
            log.error("batch_failed", batch=batch.id, error=type(error).__name__)
            return 0
        raise error

    def _let_others_write(self) -> None:
        """SQLite has one writer. Reading and preparing the next chunk leaves its lock free for longer than a chunk
        holds it; this lets the threads beside us have their turn as well."""
        if self._store.engine.dialect.name == "sqlite":
            self._stop.wait(YIELD_SECONDS)

    # Files out

    def _write_files(self, batch: Batch, done: Round) -> None:
        over = batch.ended_at is not None and batch.taken_at is not None
        now = self._monotonic()
        since = now - self._written_at.get(batch.id, float("-inf"))
        if not over and since < self._settings.file_interval_seconds:
            return
        for kind in KINDS:
            appended = self._results.append(batch, kind)
            done.num_written += appended.num_lines
            done.more = done.more or appended.more
            if appended.num_lines and not appended.more:
                self._written_at[batch.id] = now
        if over and batch.output_cursor == batch.error_cursor == batch.num_ends:
            self._finish(batch, done)
        elif not over:
            self._retention.replaced(self._results.tidy(batch))

    def _finish(self, batch: Batch, done: Round) -> None:
        self._retention.replaced(self._results.compact(batch))
        if self._store.finalize(batch.id):
            done.num_finished += 1
            log.info("batch_finished", batch=batch.id, num_lines=batch.num_total)

    # What is over

    def _keep_house(self, done: Round) -> None:
        """Every hour, beside the batches and never before them, some of it a round. A failure here is told, and all is
        tried again later."""
        now = self._monotonic()
        if self._house is None and now >= self._house_at:
            self._house = self._retention.sweep()
        try:
            whole = self._work_through(chain(self._retention.drop_replaced(), self._house or ()), now)
        except _Stopped:
            raise
        except Exception as error:
            self._house, self._house_at = None, now + ASIDE_SECONDS
            log.error("housekeeping_failed", error=type(error).__name__, seconds=ASIDE_SECONDS)
            return
        done.more = done.more or not whole
        if whole and self._house is not None:
            self._house, self._house_at = None, now + HOUSEKEEPING_SECONDS

    def _work_through(self, pieces: Iterator[int], since: float) -> bool:
        """Do these pieces of work; False if the round's time for them was over before they were."""
        for _ in pieces:
            self._keep()
            if self._monotonic() - since >= HOUSE_ROUND_SECONDS:
                return False
        return True

    # The role

    def run(self, stop: threading.Event) -> None:
        """Run rounds until `stop`: every `file_interval_seconds`, at once while there is more, or when somebody rings.
        Never raises: whatever fails, the next round is tried."""
        self._stop = stop
        bell, outage = Bell(self._redis), Outage()
        while not stop.is_set():
            try:
                done = self.step()
                outage.over()
                if not done.more:
                    bell.wait(IDLE_SECONDS if done.idle else min(1.0, self._settings.file_interval_seconds), stop)
            except (StoreUnavailable, StorageUnavailable) as error:
                outage.began(error)
                stop.wait(OUTAGE_SECONDS)
            except Exception as error:  # a defect; its text may hold a line
                log.error("round_failed", error=type(error).__name__, next="another round in a second")
                stop.wait(OUTAGE_SECONDS)
        self._tenure.resign()
        bell.close()


def start(store: Store, redis: Redis, settings: Settings, stop: threading.Event) -> threading.Thread | None:
    """Run the role in a thread of this process. Settings it cannot work with are told, and end nothing else."""
    try:
        clerk = Clerk(store, Vault.open(settings), redis, settings)
    except PenstockError as error:
        log.error("clerk_cannot_start", reason=str(error))
        return None
    thread = threading.Thread(target=clerk.run, args=(stop,), name="clerk", daemon=True)
    thread.start()
    return thread


def main() -> int:
    """Run the role until SIGTERM or SIGINT."""
    settings = Settings()
    configure_logs(settings.log_level, settings.log_format)
    stop = stop_at_signals()
    store = Store(open_engine(settings.resolved_database_url), settings=settings)
    thread = start(store, open_redis(settings.resolved_redis_url), settings, stop)
    if thread is None:
        return 1
    log.info("clerk_started", interval_seconds=settings.file_interval_seconds)
    stop.wait()
    thread.join(STOP_SECONDS)
    log.info("clerk_stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
