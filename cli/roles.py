"""The roles of the system and how each is started: one table for `up`, containers and clusters alike.

Also what every command needs of the settings: reading them with a clear error, and handing them to children.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from cli.errors import UsageError
from cli.home import find_addresses
from cli.job_body import first_fault
from jobs.settings import Settings

ROOT = Path(__file__).resolve().parent.parent

MODULES: Mapping[str, tuple[str, ...]] = {
    "api": ("api",),
    "worker": ("worker",),
    "dispatcher": ("jobs.dispatcher",),
    "flower": ("ops.flower",),
    "may_listen": ("api", "check"),
    "audit": ("jobs.audit",),
    "keys": ("jobs.key_commands",),
    "backup": ("jobs.backup", "save"),
    "restore": ("jobs.backup", "restore"),
    "bench": ("ops.bench",),
    "chaos": ("ops.chaos",),
    "requeue": ("jobs.admin", "requeue"),
    "migrate": ("jobs.database", "migrate"),
    "pull": ("worker.sources",),
    "models": ("worker.sources", "--list"),
    "attention": ("worker.engine.attention", "look"),
}

WITH_STORES_OF_THEIR_OWN = ("bench", "chaos")


def python(*words: str) -> list[str]:
    """Command line of a module of this application. `-P`: a folder of the same name where we stand is not ours."""
    return [sys.executable, "-P", "-m", *words]


def role_command(name: str, _settings: Settings) -> list[str]:
    """Command line of a role or of one of the tools that belong to another room."""
    return python(*MODULES[name])


def child_environment(_settings: Settings, overrides: Mapping[str, object] | None = None) -> dict[str, str]:
    """What a child process inherits: our environment, and `overrides` (fields of Settings) as PENSTOCK_* variables."""
    environment = dict(os.environ)
    for name in overrides or {}:  # an override takes the place of a file, too
        environment.pop(f"PENSTOCK_{name.upper()}_FILE", None)
    environment |= {f"PENSTOCK_{name.upper()}": str(value) for name, value in (overrides or {}).items()}
    environment["PYTHONUNBUFFERED"] = "1"
    if "site-packages" not in ROOT.parts:
        paths = environment.get("PYTHONPATH", "").split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *(path for path in paths if path not in ("", str(ROOT)))]
        )
    return environment


def become(name: str, *words: str) -> NoReturn:
    """Turn this process into a role, so that signals reach it. Beside an `up` with an embedded PostgreSQL it works on
    that one, unless the settings name another."""
    settings = read_settings()
    command = [*role_command(name, settings), *words]
    embedded = "" if name in WITH_STORES_OF_THEIR_OWN else embedded_database_url(settings)
    sys.stdout.flush()
    sys.stderr.flush()
    environment = child_environment(settings, {"database_url": embedded} if embedded else None)
    os.execve(command[0], command, environment)  # noqa: S606


def embedded_database_url(settings: Settings) -> str:
    """URL of the PostgreSQL that a running `up` has brought along; empty where there is none, or it is not meant."""
    addresses = None if settings.database_url else find_addresses(settings.home.absolute())
    return addresses.database_url if addresses else ""


def read_settings(**overrides: Any) -> Settings:
    """Settings from the environment; `overrides` that are not None win."""
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        field, message = first_fault(error)
        name = f"--{field.replace('_', '-')}" if field in given else f"PENSTOCK_{field.upper()}"
        raise UsageError(f"{name}: {message}.") from error
