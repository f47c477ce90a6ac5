"""Where a job goes after an attempt: one pure table from outcome to state. Knows no statement."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from jobs.records import Cancelled, Expired, Failed, Interrupted, Outcome, Succeeded
from jobs.settings import Settings
from jobs.states import AttemptOutcome, JobState


@dataclass(frozen=True, slots=True)
class LeaseRanOut:
    """The outcome that the sweep gives to an attempt whose worker went silent."""


AnyOutcome = Outcome | LeaseRanOut


class Standing(Protocol):
    """What of a job decides where it goes."""

    @property
    def num_failures(self) -> int: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def deadline_at(self) -> datetime | None: ...
    @property
    def cancel_requested_at(self) -> datetime | None: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """`state` is where the job goes; queued means again, not before `available_at` (None: in its old place, before all
    that never ran). `num_costs` counts against `max_attempts`; `error` is the job's, when it failed for good."""

    state: JobState
    outcome: AttemptOutcome
    num_costs: int = 0
    available_at: datetime | None = None
    error: dict[str, Any] | None = None
    attempt_error: dict[str, Any] | None = None


SPENT = {
    "code": "attempts_spent",
    "message": "Every attempt lost its worker before it finished.",
    "retryable": True,
}


def after(outcome: AnyOutcome, job: Standing, now: datetime, settings: Settings, dice: random.Random) -> Verdict:
    """Judge an attempt's end."""
    match outcome:
        case Succeeded():
            return Verdict(JobState.SUCCEEDED, AttemptOutcome.SUCCEEDED)
        case Cancelled():
            return Verdict(JobState.CANCELLED, AttemptOutcome.CANCELLED)
        case Expired():
            return Verdict(JobState.EXPIRED, AttemptOutcome.EXPIRED)
        case Interrupted():
            return _again(AttemptOutcome.INTERRUPTED, job, now, None, num_costs=0)
        case Failed():
            return _failed(outcome, job, now, settings, dice)
        case LeaseRanOut():
            return _lease_lost(job, now)


def _failed(outcome: Failed, job: Standing, now: datetime, settings: Settings, dice: random.Random) -> Verdict:
    error = {"code": outcome.code, "message": outcome.message, "retryable": outcome.retryable}
    num_failures = job.num_failures + 1
    if not outcome.retryable or (num_failures >= job.max_attempts and job.cancel_requested_at is None):
        return Verdict(JobState.FAILED, AttemptOutcome.FAILED, 1, error=error, attempt_error=error)
    not_before = now + timedelta(seconds=backoff_seconds(num_failures, settings, dice))
    return _again(AttemptOutcome.FAILED, job, now, not_before, num_costs=1, attempt_error=error)


def _lease_lost(job: Standing, now: datetime) -> Verdict:
    verdict = _again(AttemptOutcome.LEASE_LOST, job, now, None, num_costs=1)
    if verdict.state is JobState.QUEUED and job.num_failures + 1 >= job.max_attempts:
        return Verdict(JobState.FAILED, AttemptOutcome.LEASE_LOST, 1, error=SPENT)
    return verdict


def _again(
    outcome: AttemptOutcome,
    job: Standing,
    now: datetime,
    not_before: datetime | None,
    *,
    num_costs: int,
    attempt_error: dict[str, Any] | None = None,
) -> Verdict:
    """Queue the job again, unless somebody asked for its end meanwhile or its deadline is over."""
    if job.cancel_requested_at is not None:
        return Verdict(JobState.CANCELLED, outcome, num_costs, attempt_error=attempt_error)
    if job.deadline_at is not None and job.deadline_at <= now:
        return Verdict(JobState.EXPIRED, outcome, num_costs, attempt_error=attempt_error)
    return Verdict(JobState.QUEUED, outcome, num_costs, not_before, attempt_error=attempt_error)


def backoff_seconds(num_failures: int, settings: Settings, dice: random.Random) -> float:
    """Exponential backoff with full jitter: anything up to the bound, which doubles with each failure."""
    bound = settings.retry_backoff_seconds * 2.0 ** min(num_failures - 1, 30)
    return dice.uniform(0.0, min(bound, settings.retry_backoff_max_seconds))
