"""/v1/jobs/{id}/replay: run a stored generation again, and see whether it comes out the same."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.keys import Maker
from api.reading import check_id, read_job
from api.routes import refusals
from api.services import Services, services
from api.wire import JobObject
from jobs.states import Priority

router = APIRouter(tags=["jobs"])


@router.post(
    "/v1/jobs/{job_id}/replay",
    status_code=202,
    response_model=JobObject,
    summary="Replay a job",
    responses=refusals(400, 401, 404, 503),
)
def replay(
    parts: Annotated[Services, Depends(services)],
    maker: Maker,
    job_id: str,
    priority: Annotated[Priority, Query(description="The queue it waits in.")] = Priority.INTERACTIVE,
) -> JobObject:
    """Run a job that succeeded again: same prompt, parameters, seed and row class. It is a job like any other; once
    it has ended, its `replay` says `match`, `differs` (with the first token that does) or `recipe_differs`."""
    job = parts.store.replay(check_id("job", job_id), maker.sees, priority=priority, quota=maker.quota)
    interactive = [job.id] if priority is Priority.INTERACTIVE else []
    parts.announcer.queued(interactive, 1 - len(interactive))
    return read_job(parts.store, job.id, maker.sees)
