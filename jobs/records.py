"""The values that pass between rooms: what a caller submits, what a worker claims, how an attempt ended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from jobs.states import FinishReason, JobState, Priority


@dataclass(frozen=True, slots=True)
class NewJob:
    """A checked request, ready to be stored. Exactly one of `prompt` and `messages` is set."""

    model: str
    parameters: Mapping[str, Any]
    """`Parameters.model_dump(mode="json", exclude={"seed"})`."""
    seed: int
    num_prompt_tokens: int
    prompt: str | None = None
    messages: Sequence[Mapping[str, Any]] | None = None
    priority: Priority = Priority.INTERACTIVE
    deadline_seconds: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    custom_id: str | None = None
    max_attempts: int | None = None
    origin: Mapping[str, Any] | None = None
    """What another wire needs to show the job as it was asked for."""


@dataclass(frozen=True, slots=True)
class AttemptRef:
    """Names one attempt; every later statement about it is fenced by both fields."""

    job_id: str
    number: int


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """What a claim hands to a worker: all that is needed to run the job, under a lease."""

    ref: AttemptRef
    model: str
    prompt: str | None
    messages: Sequence[Mapping[str, Any]] | None
    parameters: Mapping[str, Any]
    seed: int
    priority: Priority
    lease_seconds: float
    deadline_at: datetime | None
    seconds_to_deadline: float | None
    """By the database's clock at the claim; none without a deadline."""
    created_at: datetime
    seconds_queued: float
    row_class: str | None = None
    """The row class it has to run in; none: the worker chooses."""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """What waits and runs in one queue. `at_least`: more wait than were counted."""

    priority: Priority
    num_queued: int
    num_published: int
    """Of them, those with a message out: a worker may take them at any moment."""
    num_running: int
    oldest_at: datetime | None
    """When the oldest that waits was accepted; of lines, when their batch was."""
    at_least: bool = False
    num_to_take_in: int = 0
    """Of the queued, lines of files that are no rows yet."""

    def oldest_seconds(self, now: datetime) -> float:
        """Age of the oldest that waits; 0 when none does."""
        return 0.0 if self.oldest_at is None else max(0.0, (now - self.oldest_at).total_seconds())


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """What is stored of a finished (or cut short) generation."""

    completion: str
    finish_reason: FinishReason | None
    prompt_token_ids: Sequence[int]
    completion_token_ids: Sequence[int]
    recipe: Mapping[str, Any]
    """The whole recipe; its id is `jobs.records.recipe_id(recipe)`."""
    timings: Mapping[str, float] = field(default_factory=dict)
    logprobs: Sequence[Any] | None = None
    continuity: Mapping[str, Any] | None = None
    """How it took up what an earlier attempt had told; or which job's generation it is, told once more."""
    fingerprint: str | None = None
    """Of an exact one (`jobs.reuse`): others that allow it may be answered with it."""


@dataclass(frozen=True, slots=True)
class Succeeded:
    generation: GenerationRecord


@dataclass(frozen=True, slots=True)
class Failed:
    """`code` and `message` go to the caller; a retryable failure is tried again while attempts are left."""

    code: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    generation: GenerationRecord | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    generation: GenerationRecord | None = None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A drain gives the job back: it is queued again and costs no attempt."""


Outcome = Succeeded | Failed | Cancelled | Expired | Interrupted


@dataclass(frozen=True, slots=True)
class Renewal:
    """Answer to one renewal of all leases: what is still held, what must stop, and why."""

    held: frozenset[AttemptRef]
    lost: frozenset[AttemptRef]
    cancel_requested: frozenset[AttemptRef]


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What one sweep changed; ids of the jobs that somebody may follow.

    Batch lines that never had a message out are only counted: there may be a million, and nobody follows them.
    `seconds_to_next`: until the first lease or deadline that was to come; None without one.
    """

    requeued: Sequence[str] = ()
    failed: Sequence[str] = ()
    expired: Sequence[str] = ()
    cancelled: Sequence[str] = ()
    num_more_expired: int = 0
    num_more_cancelled: int = 0
    seconds_to_next: float | None = None

    def __bool__(self) -> bool:
        return self.num_moved > 0

    @property
    def num_moved(self) -> int:
        """All jobs that it moved."""
        num_named = len(self.requeued) + len(self.failed) + len(self.expired) + len(self.cancelled)
        return num_named + self.num_more_expired + self.num_more_cancelled


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a submission made: ids in the order of its jobs. `replayed`: an earlier call with the key had made them."""

    ids: Sequence[str]
    batch_id: str | None
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Publishable:
    """Ids of the queued jobs whose message should go out now, oldest first; batch lines fairly mixed.

    `again`: those of the batch lines that ran before. Their messages go before the ones that wait.
    `window`: how many batch lines may be in flight; 0 where only interactive jobs were asked for.
    `waits`: whether any job has no message yet, these among them; not known where only interactive ones were asked for.
    """

    interactive: Sequence[str] = ()
    batch: Sequence[str] = ()
    again: Sequence[str] = ()
    window: int = 0
    waits: bool = False

    def __bool__(self) -> bool:
        return bool(self.interactive or self.batch)


@dataclass(frozen=True, slots=True)
class BatchCounts:
    """Jobs of a batch by state."""

    total: int
    by_state: Mapping[JobState, int]


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a batch goes and how long it still needs, from what was measured lately.

    None: nothing is known yet, or nothing moves. An ended batch has the rates of its whole run and needs no time.
    """

    lines_per_second: float | None = None
    tokens_per_second: float | None = None
    eta_p50_seconds: float | None = None
    """It will be done as likely before as after."""
    eta_p90_seconds: float | None = None
    """It will be done before nine times of ten."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How everything stands at one instant. `window`: batch lines that may be in flight."""

    at: datetime
    queues: Mapping[Priority, QueueDepth]
    num_open_batches: int
    num_deliveries_waiting: int
    num_workers: Mapping[str, int]
    """Living ones, by model."""
    window: int


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file whose bytes are stored and, as a batch's input, whose lines are checked."""

    purpose: str
    filename: str
    num_bytes: int
    segments: Sequence[tuple[str, int]]
    """`(object_name, num_bytes)`, in the order of the file."""
    sha256: str | None = None
    num_lines: int = 0
    num_invalid: int = 0
    urls: Mapping[str, int] = field(default_factory=dict)
    """How many valid lines each `url` has."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Prompt tokens and `max_tokens` of the valid lines of each `url`."""
    checked_object: str | None = None
    checked_model: str | None = None
    expires_at_seconds: float | None = None
    """Seconds from its making to its end."""


@dataclass(frozen=True, slots=True)
class Filed:
    """`replayed`: an earlier call with the key had made the file; what this call stored belongs to nobody."""

    id: str
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Erasable:
    """The stored objects of a deleted file."""

    file_id: str
    object_names: Sequence[str]


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A checked request for a batch made from a file."""

    input_file_id: str
    endpoint: str
    completion_window: str | None
    """As the caller wrote it; `jobs.windows.window_seconds` reads it."""
    window_seconds: float | None
    metadata: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0
    on_invalid: Literal["continue", "reject"] = "continue"
    """`reject`: one line that cannot run fails the batch as a whole."""
    output_order: Literal["completion", "input"] = "completion"
    output_expires_after_seconds: int | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class NewSegment:
    """Bytes to append to a file of results. `start_byte`: where the file ended when they were rendered."""

    file_id: str
    start_byte: int
    num_bytes: int
    num_lines: int
    object_name: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many rows a round of housekeeping deleted."""

    num_keys: int = 0
    num_workers: int = 0
    num_samples: int = 0
    num_deliveries: int = 0
    num_jobs: int = 0
    """Of which nothing was left but the row that says that they were deleted."""

    def __bool__(self) -> bool:
        return any((self.num_keys, self.num_workers, self.num_samples, self.num_deliveries, self.num_jobs))


def recipe_id(recipe: Mapping[str, Any]) -> str:
    """Short stable hash of a recipe: `fp_` and 16 hexadecimal digits of the SHA-256 of its canonical JSON."""
    canonical = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "fp_" + hashlib.sha256(canonical.encode()).hexdigest()[:16]
