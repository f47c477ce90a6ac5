"""Lines of result files: an ended job as one line of JSON, in the shape of its batch's endpoint.

Owns the shapes (OpenAI's, with an extra key `penstock` that says where a text came from) and nothing else: no
database, no file, no clock. The same row gives the same bytes each time and on every database, so that a line may be
rendered again after a crash, or for somebody who follows the batch.

    succeeded                        output file   response {status_code, request_id, body}, error null
    failed, cancelled, expired       error file    response null, error {code, message[, param][, line]}
    succeeded, deleted since         output file   response null, error {code, message}, if it is written after that
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jobs.ends import EndedLine
from jobs.states import JobState
from jobs.tables import Generation, Job

Document = dict[str, Any]

UNLIKELY = -9999.0
"""What OpenAI writes for a token that could not come: its logarithm is no number of JSON."""

_END_ERRORS = {
    JobState.CANCELLED: ("batch_cancelled", "The line was cancelled before it had ended."),
    JobState.EXPIRED: ("batch_expired", "The line had not ended when its time was over."),
    JobState.FAILED: ("internal_error", "The line failed."),
}
# Line ends to some readers (`str.splitlines`), though not to JSON.
_LINE_ENDS = (("\u0085", "\\u0085"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def render(line: EndedLine, endpoint: str) -> bytes:
    """One line, its newline included. `endpoint` is the batch's."""
    job, generation = line.job, line.generation
    succeeded = job.state == JobState.SUCCEEDED and job.deleted_at is None
    text = _encode(
        {
            "id": f"batch_req_{_hex(job)}",
            "custom_id": job.custom_id,
            "response": _response(job, generation, endpoint) if succeeded else None,
            "error": None if succeeded else error_of(job),
            "penstock": provenance(line),
        }
    )
    for character, escape in _LINE_ENDS:
        text = text.replace(character, escape)
    return text.encode("utf-8", "replace") + b"\n"


def _response(job: Job, generation: Generation | None, endpoint: str) -> Document:
    if generation is None:
        raise ValueError(f"{job.id} succeeded without a generation")
    body = _BODIES.get(endpoint, job_body)(job, generation)
    return {"status_code": 200, "request_id": job.id, "body": body}


def error_of(job: Job) -> Document:
    """Why a job did not succeed, as an error line says it; or that its text is no more."""
    if job.state == JobState.SUCCEEDED:
        return {"code": "deleted", "message": "The line succeeded, and was deleted since."}
    code, message = _END_ERRORS[JobState(job.state)]
    told = job.error if job.state == JobState.FAILED and job.error else {}
    place = {name: told[name] for name in ("param", "line") if told.get(name) is not None}
    return {"code": told.get("code", code), "message": told.get("message", message), **place}


def provenance(line: EndedLine) -> Document:
    """Where a line's text came from; of a line that was cut short, also the text it had."""
    job, generation = line.job, line.generation
    said: Document = {
        "job_id": job.id,
        "line": job.line_number,
        "state": job.state,
        "seed": job.seed,
        "attempt": job.attempt,
        "worker": line.worker,
        "recipe": generation.recipe_id if generation else None,
        "exact": line.exact,
        "timings": _steady(generation.timings) if generation else None,
    }
    if job.state == JobState.FAILED:
        said["retryable"] = bool((job.error or {}).get("retryable", False))
    elif job.state != JobState.SUCCEEDED and generation is not None and job.deleted_at is None:
        said |= {"completion": generation.completion, "usage": _usage(generation)}
    return said


def chat_body(job: Job, generation: Generation) -> Document:
    """OpenAI's `chat.completion`."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": generation.completion, "refusal": None},
        "logprobs": None if generation.logprobs is None else _chat_logprobs(generation.logprobs),
        "finish_reason": generation.finish_reason,
    }
    return _completion_body("chatcmpl", "chat.completion", job, generation, choice)


def text_body(job: Job, generation: Generation) -> Document:
    """OpenAI's `text_completion`."""
    choice = {
        "index": 0,
        "text": generation.completion,
        "logprobs": None if generation.logprobs is None else _text_logprobs(generation.logprobs, generation.completion),
        "finish_reason": generation.finish_reason,
    }
    return _completion_body("cmpl", "text_completion", job, generation, choice)


def _completion_body(prefix: str, kind: str, job: Job, generation: Generation, choice: Document) -> Document:
    return {
        "id": f"{prefix}-{_hex(job)}",
        "object": kind,
        "created": int((job.ended_at or job.created_at).timestamp()),
        "model": job.model,
        "system_fingerprint": generation.recipe_id,
        "choices": [choice],
        "usage": _usage(generation),
    }


def job_body(job: Job, generation: Generation) -> Document:
    """The native object: what `GET /v1/jobs/{id}` answers, but for the list of attempts."""
    return {
        "id": job.id,
        "object": "job",
        "state": job.state,
        "model": job.model,
        "priority": job.priority,
        "prompt": job.prompt,
        "messages": _steady(job.messages),
        "parameters": _steady(job.parameters),
        "seed": job.seed,
        "completion": generation.completion,
        "finish_reason": generation.finish_reason,
        "usage": _usage(generation),
        "logprobs": _steady(generation.logprobs),
        "timings": _steady(generation.timings),
        "recipe": generation.recipe_id,
        "continuity": _steady(generation.continuity),
        "max_attempts": job.max_attempts,
        "queue_position": None,
        "created_at": _instant(job.created_at),
        "started_at": _instant(job.started_at),
        "ended_at": _instant(job.ended_at),
        "cancel_requested_at": _instant(job.cancel_requested_at),
        "error": _steady(job.error),
        "metadata": _steady(job.job_metadata),
        "custom_id": job.custom_id,
        "batch_id": job.batch_id,
        "replay": None,
        "status_url": f"/v1/jobs/{job.id}",
        "events_url": f"/v1/jobs/{job.id}/events",
    }


_BODIES: Mapping[str, Callable[[Job, Generation], Document]] = {
    "/v1/chat/completions": chat_body,
    "/v1/completions": text_body,
    "/v1/jobs": job_body,
}


def _chat_logprobs(stored: Sequence[Mapping[str, Any]]) -> Document:
    content = [{**_token(entry), "top_logprobs": [_token(other) for other in entry["top"]]} for entry in stored]
    return {"content": content, "refusal": None}


def _token(entry: Mapping[str, Any]) -> Document:
    return {"token": entry["token"], "logprob": _number(entry), "bytes": entry["bytes"]}


def _text_logprobs(stored: Sequence[Mapping[str, Any]], text: str) -> Document:
    """The older shape: lists beside each other. Offsets are places in `text`."""
    return {
        "tokens": [entry["token"] for entry in stored],
        "token_logprobs": [_number(entry) for entry in stored],
        "top_logprobs": [{_label(other): _number(other) for other in entry["top"]} for entry in stored],
        "text_offset": _offsets([bytes(entry["bytes"]) for entry in stored], text),
    }


def _offsets(pieces: Sequence[bytes], text: str) -> list[int]:
    """Where each token's text begins. A turn begins without the space of its first token; a character may take several
    tokens, which then begin at one place."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offset = -1 if pieces and pieces[0].startswith(b" ") and not text.startswith(" ") else 0
    offsets = []
    for piece in pieces:
        offsets.append(max(offset, 0))
        offset += len(decoder.decode(piece))
    return offsets


def _label(entry: Mapping[str, Any]) -> str:
    """A key for a token: its text, or its id where the text is not it (part of a character, an end)."""
    token: str = entry["token"]
    return token if token and token.encode() == bytes(entry["bytes"]) else f"token_id:{entry['token_id']}"


def _number(entry: Mapping[str, Any]) -> float:
    logprob = entry["logprob"]
    return UNLIKELY if logprob is None else float(logprob)


def _usage(generation: Generation) -> Document:
    prompt, completion = generation.num_prompt_tokens, generation.num_completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _hex(job: Job) -> str:
    return job.id.rpartition("_")[2]


def _instant(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat().replace("+00:00", "Z")


def _steady(value: Any) -> Any:
    """The same JSON with its keys in order: each database gives them back in an order of its own."""
    if isinstance(value, Mapping):
        return {name: _steady(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_steady(item) for item in value]
    return value
