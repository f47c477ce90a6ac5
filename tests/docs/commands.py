"""What a page names without running it: commands, options, settings, files, targets of make, services of compose.

Each check answers what is wrong, in a sentence, or nothing.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import typer
import yaml

from cli.main import app
from jobs.settings import Settings
from ops.docs.settings import variable
from ops.setup.bootstrap import BACKENDS
from tests.docs.blocks import ROOT

OF_CLIENTS = {"PENSTOCK_API", "PENSTOCK_API_KEY", "PENSTOCK_BACKEND"}
"""Variables that are no settings: two of the command line's, one of set-up's."""
OWN_OPTIONS = {"bench": "ops/bench/__main__.py", "chaos": "ops/chaos/__main__.py"}
"""Commands that read their words themselves, and where."""
_ENVIRONMENT = re.compile(r"PENSTOCK_[A-Z_]+[A-Z]")
_ASSIGNED = re.compile(r"[A-Z_]+=.*")


def faults_of_line(line: str) -> Iterator[str]:
    """What is wrong with one line of a shell block."""
    words = shlex.split(line, comments=True)
    while words and _ASSIGNED.fullmatch(words[0]):
        del words[0]
    if not words:
        return
    match words:
        case ["penstock", *rest]:
            yield from faults_of_command(rest)
        case ["make", *targets]:
            yield from (f"make has no target {name}" for name in targets if f"\n{name}:" not in _makefile())
        case ["docker", "compose", *rest]:
            yield from _faults_of_compose(rest)
        case ["cp" | "python3", source, *_] if not (ROOT / source).exists():
            yield f"there is no file {source}"
        case ["python", "-m", module, *_] if not (ROOT / module.replace(".", "/")).with_suffix(".py").exists():
            yield f"there is no module {module}"


def faults_of_variables(text: str) -> Iterator[str]:
    """Variables of ours that nobody reads."""
    settings = {variable(name) for name in Settings.model_fields}
    known = settings | {f"{name}_FILE" for name in settings} | OF_CLIENTS
    yield from (f"no setting is called {name}" for name in sorted(set(_ENVIRONMENT.findall(text)) - known))


def faults_of_command(words: list[str]) -> Iterator[str]:
    """What is wrong with the words behind `penstock`: a command that is not there, or an option that it has not."""
    command: Any = typer.main.get_command(app)
    path = "penstock"
    rest = list(words)
    while children := getattr(command, "commands", None):
        if not rest or rest[0].startswith("-"):
            return
        name = rest.pop(0)
        if name not in children:
            yield f"{path} has no command {name}"
            return
        command, path = children[name], f"{path} {name}"
    known = _options(command, path.removeprefix("penstock "))
    given = [word.partition("=")[0] for word in rest if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)]
    yield from (f"{path} has no option {option}" for option in given if option not in known)


def _options(command: Any, name: str) -> set[str]:
    if name in OWN_OPTIONS:
        source = (ROOT / OWN_OPTIONS[name]).read_text(encoding="utf-8")
        return set(re.findall(r'"(--[a-z-]+)"', source)) | {"--help"}
    return {option for param in command.params for option in [*param.opts, *param.secondary_opts]} | {"--help"}


def _faults_of_compose(words: list[str]) -> Iterator[str]:
    services = _compose()["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", ())}
    for option, value in itertools.pairwise(words):
        if option == "--profile" and value not in profiles:
            yield f"docker-compose.yml has no profile {value}"
        if option == "--scale" and value.partition("=")[0] not in services:
            yield f"docker-compose.yml has no service {value}"


def backends() -> set[str]:
    return set(BACKENDS)


@cache
def _makefile() -> str:
    return "\n" + (ROOT / "Makefile").read_text(encoding="utf-8")


@cache
def _compose() -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return found
