"""How attempts and jobs end: the guarded statements, the stored generation, and the batch counters beside them.

A batch's counters are kept by the statements that end its jobs, in the same transaction, under the batch's lock.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from jobs.errors import LeaseLost
from jobs.records import AttemptRef, Failed, GenerationRecord, Outcome, recipe_id
from jobs.states import ENDED, JobState
from jobs.store import outbox
from jobs.store.counts import Deed
from jobs.store.numbers import as_json, number_of
from jobs.store.scope import AnyRow, Scope
from jobs.store.verdicts import AnyOutcome, Verdict, after
from jobs.tables import Attempt, Batch, Generation, Job, Recipe

Judged = tuple[AnyRow, Verdict]
"""A locked job and where it goes."""

COUNTERS = {
    JobState.SUCCEEDED: Batch.num_succeeded,
    JobState.FAILED: Batch.num_failed,
    JobState.CANCELLED: Batch.num_cancelled,
    JobState.EXPIRED: Batch.num_expired,
}

_END_ATTEMPTS = (
    sa.update(Attempt)
    .where(
        Attempt.job_id.in_(sa.bindparam("the_jobs", expanding=True)),
        Attempt.number == sa.bindparam("the_number"),
        Attempt.outcome.is_(None),
    )
    .values(outcome=sa.bindparam("outcome"), ended_at=sa.bindparam("ended_at"), error=sa.bindparam("error"))
)

_MOVE_JOBS = (
    sa.update(Job)
    .where(
        Job.id.in_(sa.bindparam("the_jobs", expanding=True)),
        Job.attempt == sa.bindparam("the_number"),
        Job.state == JobState.RUNNING,
    )
    .values(
        state=sa.bindparam("state"),
        num_failures=Job.num_failures + sa.bindparam("num_costs"),
        available_at=sa.func.coalesce(sa.bindparam("available_at", type_=Job.available_at.type), Job.available_at),
        ended_at=sa.bindparam("ended_at"),
        error=sa.bindparam("error"),
        end_number=number_of(sa.bindparam("numbers"), Job.id),
        lease_expires_at=None,
        published_at=None,
    )
)

_STORE_GENERATION = sa.insert(Generation)

_ADDED = {column: column + sa.bindparam(f"more_{state}", type_=sa.Integer) for state, column in COUNTERS.items()}
_NUM_ENDED: Any = sum(_ADDED.values())
_TALLY = (
    sa.update(Batch)
    .where(Batch.id == sa.bindparam("batch"))
    .values(
        {
            **_ADDED,
            Batch.num_ends: Batch.num_ends + sa.bindparam("more_ends", type_=sa.Integer),
            Batch.num_prompt_tokens: Batch.num_prompt_tokens + sa.bindparam("more_prompt", type_=sa.Integer),
            Batch.num_completion_tokens: Batch.num_completion_tokens
            + sa.bindparam("more_completion", type_=sa.Integer),
            Batch.ended_at: sa.case(
                (Batch.num_total == _NUM_ENDED, sa.bindparam("ended", type_=Batch.ended_at.type)), else_=None
            ),
        }
    )
    .returning(Batch.num_ends)
)


_END_QUEUED = (
    sa.update(Job)
    .where(Job.id.in_(sa.bindparam("the_jobs", expanding=True)), Job.state == JobState.QUEUED)
    .values(
        state=sa.bindparam("state"),
        ended_at=sa.bindparam("ended_at"),
        end_number=number_of(sa.bindparam("numbers"), Job.id),
        published_at=None,
    )
)


def finish_many(scope: Scope, finishes: Sequence[tuple[AttemptRef, Outcome]]) -> list[JobState | LeaseLost]:
    """End attempts together. An attempt that no longer holds its job is refused; the others are stored."""
    ids = {ref.job_id for ref, _ in finishes}
    scope.lock_batches(scope.batches_of(ids))
    jobs = {row.id: row for row in scope.lock_jobs(ids)}
    answers: list[JobState | LeaseLost] = []
    judged: list[Judged] = []
    records: list[tuple[AttemptRef, GenerationRecord]] = []
    for ref, outcome in finishes:
        job = jobs.get(ref.job_id)
        if job is None or job.state != JobState.RUNNING or job.attempt != ref.number:
            answers.append(LeaseLost(ref.job_id, ref.number))
            continue
        del jobs[ref.job_id]  # One end each: a second one in the same call finds no job.
        verdict = after(_storable(outcome), job, scope.now, scope.settings, scope.random)
        record = getattr(outcome, "generation", None)
        if record is not None:
            records.append((ref, record))
        judged.append((job, verdict))
        answers.append(verdict.state)
    apply(scope, judged, records)
    _store_generations(scope, records)
    return answers


def apply(scope: Scope, judged: Sequence[Judged], records: Sequence[tuple[AttemptRef, GenerationRecord]] = ()) -> None:
    """Move locked running jobs, and end their attempts, as judged; `records` are the texts stored with that."""
    if not judged:
        return
    ends = [(job.id, job.batch_id, verdict.state) for job, verdict in judged if verdict.state in ENDED]
    numbers = as_json(count(scope, ends, {ref.job_id: record for ref, record in records}))
    num_moved = 0
    for ids, number, verdict in _alike(judged):
        fence = {"the_jobs": ids, "the_number": number}
        move = {**fence, **_move(scope, verdict), "numbers": numbers}
        num_moved += scope.connection.execute(_MOVE_JOBS, move).rowcount
        scope.connection.execute(_END_ATTEMPTS, {**fence, **_ended_attempt(scope, verdict)})
    if num_moved != len(judged):
        raise RuntimeError(f"{num_moved} of {len(judged)} locked jobs moved")
    _count_attempts(scope, judged)
    outbox.job_ended(scope, ends)


def _count_attempts(scope: Scope, judged: Sequence[Judged]) -> None:
    for _, verdict in judged:
        scope.counts[Deed.ATTEMPT_ENDED, verdict.outcome] += 1
        if verdict.state is JobState.QUEUED:
            scope.counts[Deed.RETRIED, verdict.outcome] += 1


def _alike(judged: Sequence[Judged]) -> Iterable[tuple[list[str], int, Verdict]]:
    """Jobs that go the same way from an attempt of the same number, together: most succeed at their first."""
    groups: dict[str, tuple[list[str], int, Verdict]] = {}
    for job, verdict in judged:
        ids, _, _ = groups.setdefault(f"{job.attempt} {verdict!r}", ([], job.attempt, verdict))
        ids.append(job.id)
    return groups.values()


def _move(scope: Scope, verdict: Verdict) -> dict[str, Any]:
    return {
        "state": verdict.state,
        "num_costs": verdict.num_costs,
        "available_at": verdict.available_at,
        "ended_at": scope.now if verdict.state in ENDED else None,
        "error": verdict.error,
    }


def _ended_attempt(scope: Scope, verdict: Verdict) -> dict[str, Any]:
    return {"outcome": verdict.outcome, "ended_at": scope.now, "error": verdict.attempt_error}


def end_queued(scope: Scope, ids: Collection[str], state: JobState) -> list[AnyRow]:
    """End queued jobs that never got to run (again); those that ended, as they were before. Rows that a claim holds
    just now are left to it."""
    scope.lock_batches(scope.batches_of(ids))
    jobs = [job for job in scope.lock_jobs(ids, skip_locked=True) if job.state == JobState.QUEUED]
    if jobs:
        numbers = as_json(count(scope, [(job.id, job.batch_id, state) for job in jobs]))
        ended = {"the_jobs": [job.id for job in jobs], "state": state, "ended_at": scope.now, "numbers": numbers}
        scope.connection.execute(_END_QUEUED, ended)
        outbox.job_ended(scope, ((job.id, job.batch_id, state) for job in jobs))
    return jobs


def count(
    scope: Scope,
    ends: Sequence[tuple[str, str | None, JobState]],
    records: Mapping[str, GenerationRecord] | None = None,
) -> dict[str, int]:
    """Count jobs that end, `(job, batch, state)`, and their tokens in their (locked) batches; a batch whose last job
    ends, ends with it. Answers the number that each end gets within its batch."""
    numbers: dict[str, int] = {}
    lines: dict[str, list[tuple[str, JobState]]] = defaultdict(list)
    for job_id, batch_id, state in ends:
        scope.counts[Deed.ENDED, state] += 1
        if batch_id is not None:
            lines[batch_id].append((job_id, state))
    for batch_id in sorted(lines):
        texts = [records[job_id] for job_id, _ in lines[batch_id] if job_id in records] if records else []
        added = Counter(state for _, state in lines[batch_id])
        last = tally(scope, batch_id, added, texts)
        first = last - len(lines[batch_id]) + 1
        numbers |= {job_id: first + index for index, (job_id, _) in enumerate(lines[batch_id])}
    return numbers


def tally(
    scope: Scope,
    batch_id: str,
    added: Mapping[JobState, int],
    texts: Sequence[GenerationRecord] = (),
    **others: Any,
) -> int:
    """Add ends by state to a locked batch, and set its `others` columns; answer the newest `end_number`."""
    parameters: dict[str, Any] = {f"more_{state}": added.get(state, 0) for state in COUNTERS}
    parameters |= {
        "batch": batch_id,
        "more_ends": sum(added.values()),
        "more_prompt": sum(len(text.prompt_token_ids) for text in texts),
        "more_completion": sum(len(text.completion_token_ids) for text in texts),
        "ended": scope.now,
    }
    update = _TALLY if not others else _TALLY.values({getattr(Batch, name): value for name, value in others.items()})
    return int(scope.connection.scalar(update, parameters) or 0)


def ensure_recipes(scope: Scope, recipes: Iterable[Mapping[str, Any]]) -> None:
    """Store recipes that are new. In the order of their ids: two workers may bring the same new ones at once."""
    rows = {recipe_id(recipe): storable(recipe) for recipe in recipes}
    for identity in sorted(rows):
        row = {"id": identity, "body": rows[identity], "created_at": scope.now}
        scope.connection.execute(scope.insert(Recipe).values(row).on_conflict_do_nothing())


def _store_generations(scope: Scope, records: Sequence[tuple[AttemptRef, GenerationRecord]]) -> None:
    if not records:
        return
    identities = _recipe_ids([record.recipe for _, record in records])
    fresh = {identity: record.recipe for identity, (_, record) in zip(identities, records, strict=True)}
    ensure_recipes(scope, fresh.values())
    rows = [
        _generation(scope, ref, record, identity) for identity, (ref, record) in zip(identities, records, strict=True)
    ]
    scope.connection.execute(_STORE_GENERATION, rows)


def _recipe_ids(recipes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Their ids in order. A worker's recipes are the same few, so each is hashed once."""
    known: list[tuple[Mapping[str, Any], str]] = []
    identities: list[str] = []
    for recipe in recipes:
        identity = next((identity for other, identity in known if other == recipe), None)
        if identity is None:
            identity = recipe_id(recipe)
            known.append((recipe, identity))
        identities.append(identity)
    return identities


def _generation(scope: Scope, ref: AttemptRef, record: GenerationRecord, identity: str) -> dict[str, Any]:
    return {
        "job_id": ref.job_id,
        "attempt": ref.number,
        "completion": storable(record.completion),
        "finish_reason": record.finish_reason,
        "num_prompt_tokens": len(record.prompt_token_ids),
        "num_completion_tokens": len(record.completion_token_ids),
        "prompt_token_ids": list(record.prompt_token_ids),
        "completion_token_ids": list(record.completion_token_ids),
        "logprobs": None if record.logprobs is None else storable(list(record.logprobs)),
        "continuity": None if record.continuity is None else dict(record.continuity),
        "fingerprint": record.fingerprint,
        "recipe_id": identity,
        "timings": storable(dict(record.timings)),
        "stored_at": scope.now,
    }


def _storable(outcome: AnyOutcome) -> AnyOutcome:
    if isinstance(outcome, Failed):
        return Failed(str(storable(outcome.code)), str(storable(outcome.message)), outcome.retryable)
    return outcome


def storable(value: Any) -> Any:
    """Make a value that PostgreSQL's text and JSONB hold: a model may emit NUL, a logarithm may be infinite.

    A result must never be refused for its characters: NUL and half surrogates become U+FFFD, a number that is not
    finite becomes null. The token ids, stored beside, are exact.
    """
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {storable(str(name)): storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    return value
