"""Settings and the parameters of a generation, as tables, from `jobs.settings` and `jobs.parameters`."""

from __future__ import annotations

import inspect
import re
from typing import Any

from api.wire import JobRequest
from jobs.settings import Settings
from ops.docs.markdown import code, table
from ops.docs.schemas import fields_table, kind

_SECTION = re.compile(r"^    # (?P<title>[A-Z].*)$|^    (?P<name>[a-z_]+): ")
_SHOWN = {"home": "~/.local/share/penstock"}
"""Defaults that depend on the machine, as people write them."""


def settings() -> str:
    """Every setting, in the sections of its class."""
    schema = Settings.model_json_schema()["properties"]
    parts = []
    for title, names in sections().items():
        rows = [
            [code(variable(name)), kind(schema[name], links=False), _default(name), _meaning(name)] for name in names
        ]
        parts.append(f"## {title}\n\n{table(['variable', 'type', 'default', 'meaning'], rows)}")
    return "\n".join(parts)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"PENSTOCK_{name.upper()}"


def sections() -> dict[str, list[str]]:
    """Names of settings under the comments that head them in the source."""
    found: dict[str, list[str]] = {}
    title = "Where things are"
    for line in inspect.getsource(Settings).splitlines():
        match = _SECTION.match(line)
        if match is None:
            continue
        if match["title"]:
            title = match["title"]
        elif match["name"] in Settings.model_fields:
            found.setdefault(title, []).append(match["name"])
    return found


def _meaning(name: str) -> str:
    return Settings.model_fields[name].description or ""


def _default(name: str) -> str:
    value: Any = _SHOWN.get(name) or Settings.model_fields[name].get_default(call_default_factory=True)
    return "" if value in (None, (), {}, "") else code(str(value).lower() if isinstance(value, bool) else value)


def parameters() -> str:
    """The fields of a native job."""
    return fields_table(JobRequest.model_json_schema(), links=False)
