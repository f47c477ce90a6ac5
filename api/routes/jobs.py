"""/v1/jobs: submit, read, list, cancel, delete."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.body import fingerprint, parse_object, read_body
from api.checking import check_submission
from api.idempotency import Calling, note_replay
from api.keys import Maker, Owner
from api.reading import Wanted, accepted, check_id, poll_job, read_job, read_page
from api.routes import note_poll, refusals
from api.services import Services, services
from api.wire import AcceptedJobs, DeletedJob, JobObject, JobPage
from jobs.records import NewJob
from jobs.states import ENDED, JobState, Priority

router = APIRouter(tags=["jobs"])

Parts = Annotated[Services, Depends(services)]

_SUBMIT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/JobRequest"},
                        {"$ref": "#/components/schemas/ManyJobsRequest"},
                    ]
                },
                "examples": {
                    "chat": {
                        "summary": "A chat",
                        "value": {
                            "messages": [{"role": "user", "content": "Write a haiku about ice hockey"}],
                            "max_tokens": 60,
                            "seed": 42,
                        },
                    },
                    "prompt": {
                        "summary": "A raw prompt",
                        "value": {"prompt": "<|user|>\nWrite a haiku about ice hockey<|end|>\n<|assistant|>\n"},
                    },
                    "batch": {
                        "summary": "Several jobs, as a batch",
                        "value": {"jobs": [{"prompt": "One"}, {"prompt": "Two", "temperature": 0}]},
                    },
                },
            }
        },
    }
}


async def body_after_key(_: Owner, request: Request) -> bytes:
    """The body, read only once the caller's key is known to be good."""
    return await read_body(request)


@router.post(
    "/v1/jobs",
    status_code=202,
    response_model=JobObject | AcceptedJobs,
    summary="Submit a job, or several",
    responses=refusals(400, 401, 404, 409, 413, 415, 503),
    openapi_extra=_SUBMIT_BODY,
)
def submit(
    parts: Parts,
    maker: Maker,
    caller: Calling,
    raw: Annotated[bytes, Depends(body_after_key)],
    response: Response,
) -> JobObject | AcceptedJobs:
    """Accept one job, or `{"jobs": […]}`: all of them or none.

    The reply comes when the jobs are stored. Follow one at its `events_url`, or read its `status_url` now and then.
    """
    body = parse_object(raw)
    submission = check_submission(body, parts.catalog.served, max_jobs=parts.settings.max_jobs_per_request)
    done = parts.store.submit(
        submission.jobs,
        owner=maker.owner,
        quota=maker.quota,
        batch_id=None if submission.batch_id is None else check_id("batch", submission.batch_id),
        new_batch=submission.many and submission.batch_id is None,
        batch_metadata=dict(submission.batch_metadata) or None,
        **caller.terms(fingerprint(body)),
    )
    note_replay(response, done.replayed)
    if not done.replayed:
        _announce(parts, done.ids, submission.jobs)
    data = accepted(parts.store, done.ids, submission, done.batch_id)
    return AcceptedJobs(data=data, batch_id=done.batch_id) if submission.many else data[0]


def _announce(parts: Services, ids: Sequence[str], jobs: Sequence[NewJob]) -> None:
    interactive = [job_id for job_id, job in zip(ids, jobs, strict=True) if job.priority == Priority.INTERACTIVE]
    parts.announcer.queued(interactive, len(ids) - len(interactive))


@router.get("/v1/jobs/{job_id}", response_model=JobObject, summary="Read a job", responses=refusals(401, 404, 503))
def read(parts: Parts, owner: Owner, job_id: str, response: Response) -> JobObject:
    """The job, its text once it has ended, its attempts, and its place in the queue while it waits. Until its end,
    `Retry-After` says when to ask again."""
    job, seconds = poll_job(parts.store, job_id, owner)
    note_poll(response, seconds)
    return job


class ListQuery(BaseModel):
    """What to list."""

    model_config = ConfigDict(extra="forbid")

    state: JobState | None = Field(default=None, description="Only jobs in this state.")
    batch_id: str | None = Field(default=None, description="Only the lines of this batch.")
    id_prefix: str = Field(default="", description="How ids begin: `job_` and some of the digits.")
    limit: Annotated[int, Field(ge=1, le=100, description="At most so many.")] = 20
    after: str | None = Field(default=None, description="Id of the last job of the page before.")
    excerpt: Annotated[int, Field(ge=0, le=10_000)] | None = Field(
        default=None,
        description="So much of each text at most, in code points; of messages only the last, and no logprobs.",
    )


@router.get("/v1/jobs", response_model=JobPage, summary="List jobs", responses=refusals(400, 401, 404, 503))
def list_jobs(parts: Parts, owner: Owner, query: Annotated[ListQuery, Query()]) -> JobPage:
    """Newest first, a page at a time."""
    return read_page(parts.store, owner, Wanted(**query.model_dump()))


@router.post(
    "/v1/jobs/{job_id}/cancel", response_model=JobObject, summary="Cancel a job", responses=refusals(401, 404, 503)
)
def cancel(parts: Parts, owner: Owner, job_id: str) -> JobObject:
    """A queued job ends at once, a running one within a second, with the text it has. One that has ended stays as
    it is."""
    before = parts.store.get(check_id("job", job_id), owner=owner)
    if before.state in ENDED:
        return read_job(parts.store, job_id, owner)
    parts.announcer.cancelled(job_id, JobState(parts.store.cancel(job_id, owner=owner).state))
    return read_job(parts.store, job_id, owner)


@router.delete(
    "/v1/jobs/{job_id}", response_model=DeletedJob, summary="Delete a job", responses=refusals(401, 404, 409, 503)
)
def delete(parts: Parts, owner: Owner, job_id: str) -> DeletedJob:
    """Erase the prompt, the parameters, the text and the attempts of a job that has ended. From then on it is not there
    (404, `deleted`), nor is its response; deleting it again answers the same. A batch goes on counting its line, and
    files keep the lines they have: delete them too. Replays, and jobs that were answered with its text, are jobs of
    their own."""
    parts.store.delete(check_id("job", job_id), owner)
    parts.announcer.deleted(job_id)
    return DeletedJob(id=job_id)
