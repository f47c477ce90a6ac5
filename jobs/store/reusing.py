"""A job that allows it may be answered with a stored generation that must come out the same: same owner, same recipe,
same fingerprint (`jobs.reuse`)."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from jobs.records import GenerationRecord
from jobs.states import FinishReason
from jobs.store.scope import Scope
from jobs.tables import Generation, Job, Recipe


def find(scope: Scope, job_id: str, fingerprint: str, recipe_ids: Collection[str]) -> GenerationRecord | None:
    """A whole generation that `job_id` may be answered with; None if its owner has none under one of these recipes."""
    mine = sa.select(Job.owner).where(Job.id == job_id).scalar_subquery()
    query = (
        sa.select(*Generation.__table__.columns, Recipe.body)
        .join(Job, Job.id == Generation.job_id)
        .join(Recipe, Recipe.id == Generation.recipe_id)
        .where(
            Generation.fingerprint == fingerprint,
            Generation.recipe_id.in_(recipe_ids),
            Generation.finish_reason.is_not(None),
            Job.owner == mine,
        )
        .limit(1)
    )
    row = scope.connection.execute(query).mappings().one_or_none()
    if row is None:
        return None
    return GenerationRecord(
        completion=row["completion"],
        finish_reason=FinishReason(row["finish_reason"]),
        prompt_token_ids=row["prompt_token_ids"],
        completion_token_ids=row["completion_token_ids"],
        recipe=row["body"],
        logprobs=row["logprobs"],
        continuity={"mode": "reused", "of": row["job_id"]},
    )
