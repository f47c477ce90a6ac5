"""What an image installs is enough for its role: the role's modules are imported with everything else out of reach.

No image is built. The distributions that its extras pull in are worked out from the metadata of the installed ones, and
a child interpreter refuses to import what belongs to any other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.ops import compose

PROJECT: dict[str, Any] = tomllib.loads((compose.ROOT / "pyproject.toml").read_text())["project"]
# Role → what its image installs (as in ops/docker/Dockerfile, checked there), and what the role imports.
IMAGES: dict[str, tuple[list[str], list[str]]] = {
    "api": (
        ["api", "postgres", "s3", "tracing", "+llama-cpp-python"],
        ["cli.main", "api.__main__", "worker.engine.vocabulary", "s3fs"],
    ),
    "worker": (["worker", "postgres", "tracing"], ["cli.main", "worker.__main__", "worker.station"]),
    "dispatcher": (["postgres", "s3", "tracing"], ["cli.main", "jobs.dispatcher", "s3fs"]),
    "flower": (["flower", "postgres"], ["cli.main", "ops.flower.__main__"]),
    "migrate": (["postgres"], ["jobs.database", "alembic.command"]),
}
# Runs in the child. A finder in front of all others refuses the top-level names it is given.
CHILD = """
import importlib, json, sys
given = json.load(sys.stdin)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in given["refused"]:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)
sys.meta_path.insert(0, Refuse())
for name in given["modules"]:
    importlib.import_module(name)
"""


@pytest.mark.parametrize("role", IMAGES)
def test_a_role_needs_nothing_that_its_image_lacks(role: str) -> None:
    extras, modules = IMAGES[role]
    child = _import_with_only(extras, [*modules, "psycopg"])
    assert child.returncode == 0, child.stderr[-2000:]


def test_a_module_of_another_role_is_out_of_reach() -> None:
    child = _import_with_only(["postgres"], ["api.__main__"])
    assert child.returncode == 1
    assert "is not in the image" in child.stderr


def test_an_image_lacks_what_its_role_does_not_run() -> None:
    engine, web = "llama-cpp-python", "fastapi"
    held = {role: _closure(_requirements(extras)) for role, (extras, _) in IMAGES.items()}
    assert {role for role, names in held.items() if engine in names} == {"api", "worker"}
    assert {role for role, names in held.items() if web in names} == {"api"}


def test_a_wheel_holds_the_sources_of_the_attention() -> None:
    tool = tomllib.loads((compose.ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = compose.ROOT / "worker" / "engine"
    packed = {path for pattern in tool["package-data"]["worker.engine"] for path in package.glob(pattern)}
    assert {path.name for path in packed} >= {"attention.c", "attention.h", "plugin.c"}
    assert packed >= set((package / "native").iterdir()), "their names and bytes are the name of what is built"


def _import_with_only(extras: list[str], modules: list[str]) -> subprocess.CompletedProcess[str]:
    refused = _names_outside(_closure(_requirements(extras)))
    return subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps({"refused": sorted(refused), "modules": modules}),
        env=os.environ | {"PYTHONPATH": str(compose.ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _requirements(extras: list[str]) -> list[str]:
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += [extra[1:]] if extra.startswith("+") else PROJECT["optional-dependencies"][extra]
    return lines


def _closure(lines: list[str]) -> set[str]:
    """Canonical names of the distributions that `pip install` of these would bring."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [(line, frozenset[str]()) for line in lines]
    while waiting:
        line, parent_extras = waiting.pop()
        needed = Requirement(line)
        key = (canonicalize_name(needed.name), frozenset(needed.extras))
        if key in found or not _applies(needed, parent_extras):
            continue
        found.add(key)
        waiting += [(below, key[1]) for below in metadata.requires(needed.name) or ()]
    return {name for name, _ in found}


def _applies(needed: Requirement, extras: frozenset[str]) -> bool:
    return needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras | {""})


def _names_outside(installed: set[str]) -> set[str]:
    """Top-level import names that only distributions outside `installed` provide."""
    ours = {"api", "cli", "jobs", "worker", "ops", "tests"}
    return {
        name
        for name, owners in metadata.packages_distributions().items()
        if name not in ours and not any(canonicalize_name(owner) in installed for owner in owners)
    }
