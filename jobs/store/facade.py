"""`Store`: the one door to the database. Opens each transaction, reads its clock, and hands both to the concern.

Sync; any thread may call. A method that raises changed nothing (`StoreUnavailable` in the middle of a commit is the
one case where nobody can know: every method may be called again all the same).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from jobs.database import BUSY_SECONDS, transaction
from jobs.errors import LeaseLost, StoreUnavailable
from jobs.records import (
    AttemptRef,
    BatchCounts,
    ClaimedJob,
    NewJob,
    Outcome,
    Publishable,
    Rates,
    Renewal,
    Submitted,
    SweepReport,
)
from jobs.settings import Settings
from jobs.states import JobState, Priority
from jobs.store import (
    audit,
    cancelling,
    dispatching,
    ending,
    intake,
    leases,
    progress,
    reading,
    registry,
    sweep,
    waiting,
)
from jobs.store.fairness import Turns
from jobs.store.scope import Scope
from jobs.tables import Attempt, Batch, Generation, Job, Model, Worker

Clock = Callable[[], datetime]

MAX_SWEEP_CHUNKS = 20


class Store:
    """Jobs and all that belongs to them. `owner=None` means anybody's; another owner's rows are NotFound.

    `clock` None reads the database's clock in each transaction; `dice` draws the jitter of retries.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        settings: Settings,
        clock: Clock | None = None,
        dice: random.Random | None = None,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self._clock = clock
        self._dice = dice or random.SystemRandom()
        self._turns = Turns()
        # SQLite has one writer. Threads of this process queue here, instead of polling its lock with growing naps.
        self._writer = threading.Lock() if engine.dialect.name == "sqlite" else None

    # Taking jobs in

    def submit(
        self,
        jobs: Sequence[NewJob],
        *,
        owner: str = "",
        idempotency_key: str | None = None,
        body_sha256: str | None = None,
        batch_id: str | None = None,
        new_batch: bool = False,
        batch_metadata: Mapping[str, str] | None = None,
    ) -> Submitted:
        """Accept jobs: all or none, durable when it returns. `new_batch` makes a batch of them; `batch_id` appends
        to one.

        Raises:
            InvalidRequest: no jobs, text that cannot be stored, or a batch that was cancelled.
            IdempotencyConflict: the key was used with another body.
            NotFound: no such batch of this owner.
        """
        with self._writing() as scope:
            return intake.submit(
                scope,
                jobs,
                owner=owner,
                idempotency_key=idempotency_key,
                body_sha256=body_sha256,
                batch_id=batch_id,
                new_batch=new_batch,
                batch_metadata=batch_metadata,
            )

    # Working on them

    def claim(self, job_id: str, worker: str, *, in_company: bool = False) -> ClaimedJob | None:
        """Take a queued job and make its next attempt; None when there is nothing to take (a duplicate message, a
        backoff that is not over, an end). A job whose deadline is over is ended as expired: None as well.

        `in_company`: other jobs run in the same process, so a job for which `runs_alone` is not taken.
        """
        with self._writing(durable=False) as scope:
            claimed = leases.claim(scope, job_id, worker, in_company=in_company)
            if claimed is None and leases.deadline_passed(scope, job_id):
                ending.end_queued(scope, [job_id], JobState.EXPIRED)
            return claimed

    def runs_alone(self, job_id: str) -> bool:
        """Whether a queued job has failed before and has one attempt left: nobody may share its worker then."""
        with self._reading() as scope:
            return leases.runs_alone(scope, job_id)

    def renew(self, refs: Collection[AttemptRef], worker: str) -> Renewal:  # noqa: ARG002
        """Extend the leases of all these attempts; say which are lost and which somebody wants cancelled."""
        if not refs:
            return Renewal(frozenset(), frozenset(), frozenset())
        with self._writing(durable=False) as scope:
            return leases.renew(scope, refs)

    def finish(self, ref: AttemptRef, outcome: Outcome) -> JobState:
        """End an attempt; answer where its job went.

        Raises:
            LeaseLost: the attempt no longer holds the job; nothing was stored.
        """
        (answer,) = self.finish_many([(ref, outcome)])
        if isinstance(answer, LeaseLost):
            raise answer
        return answer

    def finish_many(self, finishes: Sequence[tuple[AttemptRef, Outcome]]) -> list[JobState | LeaseLost]:
        """End attempts in one transaction, durable when it returns. A lost lease is an answer, not an exception."""
        if not finishes:
            return []
        with self._writing() as scope:
            return ending.finish_many(scope, finishes)

    # What people ask for

    def cancel(self, job_id: str, owner: str | None = None) -> Job:
        """End a queued job; ask the worker of a running one to end it; leave an ended one. The job as it is then."""
        with self._writing() as scope:
            cancelling.check_owner(scope, Job, job_id, owner)
            cancelling.cancel(scope, job_id)
            return reading.get_job(scope, job_id, owner)

    def cancel_batch(self, batch_id: str, owner: str | None = None) -> BatchCounts:
        """Cancel every queued line and ask every running one to end; the counts after that."""
        with self._writing() as scope:
            cancelling.check_owner(scope, Batch, batch_id, owner)
            cancelling.request_batch(scope, batch_id)
        self._cancel_lines(batch_id)
        return self.get_batch(batch_id, owner)[1]

    def _cancel_lines(self, batch_id: str) -> list[str]:
        cancelled: list[str] = []
        while True:
            with self._writing() as scope:
                chunk = cancelling.cancel_lines(scope, batch_id)
            if not chunk:
                return cancelled
            cancelled += chunk

    def requeue(self, job_id: str) -> Job:
        """Bring a failed job back to the queue with its attempts' budget whole; its history stays.

        Raises:
            InvalidRequest: the job did not fail.
        """
        with self._writing() as scope:
            cancelling.check_owner(scope, Job, job_id, None)
            cancelling.requeue(scope, job_id)
            return reading.get_job(scope, job_id, None)

    # Repair and dispatch

    def sweep(self, *, spare_leases: bool = False) -> SweepReport:
        """Free the jobs of silent workers, end what can no longer start in time, finish cancelled batches.

        `spare_leases` leaves the first of these out: nobody could renew lately.
        """
        moved: dict[str, JobState] = {} if spare_leases else self._free_leases()
        for job_id in self._expire_deadlines():
            moved[job_id] = JobState.EXPIRED
        with self._reading() as scope:
            batches = sweep.batches_half_cancelled(scope)
        for batch_id in batches:
            moved |= dict.fromkeys(self._cancel_lines(batch_id), JobState.CANCELLED)
        return SweepReport(
            requeued=[job_id for job_id, state in moved.items() if state is JobState.QUEUED],
            failed=[job_id for job_id, state in moved.items() if state is JobState.FAILED],
            expired=[job_id for job_id, state in moved.items() if state is JobState.EXPIRED],
            cancelled=[job_id for job_id, state in moved.items() if state is JobState.CANCELLED],
        )

    def _free_leases(self) -> dict[str, JobState]:
        moved: dict[str, JobState] = {}
        for ids in self._chunks(sweep.leases_ran_out):
            with self._writing() as scope:
                moved |= dict(sweep.free_leases(scope, ids))
        return moved

    def _expire_deadlines(self) -> list[str]:
        expired: list[str] = []
        for ids in self._chunks(sweep.deadlines_passed):
            with self._writing() as scope:
                expired += ending.end_queued(scope, ids, JobState.EXPIRED)
        return expired

    def _chunks(self, find: Callable[[Scope], Sequence[str]]) -> Iterator[Sequence[str]]:
        """Find and hand out chunks until one is not full. Bounded: rows that others hold are found again."""
        for _ in range(MAX_SWEEP_CHUNKS):
            with self._reading() as scope:
                ids = find(scope)
            if ids:
                yield ids
            if len(ids) < sweep.CHUNK:
                return

    def to_publish(
        self,
        num_waiting: Mapping[Priority, int] | None = None,
        only: Collection[Priority] = tuple(Priority),
    ) -> Publishable:
        """Choose the queued jobs of these priorities whose message should go out now.

        Interactive ones that have none; batch lines as far as the window has room (`settings.dispatch_window`),
        shared by weight between owners, then between their batches; and jobs whose message must be lost: sent longer
        ago than `settings.republish_after_seconds`, while Redis holds fewer messages (`num_waiting` by queue) than
        it should.
        """
        with self._reading() as scope:
            return dispatching.to_publish(scope, num_waiting or {}, self._turns, only)

    def mark_published(self, ids: Collection[str]) -> None:
        """Note that these queued jobs have a message out. Call it after publishing: a crash between the two costs a
        duplicate message, never a job."""
        for chunk in dispatching.chunks(ids):
            with self._writing(durable=False) as scope:
                dispatching.mark_published(scope, chunk)

    def unpublish_all(self) -> None:
        """Redis was emptied: no queued job has a message any more."""
        last: str | None = ""
        while last is not None:
            with self._writing(durable=False) as scope:
                last = dispatching.unpublish_some(scope, last)

    # Reading

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """The job, detached. Raises NotFound."""
        with self._reading() as scope:
            return reading.get_job(scope, job_id, owner)

    def get_generation(self, job_id: str) -> Generation | None:
        """The stored text of an ended job, if it has one."""
        with self._reading() as scope:
            return reading.get_generation(scope, job_id)

    def get_recipe(self, recipe_id: str) -> dict[str, Any]:
        """A recipe's body. Raises NotFound."""
        with self._reading() as scope:
            return reading.get_recipe(scope, recipe_id)

    def attempts(self, job_id: str) -> list[Attempt]:
        """All attempts of a job, the first one first."""
        with self._reading() as scope:
            return reading.attempts(scope, job_id)

    def list_jobs(
        self,
        state: JobState | None = None,
        batch_id: str | None = None,
        limit: int = 20,
        after: str | None = None,
        owner: str | None = None,
    ) -> tuple[list[Job], bool]:
        """A page of jobs, newest first (a batch's: last line first), and whether more follow. `after` is the id of the
        last one seen. Raises NotFound for a cursor that names no job."""
        with self._reading() as scope:
            return reading.list_jobs(scope, state=state, batch_id=batch_id, limit=limit, after=after, owner=owner)

    def get_batch(self, batch_id: str, owner: str | None = None) -> tuple[Batch, BatchCounts]:
        """A batch and its jobs by state. Raises NotFound."""
        with self._reading() as scope:
            return reading.get_batch(scope, batch_id, owner)

    # Progress

    def sample_batches(self) -> int:
        """Note how far open batches have come; how many had moved. The dispatcher calls it every few seconds."""
        with self._writing(durable=False) as scope:
            return progress.sample(scope)

    def batch_rates(self, batch_id: str) -> Rates:
        """How fast a batch goes, and how long it still needs. Raises NotFound."""
        with self._reading() as scope:
            return progress.rates(scope, batch_id)

    def queue_position(self, job: Job) -> int | None:
        """How many jobs go first (0: next), as an estimate; None when not queued."""
        with self._reading() as scope:
            return waiting.queue_position(scope, job)

    def poll_after_seconds(self, of: Job | Batch) -> int | None:
        """What `Retry-After` says: when a job's turn should come, or a batch be done; from 1 to 60. None: ended."""
        if isinstance(of, Batch):
            return waiting.seconds_to_poll_batch(of, self.batch_rates(of.id))
        with self._reading() as scope:
            return waiting.seconds_to_poll(scope, of, waiting.queue_position(scope, of))

    # Models, workers, offices

    def announce_model(  # noqa: PLR0917
        self,
        name: str,
        sha256: str,
        context_tokens: int,
        vocabulary: bytes,
        recipe: Mapping[str, Any] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell the API of a loaded model. `vocabulary` is what the API's tokenizer reads; it is compressed here."""
        with self._writing() as scope:
            registry.announce_model(
                scope,
                name,
                sha256=sha256,
                context_tokens=context_tokens,
                vocabulary=vocabulary,
                recipe=recipe,
                details=details or {},
            )

    def model(self, name: str) -> Model:
        """A model; its `vocabulary_gguf` is what was announced. Raises ModelUnknown."""
        with self._reading() as scope:
            return registry.model(scope, name)

    def list_models(self) -> list[Model]:
        """Every announced model, without `vocabulary`."""
        with self._reading() as scope:
            return registry.list_models(scope)

    def heartbeat(  # noqa: PLR0917
        self,
        name: str,
        model: str,
        slots: int,
        busy_slots: int,
        tokens_per_second: float,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Say that a worker lives, and how busy it is."""
        with self._writing(durable=False) as scope:
            registry.heartbeat(
                scope,
                name,
                model=model,
                slots=slots,
                busy_slots=busy_slots,
                tokens_per_second=tokens_per_second,
                details=details or {},
            )

    def list_workers(self, alive_within_seconds: float | None = None) -> list[Worker]:
        """Workers by name; those heard of within the last seconds, or all."""
        with self._reading() as scope:
            return list(registry.list_workers(scope, alive_within_seconds))

    def hold_office(self, role: str, holder: str) -> bool:
        """Take or keep an office for `settings.leader_seconds`; False while somebody else holds it."""
        with self._writing(durable=False) as scope:
            return registry.hold_office(scope, role, holder)

    def resign_office(self, role: str, holder: str) -> None:
        """Leave an office, so that the next one need not wait."""
        with self._writing(durable=False) as scope:
            registry.resign_office(scope, role, holder)

    # Health

    def audit(self) -> list[str]:
        """Check that rows, attempts, generations and counters agree; a sentence for each problem, naming its id."""
        with self._reading() as scope:
            return audit.problems(scope)

    def ping(self) -> None:
        """Raise StoreUnavailable unless the database answers and has its tables."""
        with self._reading() as scope:
            scope.connection.execute(sa.select(Batch.id).limit(1)).all()

    # Transactions

    @contextmanager
    def _reading(self) -> Iterator[Scope]:
        with transaction(self.engine, writes=False) as connection:
            yield self._scope(connection)

    @contextmanager
    def _writing(self, *, durable: bool = True) -> Iterator[Scope]:
        """`durable=False` spares SQLite's fsync where a power cut may undo the commit (see `jobs.database`)."""
        with self._turn(), transaction(self.engine, writes=True, durable=durable) as connection:
            yield self._scope(connection)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._writer is None:
            yield
            return
        if not self._writer.acquire(timeout=BUSY_SECONDS):
            raise StoreUnavailable("Another thread is writing for long.")
        try:
            yield
        finally:
            self._writer.release()

    def _scope(self, connection: Connection) -> Scope:
        return Scope(connection, self._now(connection), self.settings, self._dice)

    def _now(self, connection: Connection) -> datetime:
        """The instant of this transaction. SQLite lives on this machine, so its clock is this machine's."""
        if self._clock is not None:
            return self._clock()
        if connection.dialect.name == "sqlite":
            return datetime.now(UTC)
        instant: datetime = connection.scalar(sa.select(sa.func.clock_timestamp()))  # type: ignore[assignment]
        return instant.astimezone(UTC)
