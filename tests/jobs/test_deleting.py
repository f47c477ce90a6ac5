"""Deleting: of an ended job nothing stays that somebody wrote, and all that rests on its row stays true."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from jobs.errors import Deleted, NotEnded, NotFound, PenstockError
from jobs.lines import render
from jobs.records import Cancelled, Failed, Succeeded, recipe_id
from jobs.states import JobState, ReplayResult
from jobs.store import Store
from jobs.store.housekeeping import DELETED_KEPT
from jobs.tables import Attempt, Base, Generation, Job
from tests.jobs.batch_support import CHAT, end_all, line_ids, taken_batch, write_files
from tests.jobs.support import Clock, claim, make_job, make_record, submit_one, success
from tests.jobs.test_races import at_once

MARK = "the-mark-of-a-secret"
RECIPE = {"model": "demo", "row_class": "tile", "exact": True}


def marked(store: Store, owner: str = "ann", **changes: Any) -> str:
    """An ended job with the mark in all that somebody may write, and its text."""
    fields = {
        "prompt": MARK,
        "metadata": {MARK: MARK},
        "parameters": {"stop": [MARK]},
        "origin": {"instructions": MARK},
        **changes,
    }
    (job_id,) = store.submit([make_job(**fields)], owner=owner).ids
    logprobs = [{"token": MARK}]
    store.finish(claim(store, job_id).ref, success_with(completion=MARK, logprobs=logprobs, continuity={"of": MARK}))
    return job_id


def success_with(**record: Any) -> Succeeded:
    return Succeeded(make_record(**{"recipe": RECIPE, "fingerprint": "f" * 32, **record}))


def dump(store: Store) -> str:
    """All that the database holds."""
    with store.engine.connect() as connection:
        tables = Base.metadata.sorted_tables
        return "\n".join(str(row) for table in tables for row in connection.execute(sa.select(table)))


def test_nothing_that_somebody_wrote_stays(store: Store) -> None:
    job_id = marked(store)
    chat = marked(store, prompt=None, messages=[{"role": "user", "content": MARK}])
    assert MARK in dump(store)
    for one in (job_id, chat):
        store.delete(one, "ann")
    assert MARK not in dump(store)
    with store.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(Attempt)) == 0
        tokens = sa.select(Generation.prompt_token_ids, Generation.completion_token_ids, Generation.fingerprint)
        assert {tuple(map(str, row)) for row in connection.execute(tokens)} == {("[]", "[]", "None")}
    assert store.audit() == []


def test_a_deleted_job_is_there_for_nobody_and_its_owner_is_told_why(store: Store) -> None:
    job_id, other = marked(store), marked(store)
    store.delete(job_id, "ann")
    calls = (store.get, store.cancel, store.replay, store.requeue)
    for call in calls:
        with pytest.raises(Deleted, match="was deleted"):
            call(job_id)
    with pytest.raises(NotFound) as hidden:
        store.get(job_id, "bob")
    assert not isinstance(hidden.value, Deleted)
    assert [job.id for job in store.list_jobs(owner="ann")[0]] == [other]
    assert [job.id for job in store.list_jobs(JobState.SUCCEEDED)[0]] == [other]


def test_a_job_is_deleted_once_and_asking_again_is_harmless(store: Store, clock: Clock) -> None:
    job_id = marked(store)
    store.delete(job_id, "ann")
    before = dump(store)
    clock.move(60)
    store.delete(job_id, "ann")
    assert dump(store) == before


@pytest.mark.parametrize("owner", ["bob", ""])
def test_another_owners_job_is_not_there_to_be_deleted(store: Store, owner: str) -> None:
    job_id = marked(store)
    for one in (job_id, "job_none"):
        with pytest.raises(NotFound):
            store.delete(one, owner)
    assert store.get(job_id).prompt == MARK


def test_what_has_not_ended_is_not_deleted(store: Store) -> None:
    waiting, running = submit_one(store), submit_one(store)
    claim(store, running)
    for job_id, state in ((waiting, "queued"), (running, "running")):
        with pytest.raises(NotEnded, match=state):
            store.delete(job_id)
        assert store.get(job_id).prompt == "a prompt"


@pytest.mark.parametrize("end", [Failed("bad", "never", False), Cancelled(make_record(MARK)), success()])
def test_whatever_end_a_job_had_it_can_be_deleted(store: Store, end: Any) -> None:
    job_id = submit_one(store)
    ref = claim(store, job_id).ref
    store.cancel(job_id)
    store.finish(ref, end)
    store.delete(job_id)
    assert store.audit() == []


def test_lines_are_counted_and_written_as_before(store: Store) -> None:
    batch = taken_batch(store, 6, 2)
    end_all(store, batch.id)
    ids = line_ids(store, batch.id)
    write_files(store, batch.id)
    store.delete(ids[0])
    store.delete(ids[3])
    before, counts = store.get_batch(batch.id)
    assert (counts.by_state[JobState.SUCCEEDED], counts.by_state[JobState.FAILED]) == (4, 2)
    assert (before.num_completion_tokens, before.num_ends) == (4 * 2, 6)
    assert store.finalize(batch.id)
    assert store.audit() == []
    assert [job.id for job in store.list_jobs(batch_id=batch.id)[0]] == [ids[n] for n in (5, 4, 2, 1)]


def test_a_line_that_is_written_after_its_deletion_has_its_name_and_no_text(store: Store) -> None:
    batch = taken_batch(store, 3, 1)
    ids = line_ids(store, batch.id)
    store.finish(claim(store, ids[1]).ref, success(MARK))
    store.cancel(ids[2])
    for job_id in ids:
        store.delete(job_id)
    lines = {line.job.id: json.loads(render(line, CHAT)) for line in store.ended_lines(batch.id)}
    assert lines.keys() == set(ids)
    assert [lines[one]["custom_id"] for one in ids] == [None, "line-2", "line-3"]
    assert [lines[one]["response"] for one in ids] == [None] * 3
    assert [lines[one]["error"]["code"] for one in ids] == ["invalid_json", "deleted", "batch_cancelled"]
    assert all("completion" not in line["penstock"] for line in lines.values())
    assert MARK not in str(lines)


def test_a_retry_brings_no_deleted_line_back(store: Store) -> None:
    made = store.submit([make_job(), make_job(), make_job()], new_batch=True)
    for job_id in made.ids:
        store.finish(claim(store, job_id).ref, Failed("bad", "never", False))
    store.delete(made.ids[0])
    assert store.retry_batch(str(made.batch_id)) == 2
    assert store.audit() == []
    with pytest.raises(Deleted):
        store.requeue(made.ids[0])


def test_a_deletion_and_a_requeue_at_once_leave_one_or_the_other(store: Store) -> None:
    for _ in range(4):
        job_id = submit_one(store)
        store.finish(claim(store, job_id).ref, Failed("bad", "never", False))
        done = at_once([partial(attempt, call, job_id) for call in (store.delete, store.requeue)])
        assert sorted(done) == [False, True]
        assert store.audit() == []


def attempt(call: Any, job_id: str) -> bool:
    try:
        call(job_id)
    except PenstockError:
        return False
    return True


def test_a_replay_that_has_lost_its_original_says_so(store: Store) -> None:
    first = marked(store)
    ended, pending = store.replay(first), store.replay(first)
    store.finish(claim(store, ended.id).ref, success_with(completion=MARK))
    assert (store.replay_verdict(store.get(ended.id)) or {})["result"] == ReplayResult.MATCH
    store.delete(first)
    told = {"of": first, "result": ReplayResult.ORIGINAL_DELETED}
    assert store.replay_verdict(store.get(ended.id)) == told
    store.finish(claim(store, pending.id).ref, success_with())
    assert store.replay_verdict(store.get(pending.id)) == told
    assert store.audit() == []


def test_nothing_is_answered_with_a_deleted_text_and_what_was_keeps_its_own(store: Store) -> None:
    first = marked(store)
    (again,) = store.submit([make_job()], owner="ann").ids
    found = store.reusable(again, "f" * 32, [recipe_id(RECIPE)])
    assert found is not None
    store.finish(claim(store, again).ref, Succeeded(found))
    store.delete(first)
    (third,) = store.submit([make_job()], owner="ann").ids
    assert store.reusable(third, "f" * 32, [recipe_id(RECIPE)]) is None
    kept = store.get_generation(again)
    assert kept is not None
    assert (kept.completion, kept.continuity) == (MARK, {"mode": "reused", "of": first})


def test_a_listing_goes_on_behind_a_job_that_was_deleted_since(store: Store) -> None:
    ids = [marked(store) for _ in range(4)]
    page, _ = store.list_jobs(limit=2, owner="ann")
    for job in page:
        store.delete(job.id)
    rest, _ = store.list_jobs(limit=2, owner="ann", after=page[-1].id)
    assert [job.id for job in rest] == ids[1::-1]


def test_what_is_left_of_a_deleted_job_goes_after_a_while_and_of_a_line_it_stays(store: Store, clock: Clock) -> None:
    single, replayed = marked(store), marked(store)
    again = store.replay(replayed).id
    store.finish(claim(store, again).ref, success_with())
    line = store.submit([make_job()], new_batch=True).ids[0]
    store.finish(claim(store, line).ref, success())
    for job_id in (single, replayed, line):
        store.delete(job_id)
    assert store.forget().num_jobs == 0
    clock.now += DELETED_KEPT
    assert store.forget().num_jobs == 2
    with store.engine.connect() as connection:
        assert set(connection.scalars(sa.select(Job.id))) == {line, again}
    with pytest.raises(NotFound):
        store.delete(single)
    assert (store.replay_verdict(store.get(again)) or {})["result"] == ReplayResult.ORIGINAL_DELETED
    assert store.audit() == []


SABOTAGE = {
    "a prompt": "UPDATE jobs SET prompt = 'x' WHERE id = :id",
    "a text": "UPDATE generations SET completion = 'x' WHERE job_id = :id",
    "a fingerprint": "UPDATE generations SET fingerprint = 'x' WHERE job_id = :id",
    "an attempt": "INSERT INTO attempts (job_id, number, worker, started_at) VALUES (:id, 1, 'w', CURRENT_TIMESTAMP)",
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_the_audit_finds_what_a_deletion_left(store: Store, what: str) -> None:
    job_id = marked(store)
    store.delete(job_id)
    assert store.audit() == []
    with store.engine.begin() as connection:
        connection.execute(sa.text(SABOTAGE[what]), {"id": job_id})
    assert any(job_id in problem and "was deleted" in problem for problem in store.audit())


def test_a_batch_of_deleted_lines_is_not_what_a_retry_was_asked_for(store: Store) -> None:
    made = store.submit([make_job()], new_batch=True)
    store.finish(claim(store, made.ids[0]).ref, Failed("bad", "never", False))
    store.delete(made.ids[0])
    assert store.retry_batch(str(made.batch_id)) == 0
    assert store.get_batch(str(made.batch_id))[0].ended_at is not None
