"""/v1/workers, /v1/queues, /v1/recipes: what runs jobs, what waits, and what decided a text. Holds no text of a job."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response

from api.keys import Counted, Owner
from api.models import ALIVE_SECONDS
from api.routes import note_poll, refusals
from api.services import Services, services
from api.shapes import worker_object
from api.system_wire import QueueObject, QueuePage, RecipeObject, WorkerPage
from jobs.errors import NotFound

router = APIRouter(tags=["workers"])

Parts = Annotated[Services, Depends(services)]

BEAT_SECONDS = 2
"""Workers tell the database of themselves so often: asking sooner shows nothing new."""
SHOWN_SECONDS = 15 * 60
"""So long a worker that fell silent is still listed."""
_RECIPE_ID = re.compile("fp_[0-9a-f]{16}")


@router.get("/v1/workers", response_model=WorkerPage, summary="List workers", responses=refusals(401, 503))
def list_workers(parts: Parts, counted: Counted, response: Response) -> WorkerPage:
    """Those that are alive, and those that fell silent in the last quarter of an hour."""
    note_poll(response, BEAT_SECONDS)
    alive = {worker.name for worker in parts.store.list_workers(ALIVE_SECONDS)}
    rows = parts.store.list_workers(SHOWN_SECONDS)
    held = parts.store.held_by_workers(counted)
    data = [
        worker_object(row, alive=row.name in alive, running=held.get(row.name, 0), all_counts=counted is None)
        for row in rows
    ]
    return WorkerPage(counts=_counts(counted), data=data)


@router.get("/v1/queues", response_model=QueuePage, summary="List queues", responses=refusals(401, 503))
def list_queues(parts: Parts, counted: Counted, response: Response) -> QueuePage:
    """How much waits in each, and since when."""
    note_poll(response, BEAT_SECONDS)
    depths = parts.store.queue_depths(counted)
    return QueuePage(
        counts=_counts(counted),
        data=[
            QueueObject(
                name=depth.priority,
                queued=depth.num_queued,
                queued_at_least=depth.at_least,
                published=depth.num_published,
                running=depth.num_running,
                oldest_at=depth.oldest_at,
            )
            for depth in depths
        ],
    )


def _counts(counted: str | None) -> Literal["own", "all"]:
    return "all" if counted is None else "own"


@router.get(
    "/v1/recipes/{recipe_id}", response_model=RecipeObject, summary="Read a recipe", responses=refusals(401, 404, 503)
)
def read_recipe(parts: Parts, _: Owner, recipe_id: str) -> RecipeObject:
    """The model, its file, the build and the settings that a job's `recipe` stands for."""
    if not _RECIPE_ID.fullmatch(recipe_id):
        raise NotFound("recipe", recipe_id[:64].encode("ascii", "replace").decode())
    return RecipeObject(id=recipe_id, body=parts.store.get_recipe(recipe_id))
