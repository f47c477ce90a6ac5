"""Batch lines on a real worker: nothing in Redis while nobody follows, everything for who does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jobs.events import EventReader, open_async_redis
from jobs.states import JobState
from tests.support.services import wait_until
from tests.worker.site import Site

MakeSite = Callable[..., Site]


def test_lines_that_nobody_follows_leave_nothing_in_redis(make_site: MakeSite, sqlite_url: str) -> None:
    site = make_site(sqlite_url)
    lines = site.submit(40, batch=True)
    site.start_worker()
    site.wait_for(JobState.SUCCEEDED, *lines)
    wait_until(lambda: not site.redis.exists("batch"))
    left = site.redis.keys("*")
    assert [key for key in left if not key.startswith(b"_kombu.")] == [], "Celery's own bindings, and no more"
    assert site.store.audit() == []


def test_a_line_that_somebody_follows_is_told_whole(make_site: MakeSite, database_url: str) -> None:
    site = make_site(database_url)
    site.start_worker()
    told: list[str] = []

    async def follow(job_id: str) -> str:
        client = open_async_redis(site.settings.resolved_redis_url)
        reader = EventReader(client)
        state = ""
        async with asyncio.timeout(30):
            async for event in reader.follow(job_id, tell_listening=True):
                if event["type"] == "listening":
                    await asyncio.to_thread(site.publish, [job_id])
                told.append(event.get("text", ""))
                state = event.get("state", state)
        await reader.aclose()
        await client.aclose()
        return state

    (line,) = site.submit(batch=True, publish=False, parameters={"max_tokens": 200})
    assert asyncio.run(follow(line)) == "succeeded"
    stored = site.store.get_generation(line)
    assert stored is not None
    assert "".join(told) == stored.completion
    assert len([piece for piece in told if piece]) > 1, "it came as it was made"
