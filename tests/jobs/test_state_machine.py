"""The store against a model of it: Hypothesis plays claimers, finishers, sweepers and callers, and moves the clock.

The model knows who holds which attempt and until when. After each step the audit must be clean and no job may be in
a state that the table of transitions does not lead to; at the end every job can still be brought to an end.

Batches made from files are among them: a clerk that takes lines in may be killed between any two chunks, and in the
middle of one; a second clerk may bring a chunk again. Numbers of ends are watched from outside: each belongs to one end
for ever.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.engine import Engine

from jobs.checked import CheckedLine
from jobs.database import open_engine
from jobs.errors import InvalidRequest, LeaseLost, NotEnded
from jobs.records import AttemptRef, Cancelled, Expired, Failed, Interrupted, Outcome, Succeeded
from jobs.states import ENDED, TRANSITIONS, JobState
from jobs.store import Store, taking
from jobs.store.reading import rows
from jobs.tables import Base, Job
from tests.jobs.batch_support import checked_lines, make_batch, write_files
from tests.jobs.support import Clock, make_job, make_line, make_record, make_settings

LEASE_SECONDS = 30.0

outcomes = st.sampled_from(
    [
        Succeeded(make_record("whole")),
        Failed("busy", "try again", True),
        Failed("bad", "never", False),
        Cancelled(make_record("half")),
        Cancelled(),
        Expired(),
        Interrupted(),
    ]
)


class Killed(Exception):
    """Ends a transaction as the death of its process would: nothing of it is there."""


class StoreMachine(RuleBasedStateMachine):
    """The rules. `engine` is set by the test: a migrated database."""

    engine: Engine

    job_ids = Bundle("job_ids")
    batch_ids = Bundle("batch_ids")
    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        with self.engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(sa.delete(table))
        self.store = Store(
            self.engine,
            settings=make_settings(lease_seconds=LEASE_SECONDS, max_attempts=2, dispatch_window=3),
            clock=self.clock,
            dice=random.Random(1),
        )
        self.states: dict[str, JobState] = {}
        self.holders: dict[str, AttemptRef] = {}
        self.lines: dict[str, list[CheckedLine]] = {}
        self.deleted: set[str] = set()
        self.numbers: dict[tuple[str, int], str] = {}
        """Who got which number of which batch, ever."""

    @rule(target=job_ids, deadline=st.none() | st.integers(1, 60))
    def submit(self, deadline: int | None) -> str:
        return self._accept([make_job(deadline_seconds=deadline)])[0]

    @rule(target=batch_ids, number=st.integers(1, 4))
    def submit_batch(self, number: int) -> str:
        made = self.store.submit([make_line() for _ in range(number)], new_batch=True)
        self.states |= dict.fromkeys(made.ids, JobState.QUEUED)
        return str(made.batch_id)

    def _accept(self, jobs: list[Any]) -> list[str]:
        ids = list(self.store.submit(jobs).ids)
        self.states |= dict.fromkeys(ids, JobState.QUEUED)
        return ids

    @rule(target=job_ids, batch_id=batch_ids, index=st.integers(0, 3))
    def pick_line(self, batch_id: str, index: int) -> Any:
        lines = self._lines(batch_id)
        return lines[index % len(lines)].id if lines else multiple()

    @rule(target=attempts, job_id=job_ids, worker=st.sampled_from("abc"))
    def claim(self, job_id: str, worker: str) -> Any:
        held = self.holders.get(job_id)
        claimed = self.store.claim(job_id, worker)
        if claimed is None:
            return multiple()
        assert held is None, "a job was claimed while somebody held it"
        self.holders[job_id] = claimed.ref
        return claimed.ref

    @rule(target=attempts, wanted=st.lists(job_ids, min_size=1, max_size=4, unique=True))
    def claim_group(self, wanted: list[str]) -> Any:
        taken = self.store.claim_many(wanted, "a")
        assert not taken.keys() & self.holders.keys(), "a job was claimed while somebody held it"
        assert taken.keys() <= set(wanted)
        self.holders |= {job_id: claimed.ref for job_id, claimed in taken.items()}
        return multiple(*(claimed.ref for claimed in taken.values()))

    @rule(target=attempts, ref=attempts, worker=st.sampled_from("abc"))
    def stall_past_the_lease_while_another_claims(self, ref: AttemptRef, worker: str) -> Any:
        self.clock.move(LEASE_SECONDS + 1)
        self.sweep()
        return self.claim(ref.job_id, worker)

    @rule(ref=attempts, outcome=outcomes)
    def finish(self, ref: AttemptRef, outcome: Outcome) -> None:
        holds = self.holders.get(ref.job_id) == ref
        try:
            self.store.finish(ref, outcome)
        except LeaseLost:
            assert not holds, "the holder of a lease was refused"
        else:
            assert holds, "a stale attempt ended its job"
            del self.holders[ref.job_id]

    @rule(group=st.lists(st.tuples(attempts, outcomes), min_size=1, max_size=4))
    def finish_group(self, group: list[tuple[AttemptRef, Outcome]]) -> None:
        answers = self.store.finish_many(group)
        for (ref, _), answer in zip(group, answers, strict=True):
            holds = self.holders.get(ref.job_id) == ref
            assert holds == (not isinstance(answer, LeaseLost))
            if holds:
                del self.holders[ref.job_id]

    @rule(refs=st.lists(attempts, min_size=1, max_size=4, unique_by=lambda ref: ref.job_id))
    def renew(self, refs: list[AttemptRef]) -> None:
        assert self.store.renew(refs, "a").held == {ref for ref in refs if self.holders.get(ref.job_id) == ref}

    @rule(job_id=job_ids)
    def cancel(self, job_id: str) -> None:
        if job_id not in self.deleted:
            self.store.cancel(job_id)

    @rule(job_id=job_ids)
    def delete(self, job_id: str) -> None:
        """Once it has ended; from then on nothing moves it, and it stays in all that is counted."""
        try:
            self.store.delete(job_id)
        except NotEnded:
            assert self.states[job_id] not in ENDED
        else:
            self.deleted.add(job_id)
            assert job_id not in self.holders

    @rule(target=batch_ids, number=st.integers(1, 5), bad=st.integers(0, 2))
    def make_batch_of_a_file(self, number: int, bad: int) -> str:
        batch = make_batch(self.store, number + bad, bad, completion_window="90s", window_seconds=90.0)
        self.lines[batch.id] = checked_lines(number + bad, bad)
        return batch.id

    @rule(batch_id=batch_ids, size=st.integers(1, 3), killed=st.booleans())
    def take_in(self, batch_id: str, size: int, killed: bool) -> None:
        """A clerk takes the next chunk in; or is killed within, and nothing of the chunk is there."""
        batch = self.store.get_batch(batch_id)[0]
        rest = [line for line in self.lines.get(batch_id, []) if line.start >= batch.intake_byte]
        chunk = rest[:size]
        if not chunk:
            return
        if killed:
            with pytest.raises(Killed):
                self._die_within(batch_id, chunk, done=len(rest) <= size)
            return
        assert self.store.take_in(batch_id, chunk, chunk[-1].end, done=len(rest) <= size)
        assert not self.store.take_in(batch_id, chunk, chunk[-1].end, done=len(rest) <= size), "taken in twice"
        known = self.states.keys()
        self.states |= {job.id: JobState(job.state) for job in self._lines(batch_id) if job.id not in known}

    def _die_within(self, batch_id: str, chunk: list[CheckedLine], *, done: bool) -> None:
        with self.store._writing() as scope:
            ready = taking.prepare(scope, batch_id, chunk)
            assert taking.take_in(scope, batch_id, ready, chunk[-1].end, done=done)
            raise Killed

    def _lines(self, batch_id: str) -> list[Any]:
        return self.store.list_jobs(batch_id=batch_id, limit=10_000)[0]

    @rule(batch_id=batch_ids)
    def cancel_batch(self, batch_id: str) -> None:
        self.store.cancel_batch(batch_id)
        assert JobState.QUEUED not in {job.state for job in self._lines(batch_id)}

    @rule(batch_id=batch_ids)
    def retry_batch(self, batch_id: str) -> None:
        before = {job.id: job for job in self._lines(batch_id)}
        try:
            num_retried = self.store.retry_batch(batch_id)
        except InvalidRequest:
            assert self.store.get_batch(batch_id)[0].cancel_requested_at is not None
            return
        ran = [job for job in before.values() if job.state == JobState.FAILED and job.attempt > 0]
        late = [job for job in before.values() if job.state == JobState.EXPIRED]
        assert num_retried == len(ran) + len(late)
        self.states |= {job.id: JobState.QUEUED for job in (*ran, *late)}

    @rule(batch_id=batch_ids)
    def write_files(self, batch_id: str) -> None:
        batch = self.store.get_batch(batch_id)[0]
        if batch_id in self.lines and batch.finalized_at is None:
            write_files(self.store, batch_id)
            assert self.store.finalize(batch_id) == (batch.ended_at is not None)

    @rule(batch_id=batch_ids)
    def extend_batch(self, batch_id: str) -> None:
        if batch_id not in self.lines and self.store.get_batch(batch_id)[0].cancel_requested_at is None:
            made = self.store.submit([make_line()], batch_id=batch_id)
            self.states |= dict.fromkeys(made.ids, JobState.QUEUED)

    @rule(job_id=job_ids)
    def requeue(self, job_id: str) -> None:
        if job_id in self.deleted:
            return
        job = self.store.get(job_id)
        if job.state == JobState.FAILED and job.attempt > 0:
            assert self.store.requeue(job_id).num_failures == 0

    @rule(seconds=st.sampled_from([0.5, 5.0, LEASE_SECONDS + 1]))
    def move_clock(self, seconds: float) -> None:
        self.clock.move(seconds)

    @rule()
    def sweep(self) -> None:
        report = self.store.sweep()
        for job_id in (*report.requeued, *report.failed, *report.expired, *report.cancelled):
            self.holders.pop(job_id, None)

    @rule()
    def dispatch(self) -> None:
        chosen = self.store.to_publish()
        self.store.mark_published([*chosen.interactive, *chosen.batch])
        in_flight = [job for job in self._jobs() if job.priority == "batch" and self._in_flight(job)]
        assert len(in_flight) <= max(3, sum(job.state == JobState.RUNNING for job in in_flight))

    def _in_flight(self, job: Any) -> bool:
        return job.state == JobState.RUNNING or job.published_at is not None

    @rule(ref=consumes(attempts))
    def forget(self, ref: AttemptRef) -> None:
        """A worker that is gone for good: only its lease can free the job."""

    def _jobs(self) -> list[Any]:
        """All rows, those of deleted jobs too."""
        with self.store._reading() as scope:
            return list(rows(scope, sa.select(Job).order_by(Job.id.desc())))

    @invariant()
    def every_job_moved_as_the_table_allows(self) -> None:
        jobs = {job.id: JobState(job.state) for job in self._jobs()}
        assert jobs.keys() == self.states.keys(), "a job vanished"
        for job_id, state in jobs.items():
            before = self.states[job_id]
            steps = {before} if job_id in self.deleted and before in ENDED else TRANSITIONS[before] | {before}
            # A finish and a retry may both lie between two looks: one state in between is allowed.
            assert state in steps or any(state in TRANSITIONS[step] for step in steps), f"{before} became {state}"
            assert (state is JobState.RUNNING) == (job_id in self.holders)
        self.states = jobs

    @invariant()
    def a_number_belongs_to_one_end_for_ever(self) -> None:
        for job in self._jobs():
            if job.batch_id is None or job.end_number is None:
                continue
            owner = self.numbers.setdefault((job.batch_id, job.end_number), f"{job.id} at {job.ended_at}")
            assert owner == f"{job.id} at {job.ended_at}", "a number was used again"
        for batch in self.store.list_batches(limit=10_000)[0]:
            given = sum(1 for batch_id, _ in self.numbers if batch_id == batch.id)
            assert batch.num_ends >= given
            if batch.ended_at is not None and batch.num_ends == batch.num_total:
                assert given == batch.num_ends, "the numbers of a batch that never ran again have a gap"

    @invariant()
    def the_audit_is_clean(self) -> None:
        assert self.store.audit() == []

    def teardown(self) -> None:
        """Nothing is stuck: with time, sweeps, a clerk and willing workers every job ends, and every file is whole."""
        for batch_id, lines in self.lines.items():
            self.take_in(batch_id, len(lines), killed=False)
        for _ in range(6):
            self.clock.move(120)
            self.sweep()
            for job in self._jobs():
                claimed = self.store.claim(job.id, "last")
                if claimed is not None:
                    self.store.finish(claimed.ref, Succeeded(make_record()))
        assert {JobState(job.state) for job in self._jobs()} <= ENDED
        for batch_id in self.lines:
            self.write_files(batch_id)
            assert self.store.get_batch(batch_id)[0].finalized_at is not None
        assert self.store.audit() == []


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """The test's database; SQLite's in memory-backed storage, where a commit costs no disk."""
    folder = None
    url = database_url
    shared_memory = Path("/dev/shm")
    if url.startswith("sqlite") and shared_memory.is_dir():
        folder = tempfile.mkdtemp(dir=shared_memory)
        url = f"sqlite:///{shutil.copy(url.removeprefix('sqlite:///'), folder)}"
    opened = open_engine(url)
    yield opened
    opened.dispose()
    if folder is not None:
        shutil.rmtree(folder)


def test_no_order_of_events_loses_or_doubles_a_job(engine: Engine) -> None:
    machine = type("Machine", (StoreMachine,), {"engine": engine})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            # A failure is 25 steps at most, which can be read; shrinking it would take minutes of database work.
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )
