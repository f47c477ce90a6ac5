"""From the body of `POST /v1/jobs` to jobs that can run: everything is checked here, before anything is stored.

What needs the model is `api.fitting`'s. Errors name the field as the caller wrote it (`jobs[3].temperature`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from api.faults import first_fault, joined
from api.fitting import Draft, fit
from api.models import ServedModel
from api.wire import JobRequest, ManyJobsRequest
from jobs.errors import InvalidRequest
from jobs.records import NewJob
from jobs.states import Priority

Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Submission:
    """What one call submits. `many`: in the list form, which makes or extends a batch."""

    jobs: Sequence[NewJob]
    many: bool = False
    batch_id: str | None = None
    batch_metadata: Mapping[str, str] = field(default_factory=dict)


def check_submission(body: dict[str, Any], served: Callable[[], ServedModel], *, max_jobs: int) -> Submission:
    """Check the body of `POST /v1/jobs`. `served` is called once the body's form is right.

    Raises InvalidRequest, model_not_found, and what `served` raises.
    """
    if "jobs" not in body:
        request = validated(JobRequest, body)
        return Submission([new_job(request, served(), Priority.INTERACTIVE)])
    lines = body["jobs"]
    if isinstance(lines, list) and len(lines) > max_jobs:
        raise InvalidRequest(f"jobs: {len(lines)} jobs; the limit is {max_jobs} in one request.", param="jobs")
    many = validated(ManyJobsRequest, body)
    model = served()
    jobs = [new_job(job, model, Priority.BATCH, under=f"jobs[{index}]") for index, job in enumerate(many.jobs)]
    return Submission(jobs, many=True, batch_id=many.batch_id, batch_metadata=many.metadata)


def new_job(request: JobRequest, model: ServedModel, priority: Priority, *, under: str = "") -> NewJob:
    """Check one job against the model. `under` is its place in the body; `priority` its default."""
    return fit(draft_of(request, under), model).new_job(request.priority or priority)


def draft_of(request: JobRequest, under: str = "") -> Draft:
    """A native request, its input checked: one of prompt and messages, not empty; a chat ends with the user."""
    _check_input(request, under)
    return Draft(
        parameters=request,
        prompt=request.prompt,
        messages=_plain(request),
        model=request.model,
        deadline_seconds=request.deadline_seconds,
        max_attempts=request.max_attempts,
        metadata=request.metadata,
        under=under,
    )


def validated(kind: type[Body], body: dict[str, Any], *, under: str = "") -> Body:
    """The body as a `kind`. Raises InvalidRequest."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise first_fault(error.errors(include_url=False, include_input=False), body, under=under) from None


def _plain(request: JobRequest) -> list[dict[str, str]] | None:
    if request.messages is None:
        return None
    return [{"role": message.role, "content": message.content} for message in request.messages]


def _check_input(request: JobRequest, under: str) -> None:
    if request.prompt is not None and request.messages is not None:
        raise _refusal("give `prompt` or `messages`, not both", under, "prompt")
    if request.prompt is None and request.messages is None:
        raise _refusal("it is missing; give `prompt` or `messages`", under, "prompt", code="missing_field")
    if request.prompt is not None and not request.prompt:
        raise _refusal("it is empty", under, "prompt", code="empty_prompt")
    if request.messages is not None and not request.messages:
        raise _refusal("it is empty; at least one message is needed", under, "messages", code="empty_prompt")
    if request.messages and request.messages[-1].role != "user":
        last = len(request.messages) - 1
        raise _refusal("the last message must be the user's", under, "messages", last, "role")


def _refusal(reason: str, under: str, *path: str | int, code: str = "invalid_value") -> InvalidRequest:
    name = joined(under, path)
    return InvalidRequest(f"{name}: {reason}.", param=name, code=code)
