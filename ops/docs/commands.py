"""The command line as tables, from the application that typer builds."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer

from api.wire import JobRequest
from cli.knobs import PANEL
from cli.main import app
from cli.roles import MODULES, ROOT, python
from ops.docs.markdown import code, table


def commands() -> str:
    """Every command: what it does, its arguments and its options."""
    return "\n".join(_described(path, command) for path, command in every_command())


def every_command() -> Iterator[tuple[str, Any]]:
    """All commands that do something, with their words."""
    yield from _below("penstock", typer.main.get_command(app))


def _below(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from _below(f"{path} {name}", child)


def _described(path: str, command: Any) -> str:
    shown = [param for param in command.params if not param.hidden and param.name != "help"]
    arguments = [_placeholder(param) for param in shown if not _is_option(param)]
    options = ["[OPTIONS]"] if any(map(_is_option, shown)) else []
    usage = code(" ".join([path, *options, *arguments]))
    told = " ".join((command.help or "").split())
    rows = [[spelled(param), described(param), _default(param)] for param in shown]
    shown_options = table(["option", "meaning", "default"], rows) if rows else _own_help(path, command)
    return f"## {path}\n\n{usage}\n\n{told}\n" + (f"\n{shown_options}" if shown_options else "")


def _own_help(path: str, command: Any) -> str:
    """What a command says of itself that reads its words itself."""
    if command.context_settings.get("help_option_names") != []:
        return ""
    asked = python(*MODULES[path.removeprefix("penstock ")], "--help")
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    return f"```text\n{done.stdout.strip()}\n```\n"


def described(param: Any) -> str:
    """What a parameter is for, and the variable that also sets it. Of a knob of a generation: what its field says."""
    variable = f" Also {code(param.envvar)}." if param.envvar else ""
    knob = JobRequest.model_fields.get(param.name) if _panel(param) == PANEL else None
    told = knob.description if knob is not None and param.help else param.help
    return f"{told or ''}{variable}"


def _panel(param: Any) -> str | None:
    return getattr(param, "rich_help_panel", None)


def spelled(param: Any) -> str:
    """How it is typed."""
    if not _is_option(param):
        return code(_placeholder(param))
    names = ", ".join(code(name) for name in [*param.opts, *param.secondary_opts])
    return names if param.is_flag else f"{names} {_value(param)}"


def _is_option(param: Any) -> bool:
    return any(name.startswith("-") for name in param.opts)


def _placeholder(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _value(param: Any) -> str:
    """What stands behind an option: its choices, or a word for its type."""
    if param.metavar:
        return code(param.metavar)
    kinds = getattr(param.type_descriptor.annotation, "__args__", (param.type_descriptor.annotation,))
    for one in kinds:
        if isinstance(one, type) and issubclass(one, Enum):
            return " or ".join(code(choice.value) for choice in one)
    names = {"int": "NUMBER", "float": "NUMBER", "Path": "FILE"}
    return code(next((names[one.__name__] for one in kinds if getattr(one, "__name__", "") in names), "TEXT"))


def _default(param: Any) -> str:
    if _panel(param) == PANEL and param.name in JobRequest.model_fields:
        given = JobRequest.model_fields[param.name].default
        return code(given) if isinstance(given, int | float) else ""
    if param.required or param.default in (None, False, (), []):
        return ""
    return code(getattr(param.default, "value", param.default))
