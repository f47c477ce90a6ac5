"""Listings, counts, positions."""

from __future__ import annotations

import pytest

from jobs.errors import NotFound
from jobs.states import JobState
from jobs.store import Store
from tests.jobs.support import claim, make_job, make_line, submit_one, success


def walk(store: Store, **filters: object) -> list[str]:
    """Read all pages of two."""
    ids: list[str] = []
    more = True
    while more:
        page, more = store.list_jobs(limit=2, after=ids[-1] if ids else None, **filters)  # type: ignore[arg-type]
        ids += [job.id for job in page]
    return ids


def test_pages_go_from_the_newest_to_the_oldest_without_gap(store: Store) -> None:
    ids = [submit_one(store) for _ in range(5)]
    assert walk(store) == ids[::-1]


def test_listings_filter_by_state_owner_and_batch(store: Store) -> None:
    mine = store.submit([make_line() for _ in range(3)], owner="me", new_batch=True)
    store.submit([make_line()], owner="you")
    store.finish(claim(store, mine.ids[1]).ref, success())
    assert walk(store, owner="me") == list(mine.ids)[::-1]
    assert walk(store, state=JobState.SUCCEEDED) == [mine.ids[1]]
    assert walk(store, batch_id=mine.batch_id, state=JobState.QUEUED) == [mine.ids[2], mine.ids[0]]
    assert walk(store, batch_id=mine.batch_id) == list(mine.ids)[::-1]
    assert walk(store, batch_id=mine.batch_id, owner="you") == []


def test_a_cursor_of_nobody_or_of_somebody_else_is_not_found(store: Store) -> None:
    theirs = store.submit([make_job()], owner="you").ids[0]
    for cursor in ("job_none", theirs):
        with pytest.raises(NotFound):
            store.list_jobs(after=cursor, owner="me")


def test_what_does_not_exist_is_not_found(store: Store) -> None:
    for call in (store.get, store.get_batch, store.get_recipe):
        with pytest.raises(NotFound):
            call("none")
    assert store.get_generation("none") is None
    assert store.attempts("none") == []


def test_a_batch_counts_its_jobs_by_state(store: Store) -> None:
    made = store.submit([make_line() for _ in range(4)], new_batch=True, batch_metadata={"night": "one"})
    store.finish(claim(store, made.ids[0]).ref, success())
    claim(store, made.ids[1])
    store.cancel(made.ids[2])
    batch, counts = store.get_batch(str(made.batch_id))
    assert batch.job_metadata == {"night": "one"}
    assert counts.total == 4
    assert counts.by_state == {
        JobState.SUCCEEDED: 1,
        JobState.RUNNING: 1,
        JobState.CANCELLED: 1,
        JobState.QUEUED: 1,
        JobState.FAILED: 0,
        JobState.EXPIRED: 0,
    }


def test_positions_count_who_goes_first(store: Store) -> None:
    batch = store.submit([make_line() for _ in range(3)], new_batch=True).ids
    interactive = [submit_one(store) for _ in range(3)]
    store.mark_published([interactive[0]])
    assert [store.queue_position(store.get(job_id)) for job_id in interactive] == [0, 1, 2]
    assert [store.queue_position(store.get(job_id)) for job_id in batch] == [3, 4, 5]
    store.mark_published(batch[:2])
    assert [store.queue_position(store.get(job_id)) for job_id in batch] == [3, 4, 5]
    claim(store, interactive[0])
    assert store.queue_position(store.get(interactive[0])) is None
    assert store.queue_position(store.get(interactive[2])) == 1
