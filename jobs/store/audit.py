"""The audit: does every accepted job have exactly one end or is it alive, and do all rows agree with each other?

Each rule is a query for the rows that break it, and the sentence that names one. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from jobs.states import ENDED, AttemptOutcome, JobState
from jobs.store.scope import AnySelect, Scope
from jobs.tables import Attempt, Batch, File, FileSegment, Generation, Job

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
    yield from _deletion_rules()
    yield from _batch_rules()
    yield from _file_batch_rules()
    yield from _end_rules()
    yield from _token_rules()
    yield from _file_rules()
    yield from _result_rules()


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
    facts = joined.where(Job.deleted_at.is_(None)).subquery()
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


def _deletion_rules() -> Iterator[Rule]:
    """What was deleted had ended, and of it nothing is left but numbers. (Its generation keeps them for its batch.)"""
    deleted = sa.select(Job.id, Job.state).where(Job.deleted_at.is_not(None))
    yield deleted.where(Job.ended_at.is_(None)), "{id}: was deleted, but is {state}"
    written = sa.or_(Job.prompt != "", Job.messages.is_not(None))
    yield deleted.where(written), "{id}: was deleted, but its prompt is stored"
    told = sa.or_(Generation.completion != "", Generation.fingerprint.is_not(None), Generation.logprobs.is_not(None))
    texts = deleted.join(Generation, Generation.job_id == Job.id)
    yield texts.where(told), "{id}: was deleted, but its text is stored"
    yield deleted.where(sa.exists().where(Attempt.job_id == Job.id)), "{id}: was deleted, but its attempts are stored"


def _batch_rules() -> Iterator[Rule]:
    counted = {
        "num_rows": sa.func.count(),
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
        # Older code knows no `num_taken`: of a batch without a file the total is what counts.
        rows = sa.case((Batch.input_file_id.is_(None), Batch.num_total), else_=Batch.num_taken)
        says = rows if name == "num_rows" else getattr(Batch, name)
        has = sa.func.coalesce(tally.c[f"real_{name}"], 0)
        query = sa.select(Batch.id, says.label("says"), has.label("has")).select_from(joined)
        yield query.where(says != has), "{id}: says " + name + " = {says}, its jobs make {has}"
    num_ended = sum((getattr(Batch, f"num_{state}") for state in sorted(ENDED)), sa.literal(0))
    whole = sa.or_(num_ended == Batch.num_total, Batch.failed_at.is_not(None))
    over = sa.case((whole, 1), else_=0)
    marked = sa.case((Batch.ended_at.is_not(None), 1), else_=0)
    yield sa.select(Batch.id).where(over != marked), "{id}: ended_at does not fit its counters"


def _file_batch_rules() -> Iterator[Rule]:
    facts = sa.select(Batch.id, Batch.num_total, Batch.num_taken, Batch.intake_byte)
    from_file = Batch.input_file_id.is_not(None)
    missing = sa.and_(from_file, Batch.taken_at.is_not(None), Batch.num_taken != Batch.num_total)
    yield facts.where(missing), "{id}: has taken in {num_taken} of {num_total} lines, but says that this is all"
    yield (
        facts.where(Batch.failed_at.is_not(None), Batch.num_taken > 0),
        "{id}: was refused as a whole, but has taken in {num_taken} lines",
    )
    yield (
        facts.where(Batch.failed_at.is_not(None), Batch.errors.is_(None)),
        "{id}: was refused as a whole without saying why",
    )
    yield (
        facts.where(from_file, Batch.num_taken > 0, Batch.intake_byte == 0),
        "{id}: has taken in {num_taken} lines of its file, but has read none of it",
    )
    unborn = sa.select(Job.id, Job.state).where(Job.state == JobState.FAILED, Job.attempt == 0)
    lines = sa.outerjoin(Job, Batch, Batch.id == Job.batch_id)
    yield (
        unborn.select_from(lines).where(Batch.input_file_id.is_(None)),
        "{id}: failed without an attempt, and is no line of a file",
    )


def _end_rules() -> Iterator[Rule]:
    """Every end of a line has a number of its own, and none is above the newest. (Numbers of lines that ran again are
    gone: that is the only gap there is.)"""
    unnumbered = sa.select(Job.id, Job.state).where(Job.batch_id.is_not(None), Job.ended_at.is_not(None))
    yield unnumbered.where(Job.end_number.is_(None)), "{id}: is {state}, but its end has no number in its batch"
    facts = (
        sa.select(
            Job.batch_id.label("id"),
            sa.func.count(Job.end_number).label("num"),
            sa.func.count(Job.end_number.distinct()).label("num_distinct"),
            sa.func.min(Job.end_number).label("first"),
            sa.func.max(Job.end_number).label("last"),
        )
        .where(Job.batch_id.is_not(None))
        .group_by(Job.batch_id)
        .subquery()
    )
    joined = sa.select(facts, Batch.num_ends).join(Batch, Batch.id == facts.c.id)
    yield joined.where(facts.c.num != facts.c.num_distinct), "{id}: {num} ends share {num_distinct} numbers"
    yield joined.where(facts.c.first < 1), "{id}: has an end numbered {first}"
    yield joined.where(facts.c.last > Batch.num_ends), "{id}: has an end numbered {last} after its newest, {num_ends}"
    yield joined.where(facts.c.num > Batch.num_ends), "{id}: has {num} ends, but has counted {num_ends}"


def _token_rules() -> Iterator[Rule]:
    spent = (
        sa.select(
            Job.batch_id,
            sa.func.sum(Generation.num_prompt_tokens).label("prompt"),
            sa.func.sum(Generation.num_completion_tokens).label("completion"),
        )
        .join(Generation, Generation.job_id == Job.id)
        .where(Job.batch_id.is_not(None))
        .group_by(Job.batch_id)
        .subquery()
    )
    joined = sa.outerjoin(Batch, spent, Batch.id == spent.c.batch_id)
    for kind, says in (("prompt", Batch.num_prompt_tokens), ("completion", Batch.num_completion_tokens)):
        has = sa.func.coalesce(spent.c[kind], 0)
        query = sa.select(Batch.id, says.label("says"), has.label("has")).select_from(joined)
        yield query.where(says != has), "{id}: says {says} " + kind + " tokens, the texts of its lines have {has}"


def _file_rules() -> Iterator[Rule]:
    """A file's segments follow each other from its first byte to its last. (Those of a deleted one may be gone.)"""
    follows = sa.func.lead(FileSegment.start_byte).over(
        partition_by=FileSegment.file_id, order_by=FileSegment.start_byte
    )
    ends = FileSegment.start_byte + FileSegment.num_bytes
    chain = sa.select(FileSegment.file_id.label("id"), ends.label("ends"), follows.label("next")).subquery()
    yield (
        sa.select(chain).where(chain.c.next != chain.c.ends),
        "{id}: a segment ends at byte {ends}, the next begins at byte {next}",
    )
    sums = (
        sa.select(
            FileSegment.file_id,
            sa.func.sum(FileSegment.num_bytes).label("num"),
            sa.func.min(FileSegment.start_byte).label("first"),
        )
        .group_by(FileSegment.file_id)
        .subquery()
    )
    has, first = sa.func.coalesce(sums.c.num, 0), sa.func.coalesce(sums.c.first, 0)
    query = sa.select(File.id, File.num_bytes, has.label("has"), first.label("first")).select_from(
        sa.outerjoin(File, sums, File.id == sums.c.file_id)
    )
    alive = query.where(File.deleted_at.is_(None))
    yield alive.where(File.num_bytes != has), "{id}: says {num_bytes} bytes, its segments have {has}"
    yield alive.where(first != 0), "{id}: its first segment begins at byte {first}"
    yield (
        sa.select(File.id, File.num_lines, File.num_invalid).where(File.num_invalid > File.num_lines),
        "{id}: has {num_invalid} invalid lines of {num_lines}",
    )


def _result_rules() -> Iterator[Rule]:
    """What a batch's files hold is what its rows say."""
    cursors = sa.select(Batch.id, Batch.num_ends, Batch.output_cursor, Batch.error_cursor)
    for name, cursor in (("output", Batch.output_cursor), ("error", Batch.error_cursor)):
        past = "{id}: its " + name + " file covers ends up to {" + name + "_cursor}, of {num_ends}"
        yield cursors.where(cursor > Batch.num_ends), past
        yield cursors.where(Batch.finalized_at.is_not(None), cursor != Batch.num_ends), past
    yield (
        cursors.where(Batch.finalized_at.is_not(None), Batch.ended_at.is_(None)),
        "{id}: its files are closed, but it has not ended",
    )
    num_others = Batch.num_failed + Batch.num_cancelled + Batch.num_expired
    for name, file_id, wanted in (
        ("output", Batch.output_file_id, Batch.num_succeeded),
        ("error", Batch.error_file_id, num_others),
    ):
        lines = sa.func.coalesce(File.num_lines, 0)
        query = sa.select(Batch.id, lines.label("has"), wanted.label("wanted")).select_from(
            sa.outerjoin(Batch, File, File.id == file_id)
        )
        text = "{id}: its " + name + " file has {has} lines, its rows make {wanted}"
        yield query.where(Batch.finalized_at.is_not(None), sa.not_(_lost_a_file()), lines != wanted), text
    growing = sa.select(File.id, Batch.id.label("batch")).join(
        Batch, sa.or_(Batch.output_file_id == File.id, Batch.error_file_id == File.id)
    )
    yield (
        growing.where(Batch.finalized_at.is_not(None), File.complete_at.is_(None)),
        "{id}: is not complete, although its batch {batch} is closed",
    )


def _lost_a_file() -> sa.ColumnElement[bool]:
    """Whether somebody deleted a file of the batch's results: a retry writes on in a new one, without the old lines."""
    file = aliased(File)
    return sa.exists().where(file.batch_id == Batch.id, file.deleted_at.is_not(None))
