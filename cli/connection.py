"""Which API a command talks to, and the options that every such command has.

In this order: --api, PENSTOCK_API, the `penstock up` that runs in this machine's PENSTOCK_HOME, port 8000 on loopback.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cli.client import Client
from cli.errors import UsageError
from cli.home import find_addresses, reachable_url
from cli.roles import read_settings

ApiOption = Annotated[
    str | None,
    typer.Option("--api", metavar="URL", envvar="PENSTOCK_API", help="Where the API is.", show_default=False),
]
ApiKeyOption = Annotated[
    str | None, typer.Option("--api-key", envvar="PENSTOCK_API_KEY", help="Key to the API.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def connect(api: str | None, api_key: str | None) -> Client:
    """A client for the API that was named, or the one found here."""
    url = api or local_url()
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--api: {url!r} does not start with http:// or https://.")
    return Client(url, api_key or os.environ.get("PENSTOCK_API_KEY"))


def local_url() -> str:
    """The API of this machine."""
    settings = read_settings()
    addresses = find_addresses(settings.home.absolute())
    return addresses.api if addresses else reachable_url(settings.host, settings.port)
