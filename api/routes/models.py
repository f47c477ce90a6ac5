"""/v1/models: what workers have announced."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from api.keys import Owner
from api.routes import refusals
from api.services import Services, services
from api.shapes import model_object
from api.wire import ModelPage

router = APIRouter(tags=["models"])


@router.get("/v1/models", response_model=ModelPage, summary="List models", responses=refusals(401, 503))
def list_models(parts: Annotated[Services, Depends(services)], _: Owner) -> ModelPage:
    """The models that workers have announced, with the context of one job in tokens."""
    return ModelPage(data=[model_object(model) for model in parts.store.list_models()])
