"""The JSON of what serves the jobs, as types: models, workers, queues, recipes, health. Names no job."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from jobs.states import Priority


class ModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "penstock"
    context_tokens: int
    sha256: str
    exact: dict[str, bool] | None = Field(
        default=None,
        description="By row class: whether a living worker has proven that a text depends on nothing else.",
    )
    recipe: str | None = Field(default=None, description="Id of all that decides a text, but for its row class.")


class ModelPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


Counts = Annotated[
    Literal["own", "all"],
    Field(description="Whose jobs the numbers are of: the caller's, or, with the scope `metrics`, everybody's."),
]


class WorkerObject(BaseModel):
    """A worker, as its newest heartbeat has it. One that is not `alive` was not heard of for a while.

    How busy it is with everybody's jobs is null for a key without the scope `metrics`.
    """

    name: str
    object: Literal["worker"] = "worker"
    model: str
    alive: bool
    draining: bool = Field(description="It takes no more, and finishes what it holds.")
    slots: int
    running: int = Field(description="Jobs that it holds: the caller's, or everybody's, as `counts` says.")
    busy_slots: int | None
    waiting: int | None = Field(description="Jobs that it holds and that have no slot yet.")
    tokens_per_second: float | None = Field(description="Completion tokens, over the last seconds.")
    exact: dict[str, bool] | None = Field(description="By row class: whether it has proven that texts can be replayed.")
    details: dict[str, Any] = Field(
        description="What it runs on, such as `backend`; beside everybody's numbers, counts such as `prefix_hit_rate`."
    )
    started_at: datetime
    seen_at: datetime


class WorkerPage(BaseModel):
    object: Literal["list"] = "list"
    counts: Counts
    data: list[WorkerObject]


class QueueObject(BaseModel):
    """What waits and runs in one queue."""

    name: Priority
    object: Literal["queue"] = "queue"
    queued: int
    queued_at_least: bool = Field(description="More wait than were counted.")
    published: int = Field(description="Of the queued, those that a worker may take at any moment.")
    running: int
    oldest_at: datetime | None = Field(description="Since when the oldest waits; of lines, since when their batch.")


class QueuePage(BaseModel):
    """In the order in which workers serve them."""

    object: Literal["list"] = "list"
    counts: Counts
    data: list[QueueObject]


class RecipeObject(BaseModel):
    """All that decides a text besides prompt, parameters and seed."""

    id: str
    object: Literal["recipe"] = "recipe"
    body: dict[str, Any]


class Liveness(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """`ok`: jobs are accepted and run. `degraded`: something is amiss, named by its field. `unavailable`: the
    database is down, so nothing can be accepted."""

    status: Literal["ok", "degraded", "unavailable"]
    database: Literal["ok", "unavailable"]
    redis: Literal["ok", "unavailable"]
    model: str | None = Field(description="The served model; null while it is not known.")
    workers: int | None = Field(description="Workers that were heard of in the last seconds.")
