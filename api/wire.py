"""The JSON of requests and replies, as types. Fields and defaults of a generation come from `jobs.parameters`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from jobs.parameters import MAX_METADATA_PAIRS, Number, Parameters
from jobs.replay import ReplayResult
from jobs.states import AttemptOutcome, FinishReason, JobState, Priority

MAX_ATTEMPTS = 100
MAX_DEADLINE_SECONDS = 30 * 24 * 3600
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512

Metadata = Annotated[
    dict[
        Annotated[StrictStr, Field(min_length=1, max_length=MAX_METADATA_KEY)],
        Annotated[StrictStr, Field(max_length=MAX_METADATA_VALUE)],
    ],
    Field(max_length=MAX_METADATA_PAIRS),
]


class Message(BaseModel):
    """One message of a chat. Its text can never become a control token."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: Annotated[StrictStr, Field(min_length=1)]


class JobRequest(Parameters):
    """One job: a prompt (or chat messages) and how to complete it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        title="JobRequest",
        json_schema_extra={
            "examples": [
                {
                    "messages": [{"role": "user", "content": "Write a haiku about ice hockey"}],
                    "max_tokens": 60,
                    "temperature": 1.0,
                    "seed": 42,
                }
            ]
        },
    )

    prompt: StrictStr | None = Field(default=None, description="Raw text; control tokens in it are parsed.")
    messages: tuple[Message, ...] | None = Field(
        default=None, description="A chat, through the model's template. The last message is the user's."
    )
    model: StrictStr | None = Field(default=None, description="None: the one that is served.")
    priority: Priority | None = Field(
        default=None, description="None: `interactive` for a single job, `batch` for a job in a list."
    )
    deadline_seconds: Annotated[Number, Field(gt=0, le=MAX_DEADLINE_SECONDS)] | None = Field(
        default=None, description="Past it the job ends `expired`, with the text it has."
    )
    max_attempts: Annotated[StrictInt, Field(ge=1, le=MAX_ATTEMPTS)] | None = Field(
        default=None, description="Tries before the job ends `failed`. None: the server's setting."
    )
    metadata: Metadata = Field(default_factory=dict)


class ManyJobsRequest(BaseModel):
    """Several jobs, all accepted or none: the lines of a new batch, or more lines of the batch `batch_id`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    jobs: Annotated[tuple[JobRequest, ...], Field(min_length=1)]
    batch_id: StrictStr | None = None
    metadata: Metadata = Field(default_factory=dict, description="Of a new batch.")


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class JobError(BaseModel):
    """Why a job failed."""

    model_config = ConfigDict(extra="allow")

    code: str
    message: str


class AttemptObject(BaseModel):
    """One try at a job. `outcome` is null while it runs."""

    number: int
    worker: str
    outcome: AttemptOutcome | None
    started_at: datetime
    ended_at: datetime | None
    error: JobError | None


class ReplayObject(BaseModel):
    """A replay beside the job it runs again. Fields that do not apply to the result are left out."""

    of: str
    result: ReplayResult
    first_difference: int | None = Field(default=None, description="Index of the first token that differs.")
    tokens: list[int | None] | None = Field(default=None, description="The two tokens there: original, replay.")
    texts: list[str] | None = Field(default=None, description="Both texts: original, replay.")
    fields: dict[str, list[Any]] | None = Field(
        default=None, description="Fields of the recipe that differ: original, replay."
    )
    tokens_match: bool | None = Field(default=None, description="With another recipe: whether it made no difference.")


class JobObject(BaseModel):
    """A job. `attempts` and `queue_position` are null in lists. Instants are ISO 8601, UTC."""

    id: str
    object: Literal["job"] = "job"
    state: JobState
    model: str
    priority: Priority
    prompt: str | None
    messages: list[dict[str, Any]] | None
    parameters: dict[str, Any]
    seed: int = Field(description="The caller's, or the one Penstock drew.")
    completion: str | None = Field(description="Whole when succeeded; as far as it came when cancelled or expired.")
    finish_reason: FinishReason | None
    usage: Usage | None
    logprobs: list[Any] | None
    timings: dict[str, float] | None = Field(description="Seconds: queued, prefill, first_token, decode, total.")
    recipe: str | None = Field(description="Id of all else that decides the text.")
    attempts: list[AttemptObject] | None
    max_attempts: int | None
    queue_position: int | None = Field(description="0 is next. Null unless queued.")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    cancel_requested_at: datetime | None
    error: JobError | None
    metadata: dict[str, str]
    batch_id: str | None
    replay: ReplayObject | None = Field(default=None, description="Of a replay: how it compares. Null in lists.")
    status_url: str
    events_url: str


class JobPage(BaseModel):
    """Newest first. For the next page: `?after=` its `last_id`."""

    object: Literal["list"] = "list"
    data: list[JobObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class AcceptedJobs(BaseModel):
    """The answer to several jobs: in the order they were sent."""

    object: Literal["list"] = "list"
    data: list[JobObject]
    batch_id: str | None


class RequestCounts(BaseModel):
    """`failed` counts the expired too."""

    total: int
    completed: int
    failed: int


BatchStatus = Literal["in_progress", "completed", "cancelling", "cancelled"]


class BatchObject(BaseModel):
    """A batch, shaped like OpenAI's: its times are Unix seconds. `counts` has the jobs by state."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str = "/v1/jobs"
    status: BatchStatus
    errors: None = None
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int
    cancelling_at: int | None
    completed_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    counts: dict[JobState, int]
    metadata: dict[str, str]


class ModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "penstock"
    context_tokens: int
    sha256: str
    exact: dict[str, bool] | None = Field(
        default=None, description="By row class: whether the worker has proven that a text depends on nothing else."
    )
    recipe: str | None = Field(default=None, description="Id of all that decides a text, but for its row class.")


class ModelPage(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


class Liveness(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """`ok`: jobs are accepted and run. `degraded`: something is amiss, named by its field. `unavailable`: the
    database is down, so nothing can be accepted."""

    status: Literal["ok", "degraded", "unavailable"]
    database: Literal["ok", "unavailable"]
    redis: Literal["ok", "unavailable"]
    model: str | None = Field(description="The served model; null while it is not known.")
    workers: int | None = Field(description="Workers that were heard of in the last seconds.")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(BaseModel):
    """OpenAI's shape. `param` names the field."""

    error: ErrorDetail
