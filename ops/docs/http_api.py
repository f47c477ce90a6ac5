"""The HTTP API and its events, from the OpenAPI document that the application itself serves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from api.app import create_app
from jobs.settings import Settings
from jobs.webhooks import BATCH_EVENTS, JOB_EVENTS, TEST_EVENT
from ops.docs.markdown import code, table
from ops.docs.schemas import fields_table, kind

TAGS = {
    "jobs": "Jobs",
    "openai": "OpenAI's live endpoints",
    "files": "Files",
    "batches": "Batches",
    "webhooks": "Webhooks",
    "models": "Models",
    "workers": "Workers",
    "health": "Health",
}
"""Titles by tag, in the order of the page. A tag that is not here goes to the end under its own name."""

BEFORE_ANY_CALL = {
    "405": "The URL is served, but not with this method.",
    "408": "The headers, or the body, came too slowly. The connection is closed.",
    "431": "The headers are over 64 KiB. The connection is closed, and there is no body.",
    "500": "A defect of Penstock. The log names its place.",
}
"""Statuses that no call has of its own, so that OpenAPI's document does not list them."""


@cache
def document() -> Mapping[str, Any]:
    """OpenAPI's document of the whole application."""
    return create_app(Settings()).openapi()


def operations() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Method, path and description of every call."""
    for path, calls in document()["paths"].items():
        for method, call in calls.items():
            yield method.upper(), path, call


def api() -> str:
    """Every call, by the kind of object it is about."""
    by_tag: dict[str, list[str]] = {tag: [] for tag in TAGS}
    for method, path, call in operations():
        tag = call.get("tags", ["other"])[0]
        by_tag.setdefault(tag, []).append(_call(method, path, call))
    parts = [f"## {TAGS.get(tag, tag.capitalize())}\n\n" + "\n".join(calls) for tag, calls in by_tag.items() if calls]
    return "\n".join(parts)


def _call(method: str, path: str, call: Mapping[str, Any]) -> str:
    parts = [f"### {method} {path}", f"**{call['summary']}.** {call.get('description', '')}"]
    if given := call.get("parameters"):
        rows = [_parameter(one) for one in given if one["in"] != "path"]
        parts += [table(["parameter", "in", "type", "default", "meaning"], rows)] if rows else []
    if body := call.get("requestBody"):
        parts.append(f"Body: {_bodies(body)}.")
    parts.append("Answers: " + ", ".join(_answers(call["responses"])) + ".")
    return "\n\n".join(parts) + "\n"


def _parameter(one: Mapping[str, Any]) -> list[str]:
    schema = one.get("schema", {})
    default = code(schema["default"]) if schema.get("default") is not None else ""
    return [code(one["name"]), one["in"], kind(schema), default, one.get("description") or ""]


def _bodies(body: Mapping[str, Any]) -> str:
    shown = [f"{code(media)}, {_body(content.get('schema', {}))}" for media, content in body["content"].items()]
    return "; ".join(shown)


def _body(schema: Mapping[str, Any]) -> str:
    if "properties" in schema and "$ref" not in schema:
        return "with " + ", ".join(code(name) for name in schema["properties"])
    return kind(schema)


def _answers(responses: Mapping[str, Any]) -> Iterator[str]:
    for status, answer in sorted(responses.items()):
        contents: list[Mapping[str, Any]] = list(answer.get("content", {}).values())
        schema = contents[0].get("schema", {}) if contents else {}
        shown = "" if status >= "400" or not schema else f" ({kind(schema)})"
        yield f"{code(status)}{shown}"


def objects() -> str:
    """Every object of the wire that has fields, and what they mean."""
    parts = []
    for name, schema in sorted(document()["components"]["schemas"].items()):
        if schema.get("properties"):
            about = schema.get("description", "")
            parts.append(f"### {name}\n\n{about}\n\n{fields_table(schema)}")
        elif "enum" in schema:
            parts.append(f"### {name}\n\n" + ", ".join(code(value) for value in schema["enum"]) + "\n")
    return "\n".join(parts)


def statuses() -> str:
    """What a status means, wherever it is answered."""
    found = dict(BEFORE_ANY_CALL)
    for _, _, call in operations():
        for status, answer in call["responses"].items():
            if status >= "400":
                found.setdefault(status, answer["description"])
    return table(["status", "meaning"], [[code(status), text] for status, text in sorted(found.items())])


def job_events() -> str:
    """What the stream of a job tells."""
    return _description("/v1/jobs/{job_id}/events")


def batch_events() -> str:
    """What the stream of a batch tells."""
    return _description("/v1/batches/{batch_id}/events")


def _description(path: str) -> str:
    return str(document()["paths"][path]["get"]["description"]) + "\n"


def webhook_events() -> str:
    """What a webhook can be told of."""
    about = {"batch": "A batch", "job": "A job"}
    rows = []
    for event in (*BATCH_EVENTS, *JOB_EVENTS):
        subject, _, end = event.partition(".")
        rows.append([code(event), f"{about[subject]} ended {code(end)}"])
    return table(["event", "when"], [*rows, [code(TEST_EVENT), "Its owner asked for a test"]])
