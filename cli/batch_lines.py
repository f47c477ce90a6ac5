"""Lines of a batch file to bodies of jobs. Three shapes, and they may be mixed:

    "a prompt"                                          one user message in chat
    {"prompt"|"messages": …, "temperature": …, …}       a job as `POST /v1/jobs` takes it
    {"custom_id", "method", "url", "body"}              a line of an OpenAI batch, for /v1/chat/completions or
                                                        /v1/completions; `custom_id` travels in the job's metadata

A line that cannot run is refused here, with its number and field, before any line is sent. No message repeats a line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from cli.job_body import chat, first_fault
from jobs.parameters import MAX_METADATA_PAIRS, Parameters
from jobs.states import Priority

Json = dict[str, Any]

MAX_LINE_BYTES = 4 * 1024 * 1024
CHAT_URL = "/v1/chat/completions"
COMPLETIONS_URL = "/v1/completions"
OPENAI_COMPLETIONS_MAX_TOKENS = 16
ROLES = ("system", "user", "assistant")
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
JOB_FIELDS = frozenset({"prompt", "messages", "model", "priority", "deadline_seconds", "max_attempts", "metadata"})
# OpenAI fields that change nothing here at these values, and cannot be served at others.
INERT: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "stream_options": (None,),
    "echo": (False,),
    "suffix": (None, ""),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
}
IGNORED = frozenset({"user", "safety_identifier", "prompt_cache_key", "service_tier", "store"})


class LineError(Exception):
    """One line cannot run. `number` counts from 1."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(f"line {number}: {message}")
        self.number = number


class Fault(Exception):
    """Why a line cannot run; `read_job` adds the number."""


def numbered_jobs(lines: Iterable[bytes]) -> Iterator[tuple[int, Json | LineError]]:
    """Number and job of every line that is not blank; a LineError in place of a job that cannot run.

    A `custom_id` that was seen before is a fault: results could not be told apart.
    """
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            job = read_job(line)
            _check_custom_id(job, number, seen)
        except Fault as fault:
            yield number, LineError(number, str(fault))
        else:
            yield number, job


def _check_custom_id(job: Json, number: int, seen: dict[str, int]) -> None:
    custom_id = (job.get("metadata") or {}).get("custom_id")
    if custom_id is None:
        return
    if custom_id in seen:
        raise Fault(f"custom_id: the same as in line {seen[custom_id]}")
    seen[custom_id] = number


def read_job(line: bytes) -> Json:
    """The body of one job; raises Fault."""
    if len(line) > MAX_LINE_BYTES:
        raise Fault(f"it has {len(line)} bytes; at most {MAX_LINE_BYTES}")
    value = _parse(line)
    if isinstance(value, str):
        value = {"messages": chat(value, None)} if value.strip() else {"prompt": ""}
    if not isinstance(value, dict):
        raise Fault("neither a JSON string nor a JSON object")
    job = _from_openai(value) if "body" in value and "url" in value else value
    _check_job(job)
    return job


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise Fault(f"not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise Fault(f"not JSON ({error.msg}, column {error.colno})") from error
    except RecursionError as error:
        raise Fault("nested too deep") from error


def _no_constant(name: str) -> None:
    raise Fault(f"{name} is no JSON number")


def _check_job(job: Json) -> None:
    if ("prompt" in job) == ("messages" in job):
        raise Fault("give exactly one of `prompt` and `messages`")
    if "prompt" in job and not (isinstance(job["prompt"], str) and job["prompt"]):
        raise Fault("prompt: a string that is not empty")
    if "messages" in job:
        _check_messages(job["messages"])
    if any("\x00" in text for text in _texts(job)):
        raise Fault("prompt: NUL characters cannot be stored")
    _check_metadata(job.get("metadata"))
    _check_queueing(job)
    try:
        Parameters.model_validate({name: value for name, value in job.items() if name not in JOB_FIELDS})
    except ValidationError as error:
        field, message = first_fault(error)
        raise Fault("unknown field " + field if "Extra inputs" in message else f"{field}: {message}") from error


def _texts(job: Json) -> list[str]:
    return [job["prompt"]] if "prompt" in job else [message["content"] for message in job["messages"]]


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise Fault("messages: a list that is not empty")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise Fault(f"messages[{index}].role: one of {', '.join(ROLES)}")
        if not isinstance(message.get("content"), str) or not message["content"]:
            raise Fault(f"messages[{index}].content: a string that is not empty")


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Fault("metadata: an object of strings")
    if len(metadata) > MAX_METADATA_PAIRS:
        raise Fault(f"metadata: at most {MAX_METADATA_PAIRS} pairs, custom_id included")
    for key, value in metadata.items():
        if not 1 <= len(key) <= MAX_METADATA_KEY or len(value) > MAX_METADATA_VALUE:
            raise Fault(
                f"metadata (custom_id included): keys of 1 to {MAX_METADATA_KEY} characters, "
                f"values of at most {MAX_METADATA_VALUE}"
            )


def _check_queueing(job: Json) -> None:
    if job.get("priority") is not None and job["priority"] not in list(Priority):
        raise Fault(f"priority: one of {', '.join(Priority)}")
    deadline = job.get("deadline_seconds")
    if deadline is not None and (isinstance(deadline, bool) or not isinstance(deadline, int | float) or deadline <= 0):
        raise Fault("deadline_seconds: a number above 0")
    if job.get("model") is not None and not isinstance(job["model"], str):
        raise Fault("model: a string")


def _from_openai(line: Json) -> Json:
    body = line["body"]
    if line.get("method", "POST") != "POST":
        raise Fault("method: only POST")
    if not isinstance(body, dict):
        raise Fault("body: a JSON object")
    mappings: dict[str, Callable[[Json], Json]] = {CHAT_URL: _from_chat, COMPLETIONS_URL: _from_completions}
    if not isinstance(line["url"], str) or line["url"] not in mappings:
        raise Fault(f"url: only {CHAT_URL} and {COMPLETIONS_URL}")
    job = mappings[line["url"]](_without_inert(body))
    if "custom_id" in line:
        if not isinstance(line["custom_id"], str):
            raise Fault("custom_id: a string")
        _check_metadata(job.get("metadata"))
        job["metadata"] = (job.get("metadata") or {}) | {"custom_id": line["custom_id"]}
    # OpenAI's endpoints know no repeat penalty, so a line written for them gets none.
    return {"repeat_penalty": 1.0} | job


def _without_inert(body: Json) -> Json:
    """Drop what changes nothing; refuse what Penstock cannot serve. A null is the same as leaving a field out."""
    for name, allowed in INERT.items():
        if body.get(name) is not None and body[name] not in allowed:
            raise Fault(f"body.{name}: not supported with this value")
    return {
        name: value
        for name, value in body.items()
        if name not in INERT and name not in IGNORED and (value is not None or name == "messages")
    }


def _from_chat(body: Json) -> Json:
    job = _renamed_limit(body)
    job["messages"] = _flat_messages(job.get("messages"))
    wants: Any = job.pop("logprobs", False)
    top = job.pop("top_logprobs", 0)
    if not isinstance(wants, bool):
        raise Fault("body.logprobs: true or false")
    return job | ({"logprobs": top} if wants else {})


def _from_completions(body: Json) -> Json:
    job: Json = {"max_tokens": OPENAI_COMPLETIONS_MAX_TOKENS}
    job |= _renamed_limit(body)
    prompt = job.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        job["prompt"] = prompt[0]
    elif isinstance(prompt, list):
        raise Fault("body.prompt: one string; write a line for each prompt")
    return job


def _renamed_limit(body: Json) -> Json:
    """OpenAI spells the limit of completion tokens in two ways."""
    job = dict(body)
    newer = job.pop("max_completion_tokens", None)
    return job | ({"max_tokens": newer} if newer is not None else {})


def _flat_messages(messages: Any) -> Any:
    """Join the text parts of each message's content; `developer` is OpenAI's newer word for `system`."""
    if not isinstance(messages, list):
        raise Fault("body.messages: a list that is not empty")
    return [_flat_message(index, message) for index, message in enumerate(messages)]


def _flat_message(index: int, message: Any) -> Any:
    if not isinstance(message, dict):
        raise Fault(f"body.messages[{index}]: a JSON object")
    role = "system" if message.get("role") == "developer" else message.get("role")
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise Fault(f"body.messages[{index}].content: only text parts")
        content = "".join(str(part.get("text", "")) for part in content)
    return {"role": role, "content": content}
