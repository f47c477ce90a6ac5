"""What an operator may do to a job that has ended."""

from __future__ import annotations

import pytest

from jobs import admin
from jobs.database import open_engine
from jobs.records import Failed
from jobs.states import JobState
from jobs.store import Store
from tests.jobs.support import make_job, make_settings


@pytest.fixture
def failed_job(sqlite_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, str]:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("PENSTOCK_REDIS_URL", redis_url)
    store = Store(open_engine(sqlite_url), settings=make_settings())
    (job_id,) = store.submit([make_job()]).ids
    claimed = store.claim(job_id, "worker")
    assert claimed is not None
    store.finish(claimed.ref, Failed("broken", "It broke.", retryable=False))
    return store, job_id


def test_requeue_brings_a_failed_job_back_and_says_so(
    failed_job: tuple[Store, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, job_id = failed_job
    assert admin.main(["requeue", job_id]) == 0
    assert store.get(job_id).state == JobState.QUEUED
    assert job_id in capsys.readouterr().out


def test_requeue_of_an_unknown_job_is_one_line_and_status_1(
    failed_job: tuple[Store, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert admin.main(["requeue", "job_0"]) == 1
    assert "job_0" in capsys.readouterr().err
