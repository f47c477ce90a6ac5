"""`Store`: the one door to the database, whole. What it does to jobs, models, workers and offices is here; batches and
files have rooms of their own (`batch_door`, `file_door`).

Sync; any thread may call. A method that raises changed nothing (`StoreUnavailable` in the middle of a commit is the
one case where nobody can know: every method may be called again all the same).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from jobs.errors import LeaseLost
from jobs.keys import Quota
from jobs.records import (
    AttemptRef,
    ClaimedJob,
    Forgotten,
    GenerationRecord,
    NewJob,
    Outcome,
    Renewal,
    Submitted,
    SweepReport,
)
from jobs.states import JobState, Priority
from jobs.store import (
    audit,
    cancelling,
    deleting,
    ending,
    housekeeping,
    intake,
    leases,
    numbering,
    reading,
    registry,
    replaying,
    retrying,
    reusing,
    sweep,
)
from jobs.store.batch_door import BatchDoor
from jobs.store.dispatch_door import DispatchDoor
from jobs.store.file_door import FileDoor
from jobs.store.idempotency import Call
from jobs.store.key_door import KeyDoor
from jobs.store.scope import AnyRow, Scope
from jobs.store.sweep import followed
from jobs.store.webhook_door import WebhookDoor
from jobs.tables import Attempt, Batch, Generation, Job, Model, Worker

MAX_SWEEP_CHUNKS = 4
"""Chunks of one kind that a sweep takes: a round of the dispatcher must end."""


class Store(DispatchDoor, BatchDoor, FileDoor, WebhookDoor, KeyDoor):
    """Jobs and all that belongs to them. `owner=None` means anybody's; another owner's rows are NotFound."""

    # Taking jobs in

    def submit(
        self,
        jobs: Sequence[NewJob],
        *,
        owner: str = "",
        idempotency_key: str | None = None,
        body_sha256: str | None = None,
        silent_retry: bool = False,
        batch_id: str | None = None,
        new_batch: bool = False,
        batch_metadata: Mapping[str, str] | None = None,
        quota: Quota | None = None,
    ) -> Submitted:
        """Accept jobs: all or none, durable when it returns. `new_batch` makes a batch of them; `batch_id` appends
        to one. `silent_retry`: a call without a key and with the body of a recent one is that one, made again.

        Raises:
            InvalidRequest: no jobs, text that cannot be stored, or a batch that was cancelled or made from a file.
            IdempotencyConflict: the key was used with another body.
            NotFound: no such batch of this owner.
            LimitExceeded: more than the owner's `quota`.
        """
        with self._writing() as scope:
            return intake.submit(
                scope,
                jobs,
                owner=owner,
                call=Call(idempotency_key, body_sha256, silent_retry),
                batch_id=batch_id,
                new_batch=new_batch,
                batch_metadata=batch_metadata,
                quota=quota,
            )

    # Working on them

    def claim(self, job_id: str, worker: str, *, in_company: bool = False) -> ClaimedJob | None:
        """Take a queued job and make its next attempt; None when there is nothing to take (a duplicate message, a
        backoff that is not over, an end). A job whose deadline is over is ended as expired: None as well.

        `in_company`: other jobs run in the same process, so a job for which `runs_alone` is not taken.
        """
        return self._claim([job_id], worker, in_company=in_company).get(job_id)

    def claim_many(self, job_ids: Collection[str], worker: str) -> dict[str, ClaimedJob]:
        """`claim` of several jobs in company, in one transaction; the ones that were taken, by id."""
        return self._claim(job_ids, worker, in_company=True) if job_ids else {}

    def _claim(self, job_ids: Collection[str], worker: str, *, in_company: bool) -> dict[str, ClaimedJob]:
        with self._writing(durable=False) as scope:
            claimed = leases.claim_many(scope, job_ids, worker, in_company=in_company)
            left = [job_id for job_id in job_ids if job_id not in claimed]
            if left and (late := leases.overdue(scope, left)):
                ending.end_queued(scope, late, JobState.EXPIRED)
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

    def delete(self, job_id: str, owner: str | None = None) -> None:
        """Erase an ended job's prompt, text and attempts; it is there for nobody from then on. Again: nothing more.

        Raises:
            NotFound: no such job of this owner.
            NotEnded: it is queued or running.
        """
        with self._writing() as scope:
            deleting.delete(scope, job_id, owner)

    def requeue(self, job_id: str) -> Job:
        """Bring a failed job back to the queue with its attempts' budget whole; its history stays.

        Raises:
            InvalidRequest: the job did not fail.
        """
        with self._writing() as scope:
            cancelling.check_owner(scope, Job, job_id, None)
            retrying.requeue(scope, job_id)
            return reading.get_job(scope, job_id, None)

    def replay(
        self,
        job_id: str,
        owner: str | None = None,
        *,
        priority: Priority = Priority.INTERACTIVE,
        quota: Quota | None = None,
    ) -> Job:
        """Queue a job that runs a succeeded one again, for `replay_verdict` to compare.

        Raises:
            NotFound: no such job of this owner.
            InvalidRequest: it did not succeed.
            LimitExceeded: more than its owner's `quota`.
        """
        with self._writing() as scope:
            replay_id = replaying.replay(scope, job_id, owner, priority=priority, quota=quota)
            return reading.get_job(scope, replay_id, owner)

    def replay_verdict(self, job: Job) -> dict[str, Any] | None:
        """What comparing a replay with its original says (`jobs.replay.compare`, with `of`); None for other jobs."""
        if job.replay_of is None:
            return None
        with self._reading() as scope:
            return replaying.verdict(scope, job)

    def reusable(self, job_id: str, fingerprint: str, recipe_ids: Collection[str]) -> GenerationRecord | None:
        """A stored generation of the same owner that a job may be answered with (`jobs.reuse`)."""
        with self._reading() as scope:
            return reusing.find(scope, job_id, fingerprint, recipe_ids)

    # Repair

    def sweep(self, *, spare_leases: bool = False) -> SweepReport:
        """Free the jobs of silent workers, end what can no longer start in time, finish cancelled batches.

        `spare_leases` leaves the first of these out: nobody could renew lately.
        """
        with self._reading() as scope:
            lease, deadline = sweep.earliest(scope)
        moved = self._free_leases() if lease is not None and lease <= 0 and not spare_leases else {}
        expired = self._expire_deadlines() if deadline is not None and deadline <= 0 else []
        cancelled = self._cancel_marked()
        self._number_ends()
        for rows, state in ((expired, JobState.EXPIRED), (cancelled, JobState.CANCELLED)):
            moved |= dict.fromkeys((row.id for row in rows if followed(row)), state)
        return SweepReport(
            requeued=[job_id for job_id, state in moved.items() if state is JobState.QUEUED],
            failed=[job_id for job_id, state in moved.items() if state is JobState.FAILED],
            expired=[job_id for job_id, state in moved.items() if state is JobState.EXPIRED],
            cancelled=[job_id for job_id, state in moved.items() if state is JobState.CANCELLED],
            num_more_expired=sum(not followed(row) for row in expired),
            num_more_cancelled=sum(not followed(row) for row in cancelled),
            seconds_to_next=min((left for left in (lease, deadline) if left is not None and left > 0), default=None),
        )

    def _free_leases(self) -> dict[str, JobState]:
        moved: dict[str, JobState] = {}
        for ids in self._chunks(sweep.leases_ran_out):
            with self._writing() as scope:
                moved |= dict(sweep.free_leases(scope, ids))
        return moved

    def _expire_deadlines(self) -> list[AnyRow]:
        expired: list[AnyRow] = []
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

    # Reading

    def get(self, job_id: str, owner: str | None = None) -> Job:
        """The job, detached. Raises NotFound (Deleted, where its owner deleted it)."""
        with self._reading() as scope:
            return reading.get_job(scope, job_id, owner)

    def get_generation(self, job_id: str) -> Generation | None:
        """The stored text of an ended job, if it has one."""
        with self._reading() as scope:
            return reading.get_generation(scope, job_id)

    def generations(self, ids: Collection[str]) -> dict[str, Generation]:
        """The stored texts of these jobs by job, without their token ids: what a page of a listing shows."""
        with self._reading() as scope:
            return reading.generations(scope, ids)

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
        *,
        id_prefix: str = "",
    ) -> tuple[list[Job], bool]:
        """A page of jobs, newest first (a batch's: last line first), and whether more follow. `after` is the id of the
        last one seen, `id_prefix` how ids begin. Raises NotFound for a cursor that names no job."""
        with self._reading() as scope:
            return reading.list_jobs(
                scope, state=state, batch_id=batch_id, limit=limit, after=after, owner=owner, id_prefix=id_prefix
            )

    # Housekeeping

    def forget(self) -> Forgotten:
        """Delete what is kept for a while only (see `jobs.store.housekeeping`), a bounded number of rows. Mend
        what older code leaves undone while it runs beside this. Call it now and then; truthy: there may be more."""
        with self._writing(durable=False) as scope:
            forgotten = housekeeping.forget(scope)
            housekeeping.note_taken(scope)
        self._number_ends(numbering.behind_anywhere)
        return forgotten

    def delete_old_jobs(self) -> int:
        """Erase a chunk of the single jobs that ended longer ago than `settings.keep_jobs_seconds`; how many."""
        with self._writing() as scope:
            return deleting.delete_old(scope)

    def old_batches(self, limit: int) -> Sequence[str]:
        """Batches that ended so long ago, and have lines that nobody has gone through."""
        with self._reading() as scope:
            return deleting.old_batches(scope, limit)

    def delete_lines(self, batch_id: str, after: int) -> tuple[int, int | None]:
        """Erase a chunk of an old batch's lines, those past the line `after`: how many, and the last one looked at,
        None at the end."""
        with self._writing() as scope:
            return deleting.delete_lines(scope, batch_id, after)

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

    def backup_runs(self) -> bool:
        """Whether somebody makes a backup just now: no object that a row has named may be deleted meanwhile."""
        with self._reading() as scope:
            return registry.office_is_held(scope, registry.BACKUP_OFFICE)

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
