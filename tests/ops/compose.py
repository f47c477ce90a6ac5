"""Reads `docker-compose.yml` as Compose does: YAML, then `${…}` filled in. Knows nothing of what the services are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"

# Nothing in the environment is needed: the example's values are the file's own.
ENVIRONMENT: Mapping[str, str] = {}
SECRETS = {
    "api_keys": "a-key-of-the-tests",
    "flower_basic_auth": "tests:a-password-of-the-tests",
    "postgres_password": "another-password-of-the-tests",
    "metrics_key": "a-key-of-the-metrics",
    "grafana_password": "a-password-of-no-test",
}
"""What `ops/docker/make_secrets.py` would have written."""
SECRETS_FOLDER = "/run/secrets/"

_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?:(?P<operator>:[-?])(?P<rest>[^}]*))?\})")


class MissingVariable(Exception):
    """`${NAME:?message}` without a value; the text is the message."""


def load(environment: Mapping[str, str] = ENVIRONMENT) -> dict[str, Any]:
    """The file with variables filled in. Keys without a value (handed through) that are not set are dropped."""
    document = _fill(yaml.safe_load(COMPOSE_FILE.read_text()), environment)
    assert isinstance(document, dict)
    for service in document["services"].values():
        service["environment"] = {
            key: value for key, value in service.get("environment", {}).items() if value is not None
        }
    return document


def variables() -> set[str]:
    """Every name that the file asks for in `${…}`."""
    code = "\n".join(line.split(" #")[0] for line in COMPOSE_FILE.read_text().splitlines() if line.strip()[:1] != "#")
    return {match["name"] for match in _VARIABLE.finditer(code) if match["name"]}


def seconds(duration: str) -> float:
    """`1m30s` → 90."""
    parts = re.findall(r"(\d+)(h|ms|m|s)", duration)
    assert "".join(number + unit for number, unit in parts) == duration, duration
    return sum(int(number) * {"h": 3600, "m": 60, "s": 1, "ms": 0.001}[unit] for number, unit in parts)


def _fill(node: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        return {
            key: environment.get(key) if _handed_through(key, value) else _fill(value, environment)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_fill(value, environment) for value in node]
    return _VARIABLE.sub(lambda match: _value(match, environment), node) if isinstance(node, str) else node


def _handed_through(key: str, value: object) -> bool:
    return value is None and key.isupper()


def _value(match: re.Match[str], environment: Mapping[str, str]) -> str:
    if match["escaped"]:
        return "$"
    found = environment.get(match["name"], "")
    if found or match["operator"] is None:
        return found
    if match["operator"] == ":?":
        raise MissingVariable(f"{match['name']}: {match['rest']}")
    return str(match["rest"])
