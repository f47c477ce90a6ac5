"""/v1/batches/{id}: how far a batch has come, and cancelling it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends

from api.keys import Owner
from api.reading import check_id, read_batch
from api.routes import refusals
from api.services import Services, services
from api.wire import BatchObject
from jobs.states import JobState
from jobs.store import Store

router = APIRouter(tags=["batches"])

Parts = Annotated[Services, Depends(services)]


@router.get(
    "/v1/batches/{batch_id}", response_model=BatchObject, summary="Read a batch", responses=refusals(401, 404, 503)
)
def read(parts: Parts, owner: Owner, batch_id: str) -> BatchObject:
    """The batch and its counts. Its jobs: `GET /v1/jobs?batch_id=`."""
    return read_batch(parts.store, batch_id, owner)


@router.post(
    "/v1/batches/{batch_id}/cancel",
    response_model=BatchObject,
    summary="Cancel a batch",
    responses=refusals(401, 404, 503),
)
def cancel(parts: Parts, owner: Owner, batch_id: str, after_reply: BackgroundTasks) -> BatchObject:
    """Its queued jobs end at once, its running ones within a second. Those that have ended stay as they are."""
    parts.store.cancel_batch(check_id("batch", batch_id), owner=owner)
    after_reply.add_task(parts.announcer.cancel_requested, _running(parts.store, batch_id))
    return read_batch(parts.store, batch_id, owner)


def _running(store: Store, batch_id: str) -> list[str]:
    """Ids of the batch's running jobs: never many, as each holds a slot."""
    ids: list[str] = []
    has_more = True
    while has_more:
        after = ids[-1] if ids else None
        rows, has_more = store.list_jobs(state=JobState.RUNNING, batch_id=batch_id, limit=100, after=after)
        ids += [job.id for job in rows]
    return ids
