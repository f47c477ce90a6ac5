"""The JSON of requests and replies, as types. Fields and defaults of a generation come from `jobs.parameters`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from jobs.parameters import MAX_METADATA_PAIRS, Number, Parameters
from jobs.states import AttemptOutcome, FinishReason, JobState, Priority, ReplayResult

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
    metadata: Metadata = Field(default_factory=dict, description="Pairs of the caller's own, kept with the job.")


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
    continuity: dict[str, Any] | None = Field(
        default=None,
        description="How it took up what an earlier attempt had told, and at which token (`kept`: code points of what "
        "each earlier attempt told that the text begins with); or the job `of` which it is the generation, `reused`.",
    )
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
    custom_id: str | None = Field(default=None, description="Of a line of a file: what its file calls it.")
    replay: ReplayObject | None = Field(default=None, description="Of a replay: how it compares. Null in lists.")
    status_url: str
    events_url: str


class DeletedJob(BaseModel):
    id: str
    object: Literal["job"] = "job"
    deleted: Literal[True] = True


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


BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]


class BatchUsage(BaseModel):
    """Tokens of the lines that have ended."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: dict[str, int] = Field(default_factory=lambda: {"cached_tokens": 0})
    output_tokens_details: dict[str, int] = Field(default_factory=lambda: {"reasoning_tokens": 0})


class BatchFault(BaseModel):
    """Why a batch failed as a whole, or why one of its lines cannot run. `line` is that of the file, from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchFaults(BaseModel):
    object: Literal["list"] = "list"
    data: list[BatchFault]


class EtaSeconds(BaseModel):
    """The time to the end, from measured rates: as likely sooner as later than `p50`; sooner than `p90` nine times in
    ten."""

    p50: float
    p90: float


class BatchObject(BaseModel):
    """A batch, shaped like OpenAI's: its times are Unix seconds.

    Beside OpenAI's fields: `counts` (jobs by state), rates and `eta_seconds` (null in lists, and while nothing has
    been measured), `weight` and `events_url`.
    """

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    status: BatchStatus
    errors: BatchFaults | None
    input_file_id: str | None
    completion_window: str | None
    output_file_id: str | None = Field(description="There from the first line that succeeded; it grows.")
    error_file_id: str | None = Field(description="There from the first line that failed, or was never run.")
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: dict[str, str]
    counts: dict[JobState, int]
    lines_per_second: float | None = None
    tokens_per_second: float | None = Field(default=None, description="Completion tokens.")
    eta_seconds: EtaSeconds | None = None
    weight: float = Field(description="Its share of the workers beside the owner's other batches.")
    events_url: str


class BatchPage(BaseModel):
    """Newest first. For the next page: `?after=` its `last_id`."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


MIN_EXPIRY_SECONDS = 1
MAX_EXPIRY_SECONDS = 10 * 365 * 24 * 3600


class ExpiresAfter(BaseModel):
    """When files of results go: so long after their making."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    anchor: Literal["created_at"]
    seconds: Annotated[StrictInt, Field(ge=MIN_EXPIRY_SECONDS, le=MAX_EXPIRY_SECONDS)]


class BatchRequest(BaseModel):
    """A batch of the lines of a file.

    Three keys of `metadata` mean something: `on_invalid` (`reject`: one line that cannot run fails the batch),
    `output_order` (`input`: the output file comes at the end, in the order of the lines) and `weight` (0.1 to 10).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_file_id: StrictStr
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/jobs"]
    completion_window: StrictStr | None = Field(
        default=None, description="`24h`, `90m`, `1.5h`, `7d`. Lines that have not ended by then expire. None: no end."
    )
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class RetriedBatch(BatchObject):
    """A batch that was opened again. `num_retried`: its lines that are queued again."""

    num_retried: int


class LineCounts(BaseModel):
    """Lines of a file. `invalid` ones can never run; they end in the batch's error file."""

    total: int
    invalid: int


class FileObject(BaseModel):
    """A file, shaped like OpenAI's. `complete` is false for the results of a batch that still runs."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed"]
    status_details: None = None
    complete: bool
    sha256: str | None
    lines: LineCounts
    batch_id: str | None = Field(description="The batch whose results it holds.")


class FilePage(BaseModel):
    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(BaseModel):
    """OpenAI's shape. `param` names the field."""

    error: ErrorDetail
