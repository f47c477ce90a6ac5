"""The state machine of a job, written once.

queued ──claim──> running ──finish──> succeeded | failed | cancelled | expired
   ^                 │
   └──lease ran out, retry, interrupted──┘
queued ──cancel, deadline, attempts spent──> cancelled | expired | failed
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands. The last four are ends: nothing leaves them but an operator's `jobs requeue`."""

    QUEUED = "queued"
    """Accepted and durable. A claim makes it running; a cancel or its deadline ends it."""
    RUNNING = "running"
    """One attempt holds its lease. The attempt's end, or the lease running out, moves it on."""
    SUCCEEDED = "succeeded"
    """Its generation is stored, exactly once."""
    FAILED = "failed"
    """Its last attempt failed for good, or its attempts are spent (then `error.code` is `attempts_spent`)."""
    CANCELLED = "cancelled"
    """Somebody asked for it to stop; what text it had is stored."""
    EXPIRED = "expired"
    """Its deadline passed; what text it had is stored."""


ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED}),
    JobState.RUNNING: ENDED | {JobState.QUEUED},
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),  # an operator's requeue only
    JobState.CANCELLED: frozenset(),
    JobState.EXPIRED: frozenset(),
}


class AttemptOutcome(StrEnum):
    """How an attempt ended. A running attempt has none."""

    SUCCEEDED = "succeeded"
    """Its generation was stored, and ended the job."""
    FAILED = "failed"
    """The job could not be run, or the engine failed. Costs an attempt; the job is tried again if that can help."""
    CANCELLED = "cancelled"
    """Somebody asked for the job to stop."""
    EXPIRED = "expired"
    """The job's deadline passed."""
    INTERRUPTED = "interrupted"
    """A drain gave the job back. Costs no attempt: the job is queued again with its budget whole."""
    LEASE_LOST = "lease_lost"
    """The lease ran out before the worker finished: it died, or was cut off. Costs an attempt."""


class Priority(StrEnum):
    """Which queue a job waits in."""

    INTERACTIVE = "interactive"
    """Published at once, and run before every batch line."""
    BATCH = "batch"
    """Published by the dispatcher, a window at a time."""


class FinishReason(StrEnum):
    """Why a succeeded generation ended."""

    STOP = "stop"
    """An end token, or one of its stop strings."""
    LENGTH = "length"
    """It has `max_tokens` tokens."""


class ReplayResult(StrEnum):
    """How a replay compares."""

    PENDING = "pending"
    """The replay has not ended yet."""
    MATCH = "match"
    """Token for token the same."""
    DIFFERS = "differs"
    """Another token under the same recipe: the worker's promise is broken."""
    RECIPE_DIFFERS = "recipe_differs"
    """The recipe is another one, so nothing was promised; `tokens_match` says what came of it."""
    ORIGINAL_DELETED = "original_deleted"
    """The original was deleted: there is nothing to compare with."""
    UNAVAILABLE = "unavailable"
    """The replay did not succeed, or one of the two texts is gone."""
