"""Numbers for ends that have none: lines that older code ended, while both ran beside each other during an upgrade.

Such an end is counted in its batch like any other, but not its tokens; without a number it would come into no file and
no stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from jobs.states import ENDED
from jobs.store import ending
from jobs.store.numbers import as_json, number_of
from jobs.store.scope import UNFINISHED, Scope
from jobs.tables import Batch, Generation, Job

CHUNK = 1000
_NUM_ENDED = sum((column for column in ending.COUNTERS.values()), sa.literal(0))
_BEHIND = Batch.num_ends < _NUM_ENDED
_NUMBER = (
    sa.update(Job)
    .where(Job.id.in_(sa.bindparam("the_jobs", expanding=True)))
    .values(end_number=number_of(sa.bindparam("numbers"), Job.id))
)


def behind(scope: Scope, limit: int) -> Sequence[str]:
    """Find batches that count more ends than they have numbered, among those that are open or unfinished."""
    alive = sa.or_(sa.text("batches.ended_at IS NULL"), UNFINISHED)
    return scope.connection.scalars(sa.select(Batch.id).where(alive, _BEHIND).order_by(Batch.id).limit(limit)).all()


def behind_anywhere(scope: Scope, limit: int) -> Sequence[str]:
    """The same among all batches: reads each of them, so it is for housekeeping."""
    return scope.connection.scalars(sa.select(Batch.id).where(_BEHIND).order_by(Batch.id).limit(limit)).all()


def number_some(scope: Scope, batch_id: str) -> int:
    """Number a chunk of a (locked) batch's ends that have none, in the order in which they came; how many."""
    batch = scope.connection.execute(
        sa.select(Batch.num_ends, _NUM_ENDED.label("num_ended")).where(Batch.id == batch_id)
    ).one()
    numbered = sa.select(sa.func.count()).select_from(Job)
    numbered = numbered.where(Job.batch_id == batch_id, sa.text("jobs.end_number IS NOT NULL"))
    if batch.num_ended == scope.connection.scalar(numbered):
        return 0
    query = sa.select(Job.id).where(Job.batch_id == batch_id, Job.state.in_(ENDED), Job.end_number.is_(None))
    ids = scope.connection.scalars(query.order_by(Job.ended_at, Job.id).limit(CHUNK)).all()
    if ids:
        first = batch.num_ends + 1
        numbers = as_json({job_id: first + index for index, job_id in enumerate(ids)})
        scope.connection.execute(_NUMBER, {"the_jobs": ids, "numbers": numbers})
        scope.connection.execute(
            sa.update(Batch)
            .where(Batch.id == batch_id)
            .values({Batch.num_ends: first + len(ids) - 1, **_spent(scope, ids)})
        )
    return len(ids)


def _spent(scope: Scope, ids: Sequence[str]) -> dict[Any, Any]:
    """The tokens of these lines' texts, added to their batch's: who gave an end no number has not counted them."""
    columns = (Generation.num_prompt_tokens, Generation.num_completion_tokens)
    query = sa.select(*(sa.func.coalesce(sa.func.sum(column), 0) for column in columns))
    spent = scope.connection.execute(query.where(Generation.job_id.in_(ids))).one()
    return {
        Batch.num_prompt_tokens: Batch.num_prompt_tokens + int(spent[0]),
        Batch.num_completion_tokens: Batch.num_completion_tokens + int(spent[1]),
    }
