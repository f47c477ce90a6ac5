"""The application: routes, middleware and shared parts put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI

from api import docs, errors, page
from api.access import Access
from api.crowd import Crowd
from api.limits import BodyLimit
from api.metering import Meter, Metering
from api.rates import LimitHeaders
from api.routes import (
    batches,
    completions,
    files,
    health,
    jobs,
    metrics,
    models,
    replays,
    responses,
    streams,
    webhooks,
    workers,
)
from api.services import Services
from jobs.settings import Settings

_DESCRIPTION = """A job queue for local language models. Submit a prompt, get an id; follow the text as it is made, or
come back for it. Every finished generation is stored with the seed that made it.

Errors have OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""


def create_app(settings: Settings) -> FastAPI:
    """Build the application. Nothing connects before it starts, and nothing has to be up for it to start."""

    meter = Meter()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        parts = Services.open(settings)
        app.state.services = parts
        meter.watch(parts.store)
        try:
            yield
        finally:
            await parts.close()

    app = FastAPI(
        title="Penstock",
        version=_version(),
        summary="A job queue for local language models",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    for module in (
        jobs,
        streams,
        replays,
        completions,
        responses,
        files,
        batches,
        webhooks,
        models,
        workers,
        health,
        metrics,
    ):
        app.include_router(module.router)
    errors.install(app)
    docs.install(app)
    page.install(app)
    # The last added is the outermost.
    app.add_middleware(BodyLimit, limit_bytes=settings.max_body_bytes, grace_seconds=settings.body_grace_seconds)
    app.add_middleware(LimitHeaders)
    app.add_middleware(Crowd, max_requests=settings.max_requests, max_body_bytes=settings.max_held_bytes)
    app.add_middleware(errors.LastResort)
    app.add_middleware(Access)
    app.state.meter = meter
    app.add_middleware(Metering, meter=meter)
    return app


def _version() -> str:
    try:
        return version("penstock")
    except PackageNotFoundError:
        return "0"
