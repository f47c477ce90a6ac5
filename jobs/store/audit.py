"""The audit: does every accepted job have exactly one end or is it alive, and do all rows agree with each other?

Each rule is a query for the rows that break it, and the sentence that names one. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from jobs.states import ENDED, AttemptOutcome, JobState
from jobs.store.scope import AnySelect, Scope
from jobs.tables import Attempt, Batch, Generation, Job

MAX_PER_RULE = 1000
"""Broken rows that one rule names; a database with more has one cause, not thousands."""

_COSTLY = (AttemptOutcome.FAILED, AttemptOutcome.LEASE_LOST)
_WITH_TEXT = (JobState.SUCCEEDED, JobState.CANCELLED, JobState.EXPIRED)

Rule = tuple[AnySelect, str]


def problems(scope: Scope) -> list[str]:
    """Run every rule; a sentence for each row that breaks one."""
    return [sentence for query, text in _rules() for sentence in _broken(scope, query, text)]


def _broken(scope: Scope, query: AnySelect, text: str) -> Iterator[str]:
    for row in scope.connection.execute(query.limit(MAX_PER_RULE)):
        yield text.format(**row._mapping)


def _rules() -> Iterator[Rule]:
    yield from _attempt_rules()
    yield from _generation_rules()
    yield from _job_rules()
    yield from _batch_rules()


def _attempt_rules() -> Iterator[Rule]:
    tally = (
        sa.select(
            Attempt.job_id,
            sa.func.count().label("num"),
            sa.func.max(Attempt.number).label("newest"),
            sa.func.sum(sa.case((Attempt.outcome.is_(None), 1), else_=0)).label("num_running"),
            sa.func.sum(sa.case((Attempt.outcome == AttemptOutcome.SUCCEEDED, 1), else_=0)).label("num_succeeded"),
            sa.func.sum(sa.case((Attempt.outcome.in_(_COSTLY), 1), else_=0)).label("num_costly"),
        )
        .group_by(Attempt.job_id)
        .subquery()
    )
    joined = sa.select(
        Job.id,
        Job.state,
        Job.attempt,
        Job.num_failures,
        *(sa.func.coalesce(tally.c[name], 0).label(name) for name in tally.c.keys()[1:]),
    ).select_from(sa.outerjoin(Job, tally, Job.id == tally.c.job_id))
    facts = joined.subquery()
    wrong_numbers = sa.or_(facts.c.num != facts.c.attempt, facts.c.newest != facts.c.attempt)
    yield (
        sa.select(facts).where(wrong_numbers),
        "{id}: says {attempt} attempts, has {num} with the newest numbered {newest}",
    )
    runs = sa.case((facts.c.state == JobState.RUNNING, 1), else_=0)
    yield sa.select(facts).where(facts.c.num_running != runs), "{id}: is {state} with {num_running} running attempts"
    succeeded = sa.case((facts.c.state == JobState.SUCCEEDED, 1), else_=0)
    yield (
        sa.select(facts).where(facts.c.num_succeeded != succeeded),
        "{id}: is {state} with {num_succeeded} attempts that succeeded",
    )
    yield (
        sa.select(facts).where(facts.c.num_failures > facts.c.num_costly),
        "{id}: counts {num_failures} failures, but {num_costly} attempts failed or lost their lease",
    )
    running_number = sa.select(Job.id, Job.attempt, Attempt.number).join(Attempt, Attempt.job_id == Job.id)
    yield (
        running_number.where(Attempt.outcome.is_(None), Attempt.number != Job.attempt),
        "{id}: attempt {number} runs, but the newest is {attempt}",
    )


def _generation_rules() -> Iterator[Rule]:
    with_text = sa.select(Job.id, Job.state, Job.attempt, Generation.attempt.label("of_attempt")).select_from(
        sa.outerjoin(Job, Generation, Generation.job_id == Job.id)
    )
    yield (
        with_text.where(Job.state == JobState.SUCCEEDED, Generation.job_id.is_(None)),
        "{id}: succeeded without a stored generation",
    )
    yield (
        with_text.where(Job.state.not_in(_WITH_TEXT), Generation.job_id.is_not(None)),
        "{id}: is {state} with a stored generation",
    )
    yield (
        with_text.where(Generation.attempt != Job.attempt),
        "{id}: its generation is of attempt {of_attempt}, its last attempt was {attempt}",
    )


def _job_rules() -> Iterator[Rule]:
    facts = sa.select(Job.id, Job.state, Job.num_failures, Job.max_attempts)
    no_error = sa.case((Job.error.is_(None), 1), else_=0)
    should_have_none = sa.case((Job.state != JobState.FAILED, 1), else_=0)
    yield facts.where(no_error != should_have_none), "{id}: is {state}, which does not fit its error"
    yield (
        facts.where(Job.ended_at.is_(None), Job.num_failures >= Job.max_attempts),
        "{id}: is {state} with {num_failures} of {max_attempts} attempts spent",
    )
    yield (
        facts.where(Job.state == JobState.QUEUED, Job.cancel_requested_at.is_not(None)),
        "{id}: is {state} although somebody cancelled it",
    )
    yield facts.where(Job.ended_at < Job.created_at), "{id}: ended before it was made"


def _batch_rules() -> Iterator[Rule]:
    counted = {
        "num_taken": sa.func.count(),
        **{f"num_{state}": sa.func.sum(sa.case((Job.state == state, 1), else_=0)) for state in sorted(ENDED)},
    }
    tally = (
        sa.select(Job.batch_id, *(column.label(f"real_{name}") for name, column in counted.items()))
        .where(Job.batch_id.is_not(None))
        .group_by(Job.batch_id)
        .subquery()
    )
    joined = sa.outerjoin(Batch, tally, Batch.id == tally.c.batch_id)
    for name in counted:
        says = getattr(Batch, name)
        has = sa.func.coalesce(tally.c[f"real_{name}"], 0)
        query = sa.select(Batch.id, says.label("says"), has.label("has")).select_from(joined)
        yield query.where(says != has), "{id}: says " + name + " = {says}, its jobs make {has}"
    num_ended = sum((getattr(Batch, f"num_{state}") for state in sorted(ENDED)), sa.literal(0))
    whole = sa.or_(num_ended == Batch.num_total, Batch.failed_at.is_not(None))
    over = sa.case((whole, 1), else_=0)
    marked = sa.case((Batch.ended_at.is_not(None), 1), else_=0)
    yield sa.select(Batch.id).where(over != marked), "{id}: ended_at does not fit its counters"
