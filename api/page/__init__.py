"""The page at `/`: files that a browser runs as they are, and the policy that they are sent with.

There is no build step and nothing comes from elsewhere: it works without the internet. All it knows it learns from the
API, as any client would, so nothing here reads a job. The policy lets no inline script or style run and makes the
browser itself refuse what would read text as markup (`require-trusted-types-for`): a completion is hostile text.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
STATIC_URL = "/page"
POLICY = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
"""`no-cache`: kept, and asked about each time, so that an upgrade is seen at once."""

# What the machine's own table says may be wrong or missing; a module with another type is not run.
for _type, _ending in (("text/javascript", ".js"), ("image/svg+xml", ".svg"), ("font/woff2", ".woff2")):
    mimetypes.add_type(_type, _ending)


class _Files(StaticFiles):
    """Static files with the page's headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def install(app: FastAPI) -> None:
    """Serve the page at `/` and its files below `/page`. No key is needed: it holds nothing but itself."""
    app.mount(STATIC_URL, _Files(directory=STATIC), name="page")

    @app.get("/", include_in_schema=False)
    def index() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers=HEADERS)
