"""The image file agrees with the compose file and with `pyproject.toml`. No container engine is needed."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from tests.ops import compose

FILE = compose.ROOT / "ops" / "docker" / "Dockerfile"
TEXT = FILE.read_text().replace("\\\n", " ")
PROJECT: dict[str, Any] = tomllib.loads((compose.ROOT / "pyproject.toml").read_text())["project"]
SERVICES: dict[str, Any] = compose.load()["services"]
BUILT = sorted(name for name, service in SERVICES.items() if "build" in service)


def _stages() -> dict[str, tuple[str, str]]:
    """Name of a stage → what it starts from, and its instructions."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", TEXT, flags=re.MULTILINE)[1:]
    return {name: (base, body) for base, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)}


STAGES = _stages()


def _lineage(name: str) -> str:
    """The instructions of a stage and of every stage it starts from, oldest first."""
    base, body = STAGES[name]
    return (_lineage(base) if base in STAGES else "") + body


@pytest.mark.parametrize("service", BUILT)
def test_a_service_is_built_from_a_target_that_exists(service: str) -> None:
    build = SERVICES[service]["build"]
    assert build == {"context": ".", "dockerfile": "ops/docker/Dockerfile", "target": service}
    assert service in STAGES


@pytest.mark.parametrize("service", BUILT)
def test_an_image_ends_without_root_and_runs_what_compose_runs(service: str) -> None:
    lineage = _lineage(service)
    assert re.findall(r"^USER (\S+)$", lineage, re.MULTILINE)[-1] == SERVICES[service]["user"]
    command = re.findall(r"^CMD \[(.*)\]$", lineage, re.MULTILINE)[-1]
    assert re.findall(r'"([^"]*)"', command) == SERVICES[service]["command"]


@pytest.mark.parametrize("service", BUILT)
def test_an_image_installs_extras_that_exist(service: str) -> None:
    (extras,) = re.findall(r"penstock-\*\.whl\)\[([a-z0-9,]+)\]", _lineage(service))
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    assert "postgres" in extras


@pytest.mark.parametrize(
    ("service", "needed", "has_engine"),
    [
        ("api", {"api", "s3", "tracing"}, True),
        ("dispatcher", {"s3", "tracing"}, False),
        ("flower", {"flower"}, False),
        ("migrate", {"s3", "tracing"}, False),  # the dispatcher's image with another command
        ("worker", {"worker", "tracing"}, True),
        ("worker-gpu", {"worker", "tracing"}, True),
    ],
)
def test_an_image_holds_what_its_role_runs_and_no_more(service: str, needed: set[str], has_engine: bool) -> None:
    lineage = _lineage(service)
    (extras,) = re.findall(r"penstock-\*\.whl\)\[([a-z0-9,]+)\]", lineage)
    assert set(extras.split(",")) == {"postgres"} | needed
    assert ("/engine/*.whl" in lineage) is has_engine


def test_the_engine_is_compiled_before_anything_of_ours_is_copied() -> None:
    for stage in ("wheels", "wheels-cuda"):
        assert "COPY" not in _lineage(stage)
        assert "-DLLAVA_BUILD=OFF" in _lineage(stage)
        assert "-DGGML_NATIVE=OFF" in _lineage(stage)


def test_the_workers_image_brings_the_attention_that_was_built_where_the_compiler_is() -> None:
    """Found again only where both stages have one Python's prefix, and llama.cpp and ours from the same wheels."""
    builder, worker = _lineage("attention"), _lineage("worker")
    assert "build-essential" in builder
    assert "build-essential" not in worker
    assert "python -m worker.engine.attention" in builder
    ((stage, source, target),) = re.findall(r"^COPY --from=(\S+) (\S+) (\S+)$", worker, re.MULTILINE)
    assert (stage, source) == ("attention", target)
    for lineage in (builder, worker):
        assert f"python -m venv {target.removesuffix('/lib/penstock')}\n" in lineage
        assert "--mount=type=bind,from=package,source=/wheels" in lineage
    assert STAGES["attention"][0] == "wheels"
    assert "--mount=type=bind,from=wheels,source=/wheels" in worker
    assert STAGES["wheels"][0] == STAGES["runtime"][0], "one C library, and one OpenMP"


def test_the_engine_is_a_version_that_the_project_allows() -> None:
    (needed,) = [line for line in PROJECT["optional-dependencies"]["worker"] if line.startswith("llama-cpp-python")]
    lowest = _version(needed.partition(">=")[2])
    assert {_version(found) for found in re.findall(r"LLAMA_CPP_PYTHON_VERSION=([\d.]+)", TEXT)} == {lowest}


def test_what_the_file_copies_by_name_is_in_the_repository_and_in_the_build_context() -> None:
    allowed = [line[1:] for line in (compose.ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    for source in re.findall(r"^COPY (?!--)(\S+) ", TEXT, re.MULTILINE):
        assert (compose.ROOT / source).exists()
        assert source == "." or source.split("/")[0] in allowed


def test_the_build_context_holds_every_package() -> None:
    allowed = {line[1:] for line in (compose.ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    tool: dict[str, Any] = tomllib.loads((compose.ROOT / "pyproject.toml").read_text())["tool"]
    packages = {package.split(".")[0] for package in tool["setuptools"]["packages"]}
    assert packages | {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} == allowed


def test_the_health_check_is_where_compose_calls_it() -> None:
    for service in set(BUILT) - {"migrate"}:
        assert "COPY ops/docker/health.py /opt/penstock/health.py" in _lineage(service)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
