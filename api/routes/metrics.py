"""/metrics, for Prometheus.

It sums over every owner's jobs, so no owner's key opens it: where keys are asked for, so is the one of whoever scrapes
(`PENSTOCK_METRICS_KEY`, which opens nothing else, or one with the scope `metrics`); without one it is closed. Without
keys the API is on loopback only, and so is this. See `ops/decisions/0034-metrics-have-a-key-of-their-own.md`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.errors import Refusal
from api.metering import Meter
from api.services import Services, services
from jobs.keys import KeyScope
from jobs.metrics.serving import bears

router = APIRouter(include_in_schema=False)


def may_scrape(parts: Annotated[Services, Depends(services)], authorization: Annotated[str, Header()] = "") -> None:
    """Refuse whoever does not bring the key of scrapers."""
    token = parts.settings.metrics_key
    if token and bears(authorization, token):
        return
    if token or parts.keys.asks:
        identity = parts.keys.identify(authorization.removeprefix("Bearer "))
        if identity is not None and identity.may(KeyScope.METRICS):
            return
        raise Refusal(
            HTTPStatus.UNAUTHORIZED,
            "Metrics need the key that PENSTOCK_METRICS_KEY holds, or one with the scope metrics: "
            "'Authorization: Bearer KEY'.",
            code="invalid_metrics_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


@router.get("/metrics", dependencies=[Depends(may_scrape)])
def metrics(request: Request) -> Response:
    """In Prometheus' text format."""
    meter = request.app.state.meter
    if not isinstance(meter, Meter):
        raise TypeError("the application has no meter")
    return Response(generate_latest(meter.registry), media_type=CONTENT_TYPE_LATEST)
