"""What the domain's tests make jobs, ends and time with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.records import ClaimedJob, GenerationRecord, NewJob, Succeeded
from jobs.settings import Settings
from jobs.states import FinishReason, Priority
from jobs.store import Store


class Clock:
    """A clock that stands until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def make_settings(**changes: Any) -> Settings:
    """Settings that read no environment of the machine but what a test gives."""
    return Settings(**{"lease_seconds": 30.0, "max_attempts": 3, "retry_backoff_seconds": 1.0, **changes})


def make_job(prompt: str | None = "a prompt", **changes: Any) -> NewJob:
    fields: dict[str, Any] = {"model": "demo", "parameters": {"temperature": 1.0}, "seed": 7, "num_prompt_tokens": 3}
    return NewJob(**{**fields, "prompt": prompt, **changes})


def make_line(**changes: Any) -> NewJob:
    return make_job(priority=Priority.BATCH, **changes)


def make_record(text: str = "some text", **changes: Any) -> GenerationRecord:
    fields: dict[str, Any] = {
        "completion": text,
        "finish_reason": FinishReason.STOP,
        "prompt_token_ids": [1, 2, 3],
        "completion_token_ids": [4, 5],
        "recipe": {"model": "demo", "threads": 2},
        "timings": {"total": 0.5},
    }
    return GenerationRecord(**{**fields, **changes})


def success(text: str = "some text") -> Succeeded:
    return Succeeded(make_record(text))


def submit_one(store: Store, **changes: Any) -> str:
    return store.submit([make_job(**changes)]).ids[0]


def claim(store: Store, job_id: str, worker: str = "worker-1") -> ClaimedJob:
    claimed = store.claim(job_id, worker)
    assert claimed is not None
    return claimed
