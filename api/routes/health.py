"""/health/live and /health/ready. They need no key, and say nothing of any job."""

from __future__ import annotations

from typing import Annotated

import redis
from fastapi import APIRouter, Depends, Response

from api.models import ALIVE_SECONDS
from api.services import Services, services
from api.system_wire import Liveness, Readiness
from jobs.errors import ModelUnknown, StoreUnavailable

router = APIRouter(tags=["health"])


@router.get("/health/live", response_model=Liveness, summary="Whether the process answers")
def live() -> Liveness:
    """Always `ok`: it looks at nothing else."""
    return Liveness()


@router.get(
    "/health/ready",
    response_model=Readiness,
    summary="Whether jobs can be accepted",
    responses={503: {"model": Readiness, "description": "The database is down: nothing can be accepted."}},
)
def ready(parts: Annotated[Services, Depends(services)], response: Response) -> Readiness:
    """200 as long as jobs can be stored. Without Redis they are: they wait in the database, and `status` says
    `degraded`, as it does without a known model or a living worker."""
    redis_up = _redis_up(parts)
    try:
        parts.store.ping()
        model, workers = _model(parts), len(parts.store.list_workers(alive_within_seconds=ALIVE_SECONDS))
    except StoreUnavailable:
        response.status_code = 503
        return Readiness(
            status="unavailable",
            database="unavailable",
            redis="ok" if redis_up else "unavailable",
            model=None,
            workers=None,
        )
    return Readiness(
        status="ok" if redis_up and model and workers else "degraded",
        database="ok",
        redis="ok" if redis_up else "unavailable",
        model=model,
        workers=workers,
    )


def _redis_up(parts: Services) -> bool:
    try:
        return bool(parts.redis.ping())
    except (redis.RedisError, OSError):
        return False


def _model(parts: Services) -> str | None:
    try:
        return parts.catalog.served().name
    except ModelUnknown:
        return None
