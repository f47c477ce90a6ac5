"""/v1/models: what workers have announced."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from api.keys import Owner
from api.models import ALIVE_SECONDS, proven_classes
from api.routes import refusals
from api.services import Services, services
from api.shapes import model_object
from api.system_wire import ModelObject, ModelPage
from jobs.errors import NotFound

router = APIRouter(tags=["models"])

MAX_SHOWN_NAME = 128


@router.get("/v1/models", response_model=ModelPage, summary="List models", responses=refusals(401, 503))
def list_models(parts: Annotated[Services, Depends(services)], _: Owner) -> ModelPage:
    """The models that workers have announced, with the context of one job in tokens."""
    workers = parts.store.list_workers(ALIVE_SECONDS)
    return ModelPage(data=[model_object(m, proven_classes(m, workers)) for m in parts.store.list_models()])


@router.get(
    "/v1/models/{name:path}", response_model=ModelObject, summary="Read a model", responses=refusals(401, 404, 503)
)
def read_model(parts: Annotated[Services, Depends(services)], _: Owner, name: str) -> ModelObject:
    """One announced model."""
    for model in parts.store.list_models():
        if model.name == name:
            return model_object(model, proven_classes(model, parts.store.list_workers(ALIVE_SECONDS)))
    raise NotFound("model", name[:MAX_SHOWN_NAME].encode("ascii", "replace").decode())
