"""What breaks around a worker, or in it: signals, kills, pauses, outages. Nothing is lost, nothing twice."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import psycopg
import pytest

from jobs.records import Cancelled
from jobs.states import JobState
from tests.support.services import RedisServer, wait_until
from tests.worker.site import LONG, Site

MakeSite = Callable[..., Site]


def test_an_idle_worker_ends_at_once(make_site: MakeSite, sqlite_url: str) -> None:
    site = make_site(sqlite_url)
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
    workers = [site.start_worker(ready=False) for _ in signals]
    for worker, number in zip(workers, signals, strict=True):
        wait_until(lambda: " ready." in worker.said(), 60)  # noqa: B023
        worker.send(number)
    for worker in workers:
        assert worker.wait(10) == 0
        assert "Traceback" not in worker.said()


def test_a_drain_lets_running_jobs_finish_and_takes_no_more(make_site: MakeSite, sqlite_url: str) -> None:
    site = make_site(sqlite_url, drain_seconds=60)
    worker = site.start_worker()
    (running,) = site.submit(parameters={"max_tokens": 1500})
    site.wait_for_text(running)
    worker.send(signal.SIGTERM)
    wait_until(lambda: "Draining" in worker.said())
    (late,) = site.submit()
    assert worker.wait(60) == 0
    assert (site.state(running), site.state(late)) == (JobState.SUCCEEDED, JobState.QUEUED)
    assert site.outcomes(late) == []


def test_when_the_drain_is_over_the_rest_goes_back_and_costs_no_attempt(make_site: MakeSite, sqlite_url: str) -> None:
    site = make_site(sqlite_url, drain_seconds=0.5)
    worker = site.start_worker()
    (job_id,) = site.submit(parameters={"max_tokens": LONG})
    site.wait_for_text(job_id)
    worker.send(signal.SIGTERM)
    assert worker.wait(15) == 0
    assert site.outcomes(job_id) == ["interrupted"]
    assert (site.state(job_id), site.store.get(job_id).num_failures) == (JobState.QUEUED, 0)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGQUIT])
def test_a_second_signal_gives_the_jobs_back_at_once(
    make_site: MakeSite, sqlite_url: str, second: signal.Signals
) -> None:
    site = make_site(sqlite_url, drain_seconds=60)
    worker = site.start_worker()
    (job_id,) = site.submit(parameters={"max_tokens": LONG})
    site.wait_for_text(job_id)
    worker.send(signal.SIGTERM)
    wait_until(lambda: "Draining" in worker.said())
    worker.send(second)
    assert worker.wait(10) == 0
    assert (site.state(job_id), site.outcomes(job_id)) == (JobState.QUEUED, ["interrupted"])


def test_celerys_own_shutdown_drains_too(make_site: MakeSite, sqlite_url: str) -> None:
    site = make_site(sqlite_url, drain_seconds=0.5)
    worker = site.start_worker()
    (job_id,) = site.submit(parameters={"max_tokens": LONG})
    site.wait_for_text(job_id)
    site.app.control.shutdown()
    assert worker.wait(20) == 0
    assert site.outcomes(job_id) == ["interrupted"]


def test_a_killed_workers_jobs_run_again_on_another(make_site: MakeSite, database_url: str) -> None:
    site = make_site(database_url, lease_seconds=1.0, retry_backoff_seconds=0)
    worker = site.start_worker()
    (job_id,) = site.submit(parameters={"max_tokens": 4000})
    site.wait_for_text(job_id)
    worker.kill()
    other = site.start_worker()
    wait_until(lambda: site.store.sweep().requeued == [job_id])
    site.publish([job_id])
    site.wait_for(JobState.SUCCEEDED, job_id, seconds=60)
    assert site.outcomes(job_id) == ["lease_lost", "succeeded"]
    assert other.process.poll() is None
    assert site.store.audit() == []


def test_a_worker_that_wakes_after_its_lease_cannot_store(make_site: MakeSite, sqlite_url: str) -> None:
    site = make_site(sqlite_url, lease_seconds=1.0, retry_backoff_seconds=0)
    worker = site.start_worker()
    (job_id,) = site.submit(parameters={"max_tokens": 4000})
    site.wait_for_text(job_id)
    worker.send(signal.SIGSTOP)
    wait_until(lambda: site.store.sweep().requeued == [job_id])
    claimed = site.store.claim(job_id, "another")
    assert claimed is not None
    worker.send(signal.SIGCONT)
    last = site.submit()
    site.wait_for(JobState.SUCCEEDED, *last)
    wait_until(lambda: site.app.control.inspect(timeout=2).active() == {_node(site): []}, 20)
    assert site.state(job_id) is JobState.RUNNING
    assert site.store.renew([claimed.ref], "another").held == {claimed.ref}
    assert site.store.finish(claimed.ref, Cancelled()) is JobState.CANCELLED
    assert site.outcomes(job_id) == ["lease_lost", "cancelled"]


def _node(site: Site) -> str:
    (worker,) = site.store.list_workers(30)
    return worker.name


def test_redis_dying_stops_no_generation_and_work_goes_on_after_it(
    make_site: MakeSite, sqlite_url: str, own_redis_server: RedisServer
) -> None:
    site = make_site(sqlite_url, redis_url=own_redis_server.url)
    worker = site.start_worker()
    (job_id,) = site.submit(parameters={"max_tokens": 2500})
    site.wait_for_text(job_id)
    own_redis_server.stop()
    site.wait_for(JobState.SUCCEEDED, job_id)
    own_redis_server.start()
    (after,) = site.submit(parameters={"max_tokens": LONG})
    site.wait_for_text(after)
    wait_until(lambda: site.redis.pubsub_numsub("penstock:cancel")[0][1] == 1, 20)
    site.store.cancel(after)
    site.events.cancel(after)
    site.wait_for(JobState.CANCELLED, after, seconds=2)
    assert worker.process.poll() is None


def test_a_database_outage_holds_results_until_it_is_over(make_site: MakeSite, postgres_url: str) -> None:
    site = make_site(postgres_url, lease_seconds=60)
    worker = site.start_worker()
    (job_id,) = site.submit(parameters={"max_tokens": 1500})
    site.wait_for_text(job_id)
    name = postgres_url.partition("?")[0].rsplit("/", 1)[1]
    with psycopg.connect(_operators_url(postgres_url), autocommit=True) as operator:
        operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        operator.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        wait_until(lambda: "wait for the database" in worker.said(), 30)
        operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    site.wait_for(JobState.SUCCEEDED, job_id)
    assert site.outcomes(job_id) == ["succeeded"]
    assert worker.process.poll() is None


def _operators_url(url: str) -> str:
    head, _, query = url.replace("postgresql+psycopg://", "postgresql://").partition("?")
    return f"{head.rsplit('/', 1)[0]}/postgres" + (f"?{query}" if query else "")


def test_a_drain_during_an_outage_is_bounded(make_site: MakeSite, postgres_url: str) -> None:
    site = make_site(postgres_url, lease_seconds=60, drain_seconds=0.5)
    worker = site.start_worker()
    (job_id,) = site.submit(parameters={"max_tokens": LONG})
    site.wait_for_text(job_id)
    name = postgres_url.partition("?")[0].rsplit("/", 1)[1]
    with psycopg.connect(_operators_url(postgres_url), autocommit=True) as operator:
        operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        operator.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        asked = time.monotonic()
        worker.send(signal.SIGTERM)
        assert worker.wait(40) == 0
        assert time.monotonic() - asked < 20
        operator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert "could not be stored" in worker.said()
    assert site.state(job_id) is JobState.RUNNING, "its lease runs out, and the sweep puts it back"
