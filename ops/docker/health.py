"""The containers' health check: `python health.py api|dispatcher|worker|flower`.

Status 0 is healthy; otherwise one line on stderr says why.

It asks what a role does for others, not whether a process exists: the API and Flower must answer, a worker must have
written its heartbeat, a dispatcher must lead or have a leader to stand by for. It reads and never writes, and it knows
the tables but none of the roles' code, so that a check costs half a second and no model library.
PostgreSQL only: instants are compared on the database's clock.
"""

from __future__ import annotations

import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Engine, Select, create_engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from jobs.settings import Settings
from jobs.tables import Office, Worker

# Several heartbeats: one that was late is no reason to restart a worker in the middle of its generations.
SILENT_SECONDS = 30
REQUEST_SECONDS = 5


class Unhealthy(Exception):
    """Why, in words for an operator."""


def check_api(settings: Settings) -> None:
    """Raises Unhealthy unless the API can take a job: it reaches its database and its queue."""
    _fetch(f"http://127.0.0.1:{settings.port}/health/ready")


def check_flower(settings: Settings) -> None:
    """Raises Unhealthy unless Flower answers."""
    _fetch(f"http://127.0.0.1:{settings.flower_port}/healthcheck")


def check_worker(settings: Settings) -> None:
    """Raises Unhealthy unless a worker of this host (in a container: this container) wrote a heartbeat lately.

    A worker names itself `penstock@HOST-PID`.
    """
    host = socket.gethostname()[:80]
    lately = Worker.seen_at > func.now() - timedelta(seconds=SILENT_SECONDS)
    names = _rows(settings, select(Worker.name).where(lately))
    if not any(re.fullmatch(rf"\w+@{re.escape(host)}(-\d+)?", name) for name in names):
        raise Unhealthy(f"no heartbeat of a worker on {host} in the last {SILENT_SECONDS} s")


def check_dispatcher(settings: Settings) -> None:
    """Raises Unhealthy unless some dispatcher leads. A standby is healthy while another leads."""
    leads = Office.expires_at > func.now()
    if not _rows(settings, select(Office.role).where(Office.role == "dispatcher", leads)):
        raise Unhealthy("no dispatcher leads")


CHECKS: dict[str, Callable[[Settings], None]] = {
    "api": check_api,
    "dispatcher": check_dispatcher,
    "flower": check_flower,
    "worker": check_worker,
}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in CHECKS:
        print(f"usage: health.py {'|'.join(CHECKS)}", file=sys.stderr)
        return 2
    try:
        CHECKS[arguments[0]](Settings())
    except Unhealthy as error:
        print(f"{arguments[0]} is not healthy: {error}", file=sys.stderr)
        return 1
    return 0


def _fetch(url: str) -> None:
    try:
        with urllib.request.urlopen(url, timeout=REQUEST_SECONDS):  # noqa: S310 - the scheme is ours
            return
    except (urllib.error.URLError, OSError) as error:
        raise Unhealthy(f"{url}: {error}") from error


def _rows(settings: Settings, statement: Select[str]) -> list[str]:
    engine = _engine(settings)
    try:
        with engine.connect() as connection:
            return list(connection.scalars(statement))
    except SQLAlchemyError as error:
        # The class only: a driver's message can repeat the URL with its password.
        raise Unhealthy(f"the database did not answer ({type(error).__name__})") from error
    finally:
        engine.dispose()


def _engine(settings: Settings) -> Engine:
    return create_engine(settings.resolved_database_url, connect_args={"connect_timeout": REQUEST_SECONDS})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
