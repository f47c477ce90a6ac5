"""From what was typed to the body of `POST /v1/jobs`: the knobs of a generation as options of the command line.

The same limits as the API's are checked here (one definition, `jobs.parameters`), so that a mistake is named before
anything is sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cli.errors import UsageError
from jobs.parameters import MAX_METADATA_PAIRS, Parameters


def job_body(
    prompt: str,
    *,
    raw: bool,
    system: str | None,
    knobs: Mapping[str, Any],
    json_schema: Path | None,
    metadata: Sequence[str],
) -> dict[str, Any]:
    """The body of one job. `knobs` are options by their name on the wire; those that are None or empty are left out.

    `raw` sends the prompt as it is, control tokens parsed; otherwise it is one user message in chat.
    """
    if not prompt.strip():
        raise UsageError("PROMPT: it is empty.")
    if raw and system is not None:
        raise UsageError("--system: a raw prompt has no system message; write it into the prompt, or leave --raw out.")
    given = {name: value for name, value in knobs.items() if value not in (None, [], ())}
    if json_schema is not None:
        given["response_format"] = {"type": "json_schema", "json_schema": read_schema(json_schema)}
    check_parameters(given)
    body = given | ({"prompt": prompt} if raw else {"messages": chat(prompt, system)})
    return body | ({"metadata": read_metadata(metadata)} if metadata else {})


def chat(prompt: str, system: str | None) -> list[dict[str, str]]:
    """One user message, after a system message if there is one."""
    opening = [{"role": "system", "content": system}] if system is not None else []
    return [*opening, {"role": "user", "content": prompt}]


def check_parameters(given: Mapping[str, Any]) -> None:
    """Check those of `given` that are parameters of a generation; the error names the option."""
    try:
        Parameters.model_validate({name: value for name, value in given.items() if name in Parameters.model_fields})
    except ValidationError as error:
        name, message = first_fault(error)
        raise UsageError(f"--{name.replace('_', '-')}: {message}.") from error


def first_fault(error: ValidationError) -> tuple[str, str]:
    """Field (dotted) and message of the first fault; the message never repeats the value."""
    fault = error.errors(include_input=False, include_url=False)[0]
    field = ".".join(str(part) for part in fault["loc"] if isinstance(part, int) or part.isidentifier())
    return field or "body", fault["msg"].removeprefix("Value error, ").rstrip(".")


def read_schema(path: Path) -> dict[str, Any]:
    """A JSON schema from a file."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--json-schema: cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"--json-schema: {path} is not JSON.") from error
    if not isinstance(schema, dict):
        raise UsageError(f"--json-schema: {path} holds no JSON object.")
    return schema


def read_metadata(pairs: Sequence[str]) -> dict[str, str]:
    """`k=v` pairs; a key may be given once."""
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError("--metadata: write KEY=VALUE.")
        if key in metadata:
            raise UsageError(f"--metadata: the key {key!r} is given twice.")
        metadata[key] = value
    if len(metadata) > MAX_METADATA_PAIRS:
        raise UsageError(f"--metadata: at most {MAX_METADATA_PAIRS} pairs.")
    return metadata
