"""Every `code` of an error, what it means and what to do about it. Read beside the source: a test compares the two."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from ops.docs.markdown import code, table

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("api", "jobs", "worker/tasks.py")
"""Where errors are made that a caller sees."""

REQUEST, JOB, LINE, BATCH, STREAM, DELIVERY, START = (
    "request",
    "job",
    "line",
    "batch",
    "stream",
    "delivery",
    "start of a role",
)

MEANINGS: dict[str, tuple[str, str]] = {
    "address_not_allowed": (f"{REQUEST}, {DELIVERY}", "The webhook's URL leads to an address that is not public."),
    "attempts_spent": (JOB, "Every attempt lost its worker. The job's attempts say which; look at that worker's log."),
    "batch_cancelled": (LINE, "The batch was cancelled before the line had ended."),
    "batch_expired": (LINE, "The line's time was over: the batch's window, or its own deadline."),
    "body_too_large": (REQUEST, "The body is over `PENSTOCK_MAX_BODY_BYTES`."),
    "body_too_slow": (REQUEST, "The body kept the API waiting for longer than `PENSTOCK_BODY_GRACE_SECONDS` allows."),
    "client_closed": (REQUEST, "The caller went away in the middle of an upload; nothing was stored."),
    "context_length_exceeded": (f"{REQUEST}, {LINE}", "Prompt and `max_tokens` do not fit the context of a slot."),
    "cross_site_request": (REQUEST, "Without keys, only this machine's own programs and pages are served."),
    "deadline_exceeded": (STREAM, "The job's deadline passed before it had ended (`/v1/responses`)."),
    "deleted": (f"{REQUEST}, {LINE}", "The job was deleted; of its text nothing is left."),
    "duplicate_custom_id": (LINE, "An earlier line of the file has the same `custom_id`."),
    "empty_file": (REQUEST, "The file has no line."),
    "empty_prompt": (f"{REQUEST}, {LINE}", "The prompt has no text, or no token."),
    "engine_failed": (JOB, "llama.cpp could not go on with the job. It is tried again."),
    "exact_unavailable": (f"{REQUEST}, {JOB}", "`exact` was asked for, and no worker has proven a row class."),
    "file_in_use": (REQUEST, "A batch still reads from the file, or writes it."),
    "file_too_large": (REQUEST, "The file is over `PENSTOCK_MAX_FILE_BYTES`."),
    "http_error": (REQUEST, "The request is not HTTP as it is spoken here."),
    "idempotency_conflict": (REQUEST, "The `Idempotency-Key` was used with another body."),
    "input_unreadable": (BATCH, "The lines of the input file cannot be read any more."),
    "insufficient_scope": (REQUEST, "The API key lacks the scope that the message names."),
    "internal_error": (f"{REQUEST}, {JOB}", "A defect of Penstock. The log names its place; please report it."),
    "invalid_api_key": (REQUEST, "Send `Authorization: Bearer KEY`, with a key that is known."),
    "invalid_form": (REQUEST, "The body is no multipart form as an upload needs it."),
    "invalid_json": (f"{REQUEST}, {LINE}", "The body, or the line, is not JSON."),
    "invalid_json_schema": (
        f"{REQUEST}, {LINE}",
        "The JSON schema cannot be kept: see [Get JSON](../how-to/get-json.md).",
    ),
    "invalid_lines": (BATCH, "Lines cannot run, and the batch was made with `on_invalid` `reject`."),
    "invalid_request": (JOB, "The worker found what the API could not see; the message names the field."),
    "invalid_text": (f"{REQUEST}, {LINE}", "A text holds what cannot be stored: a NUL, or half a surrogate pair."),
    "invalid_metrics_key": (REQUEST, "Metrics ask for the key in `PENSTOCK_METRICS_KEY`, as a bearer token."),
    "invalid_type": (f"{REQUEST}, {LINE}", "The field has another type than this one."),
    "invalid_url": (LINE, "The line's `url` is none that runs lines."),
    "invalid_utf8": (f"{REQUEST}, {LINE}", "The body, or the line, is not UTF-8."),
    "invalid_value": (f"{REQUEST}, {LINE}", "The field's value is out of its limits; the message says which they are."),
    "job_not_ended": (REQUEST, "Only a job that has ended can be deleted. Cancel it first."),
    "lease_lost": (JOB, "The worker lost its hold on the job. Another attempt follows."),
    "line_too_long": (LINE, "The line is over `PENSTOCK_MAX_LINE_BYTES`."),
    "lines_miscounted": (BATCH, "The stored lines are not those of the file; a defect, or a damaged store."),
    "method_not_allowed": (REQUEST, "The URL is served, but not with this method."),
    "missing_field": (f"{REQUEST}, {LINE}", "A field that must be there is not."),
    "model_mismatch": (JOB, "The job went to a worker with another model. It is tried again."),
    "model_not_found": (f"{REQUEST}, {LINE}", "Another model is served; the message names it."),
    "model_unknown": (REQUEST, "No worker has announced a model yet. Ask again after `Retry-After` seconds."),
    "name_not_resolved": (f"{REQUEST}, {DELIVERY}", "The webhook's host name cannot be resolved."),
    "no_valid_line": (BATCH, "Not one line of the file can run at the batch's endpoint."),
    "not_found": (REQUEST, "There is no such object, or it belongs to another key."),
    "not_replayable": (REQUEST, "Only a job that succeeded, and whose text is kept, can be replayed."),
    "overloaded": (
        REQUEST,
        "More requests are being answered, or more bytes of them held, than `PENSTOCK_MAX_REQUESTS` and "
        "`PENSTOCK_MAX_HELD_BYTES` allow. Ask again after `Retry-After` seconds.",
    ),
    "previous_response_not_found": (REQUEST, "`previous_response_id` names nothing that is stored."),
    "queue_unavailable": (
        f"{REQUEST}, {STREAM}",
        "Redis cannot be reached. Jobs are kept; streams must be read again.",
    ),
    "range_not_satisfiable": (REQUEST, "The range begins behind what the file has."),
    "rate_limit_exceeded": (
        REQUEST,
        "A limit of the API key, which `param` names: see [Keys and limits](../how-to/operate/keys.md).",
    ),
    "server_error": (JOB, "What `/v1/responses` says of a job that failed."),
    "server_stopping": (STREAM, "The API is stopping. The job goes on; connect again."),
    "storage_unavailable": (REQUEST, "The disk or object store of files cannot serve. Ask again."),
    "store_refused": (JOB, "The database refused the result; a defect."),
    "store_unavailable": (f"{REQUEST}, {STREAM}", "The database cannot be reached. Ask again."),
    "stream_reset": (STREAM, "The worker was lost and another text began. Only OpenAI's streams end so."),
    "too_many_attempts": (REQUEST, "The delivery has had as many attempts as are kept."),
    "too_many_lines": (REQUEST, "The file has more lines than `PENSTOCK_MAX_BATCH_LINES`."),
    "too_many_webhooks": (REQUEST, "One owner may have 100 webhooks."),
    "tracing_unavailable": (START, "Traces were asked for, and their packages are not installed."),
    "unknown_field": (f"{REQUEST}, {LINE}", "There is no such field."),
    "unknown_url": (REQUEST, "Nothing is served at this URL."),
    "unsafe_metrics": (START, "Metrics would be open to the network without a key: set `PENSTOCK_METRICS_KEY`."),
    "unstorable_text": (f"{REQUEST}, {LINE}", "The text holds a character that a database cannot (NUL)."),
    "unsupported_media_type": (REQUEST, "The body's `Content-Type` is not the one that is taken here."),
    "unsupported_value": (f"{REQUEST}, {LINE}", "OpenAI has it, Penstock does not; the message says what there is."),
    "url_mismatch": (LINE, "The line's `url` is not the batch's `endpoint`."),
    "webhook_disabled": (REQUEST, "The webhook's target answered 410, or its owner disabled it. Enable it first."),
}
_WORD = re.compile(r"[a-z]+(_[a-z0-9]+)*\Z")
_NO_CODES = frozenset({"code"})
"""Words that stand where a code may: `told.get("code", …)`."""


def error_codes() -> str:
    """All codes, by name."""
    return table(["code", "of a", "meaning"], [[code(name), *MEANINGS[name]] for name in sorted(MEANINGS)])


def codes_in_source(root: Path = ROOT) -> set[str]:
    """Every code that is written down where errors are made."""
    files = [
        file for place in PLACES for file in ([root / place] if place.endswith(".py") else (root / place).rglob("*.py"))
    ]
    return {name for file in files for name in _codes(ast.parse(file.read_text(encoding="utf-8")))}


def strings_in_source(root: Path = ROOT) -> set[str]:
    """Every text of the source: a code that is in none of them is no code any more."""
    texts: set[str] = set()
    for place in PLACES:
        for file in [root / place] if place.endswith(".py") else (root / place).rglob("*.py"):
            nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            texts |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return texts


def _codes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        for value in _places_of_codes(node):
            for leaf in ast.walk(value):
                if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str) and _WORD.match(leaf.value):
                    yield from {leaf.value} - _NO_CODES


def _places_of_codes(node: ast.AST) -> Iterator[ast.expr]:
    """Where a code may stand: `code=…`, `{"code": …}`, `code = …`, and the first word of `Failed(…)`."""
    match node:
        case ast.Call(func=ast.Name(id="Failed" | "TargetRefused"), args=[first, *_]):
            yield first
        case ast.keyword(arg="code", value=value) | ast.Assign(targets=[ast.Name(id="code")], value=value):
            yield value
        case ast.Assign(targets=[ast.Tuple(elts=[ast.Name(id="code"), *_])], value=ast.Tuple(elts=[first, *_])):
            yield first
        case ast.Dict():
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "code":
                    yield value
