"""Running a stored generation again: a job like any other, that knows which one it is to be compared with."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from jobs.errors import Deleted, InvalidRequest, NotFound
from jobs.ids import new_id
from jobs.keys import Quota
from jobs.replay import Told, compare
from jobs.states import ENDED, JobState, Priority, ReplayResult
from jobs.store import quotas
from jobs.store.counts import Deed
from jobs.store.scope import Scope
from jobs.tables import Generation, Job, Recipe
from jobs.tracing import traceparent

COPIED = ("owner", "model", "prompt", "messages", "parameters", "seed", "num_prompt_tokens")
"""What decides a text besides the recipe; and whose it is."""


def replay(scope: Scope, job_id: str, owner: str | None, *, priority: Priority, quota: Quota | None = None) -> str:
    """Queue a replay of a succeeded job; its id.

    Raises:
        NotFound: no such job of this owner.
        InvalidRequest: it has no whole text to be compared with.
        LimitExceeded: more than its owner's quota.
    """
    original = scope.connection.execute(sa.select(Job).where(Job.id == job_id)).mappings().one_or_none()
    if original is None or owner not in {None, original["owner"]}:
        raise NotFound("job", job_id)
    if original["deleted_at"] is not None:
        raise Deleted("job", job_id)
    if original["state"] != JobState.SUCCEEDED:
        message = f"Only a job that succeeded can be replayed; {job_id} is {original['state']}."
        raise InvalidRequest(message, param="id", code="not_replayable")
    quotas.admit(scope, original["owner"], quota, num_tokens=quotas.tokens_of(dict(original)))
    replay_id = new_id("job")
    row = {name: original[name] for name in COPIED} | {
        "id": replay_id,
        "parameters": {name: value for name, value in original["parameters"].items() if name != "reuse"},
        "state": JobState.QUEUED,
        "priority": priority,
        "replay_of": job_id,
        "row_class": _row_class(scope, job_id),
        "max_attempts": scope.settings.max_attempts,
        "available_at": scope.now,
        "traceparent": traceparent(),
        "created_at": scope.now,
    }
    scope.connection.execute(sa.insert(Job), [row])
    scope.counts[Deed.ACCEPTED, priority] += 1
    return replay_id


def _row_class(scope: Scope, job_id: str) -> str | None:
    query = (
        sa.select(Recipe.body).join(Generation, Generation.recipe_id == Recipe.id).where(Generation.job_id == job_id)
    )
    body = scope.connection.scalar(query)
    return None if body is None else body.get("row_class")


def verdict(scope: Scope, job: Job) -> dict[str, Any] | None:
    """What the comparison of a replay says, with `of`; None for a job that is no replay."""
    if job.replay_of is None:
        return None
    if job.state not in ENDED:
        return {"of": job.replay_of, "result": ReplayResult.PENDING}
    if _is_deleted(scope, job.replay_of):
        return {"of": job.replay_of, "result": ReplayResult.ORIGINAL_DELETED}
    told = [_told(scope, identity) for identity in (job.replay_of, job.id)]
    if job.state != JobState.SUCCEEDED or told[0] is None or told[1] is None:
        return {"of": job.replay_of, "result": ReplayResult.UNAVAILABLE}
    return {"of": job.replay_of, **compare(told[0], told[1])}


def _is_deleted(scope: Scope, job_id: str) -> bool:
    """Whether a job is no more. What is left of one goes after a while: it was deleted too."""
    row = scope.connection.execute(sa.select(Job.deleted_at).where(Job.id == job_id)).one_or_none()
    return row is None or row.deleted_at is not None


def _told(scope: Scope, job_id: str) -> Told | None:
    query = (
        sa.select(Generation.completion, Generation.completion_token_ids, Recipe.body)
        .join(Recipe, Recipe.id == Generation.recipe_id)
        .where(Generation.job_id == job_id)
    )
    row = scope.connection.execute(query).one_or_none()
    return None if row is None else Told(row.completion, row.completion_token_ids, row.body)
