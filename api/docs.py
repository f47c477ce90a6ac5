"""/docs and /openapi.json. The page's scripts come from an installed package: it works without the internet."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic.json_schema import models_json_schema

from api.openai.requests import ChatRequest, CompletionRequest
from api.openai.responses import ResponseRequest
from api.wire import BatchRequest, JobRequest, ManyJobsRequest

ASSETS_URL = "/docs/assets"
_POLICY = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of scripts in the page only those run whose hash it names."""
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_BODIES = (JobRequest, ManyJobsRequest, BatchRequest, ChatRequest, CompletionRequest, ResponseRequest)
"""What the routes parse themselves, so that FastAPI does not know of it."""
_REF = "#/components/schemas/{model}"


def install(app: FastAPI) -> None:
    """Serve the documentation, and describe the bodies that FastAPI does not parse itself."""
    app.mount(ASSETS_URL, StaticFiles(directory=_assets()), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{app.title}: API",
            swagger_js_url=f"{ASSETS_URL}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS_URL}/swagger-ui.css",
            swagger_favicon_url=f"{ASSETS_URL}/favicon.png",
        )
        page.headers["Content-Security-Policy"] = _POLICY.format(scripts=_hashes(bytes(page.body)))
        return page

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _hashes(page: bytes) -> str:
    """The scripts that stand in the page, as a policy names them."""
    digests = (hashlib.sha256(script).digest() for script in _INLINE.findall(page))
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _described(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
    )
    _, bodies = models_json_schema([(model, "validation") for model in _BODIES], ref_template=_REF)
    schemas = schema["components"]["schemas"]
    schemas.update(bodies["$defs"])
    # FastAPI promises a 422 of its own shape; here what is wrong is a 400 of ours.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for call in (call for calls in schema["paths"].values() for call in calls.values()):
        call["responses"].pop("422", None)
        for status, response in call["responses"].items():
            # A refusal is JSON, whatever the endpoint answers otherwise; FastAPI gives it that kind.
            if status >= "400" and response.get("content"):
                response["content"] = {"application/json": next(iter(response["content"].values()))}
            # Of a stream the description tells; FastAPI calls it one string.
            response.get("content", {}).get("text/event-stream", {}).pop("schema", None)
    return schema


def _assets() -> Path:
    """Where the package `fastapi-offline` keeps Swagger UI's files."""
    spec = find_spec("fastapi_offline")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the package 'fastapi-offline' is missing; install 'penstock[api]'")
    return Path(spec.origin).parent / "static"
