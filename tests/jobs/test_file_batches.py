"""Batches made from files: their making, intake, ends, files and retries."""

from __future__ import annotations

import traceback

import pytest

from jobs.checked import dump_valid, read
from jobs.errors import InvalidRequest, NotFound, StoreRefused
from jobs.records import NewSegment
from jobs.states import JobState
from jobs.store import Store
from tests.jobs.batch_support import (
    CHAT,
    checked_lines,
    end_all,
    failed,
    job_fields,
    line_ids,
    make_batch,
    make_file,
    new_batch,
    take_in,
    taken_batch,
    valid,
    write_files,
)
from tests.jobs.support import Clock, claim, make_line, success


def test_a_batch_knows_its_lines_before_they_are_taken_in(store: Store, clock: Clock) -> None:
    batch = make_batch(store, 5, weight=2.0, metadata={"night": "one"})
    assert (batch.num_total, batch.num_taken, batch.taken_at) == (5, 0, None)
    assert batch.expires_at is not None
    assert (batch.expires_at - clock.now).total_seconds() == 3600
    assert [found.id for found in store.unfinished_batches()] == [batch.id]
    assert store.get_batch(batch.id)[1].by_state[JobState.QUEUED] == 5
    assert store.audit() == []


def test_lines_come_in_by_chunks_and_can_run_at_once(store: Store) -> None:
    batch = make_batch(store, 3)
    lines = checked_lines(3)
    assert store.take_in(batch.id, lines[:2], lines[1].end, done=False)
    assert len(store.to_publish().batch) == 2
    assert store.take_in(batch.id, lines[2:], lines[2].end, done=True)
    found = store.get_batch(batch.id)[0]
    assert (found.num_taken, found.intake_byte) == (3, lines[2].end)
    assert found.taken_at is not None
    jobs = [store.get(job_id) for job_id in line_ids(store, batch.id)]
    assert [(job.line_number, job.custom_id, job.dispatch_order) for job in jobs] == [
        (n, f"line-{n}", n) for n in (1, 2, 3)
    ]
    assert {(job.prompt, job.state, job.model, job.deadline_at) for job in jobs} == {
        ("a prompt", "queued", "demo", found.expires_at)
    }
    assert len({job.seed for job in jobs}) == 3
    assert store.audit() == []


def test_a_line_keeps_what_was_checked(store: Store) -> None:
    messages = [{"role": "user", "content": 'ice 🏒\t"quoted" \\N \\u0000 back\\slash\nnew line'}]
    line = dump_valid(
        7,
        "a\tb\\",
        CHAT,
        job_fields(prompt=None, messages=messages, seed=4294967294, metadata={"k": "v"}, max_attempts=9),
        2,
    )
    batch = make_batch(store, 1)
    take_in(store, batch, list(read([line])))
    job = store.get(line_ids(store, batch.id)[0])
    assert (job.messages, job.prompt, job.seed, job.custom_id) == (messages, None, 4294967294, "a\tb\\")
    assert (job.job_metadata, job.max_attempts, job.dispatch_order, job.line_number) == ({"k": "v"}, 9, 2, 7)
    assert claim(store, job.id).messages == messages


def test_a_line_may_end_sooner_than_its_batch_but_not_later(store: Store, clock: Clock) -> None:
    batch = make_batch(store, 2)
    take_in(store, batch, list(read([valid(1, deadline_seconds=60), valid(2, deadline_seconds=10**9)])))
    jobs = [store.get(job_id) for job_id in line_ids(store, batch.id)]
    assert [(job.deadline_at - clock.now).total_seconds() for job in jobs if job.deadline_at] == [60, 3600]


def test_lines_that_cannot_run_are_born_failed(store: Store) -> None:
    batch = make_batch(store, 4, 1, endpoint=CHAT)
    elsewhere = dump_valid(4, "d", "/v1/jobs", job_fields(), 4)
    lines = list(
        read(
            [
                b'{"n":1,"id":null,"error":{"code":"c","message":"line 1: m","param":"p"}}\n',
                valid(2),
                valid(3),
                elsewhere,
            ]
        )
    )
    take_in(store, batch, lines)
    jobs = [store.get(job_id) for job_id in line_ids(store, batch.id)]
    assert [job.state for job in jobs] == ["failed", "queued", "queued", "failed"]
    assert jobs[0].error == {"code": "c", "message": "line 1: m", "param": "p", "line": 1, "retryable": False}
    assert jobs[3].error is not None
    assert (jobs[3].error["code"], jobs[3].error["line"], jobs[3].prompt) == ("url_mismatch", 4, "")
    assert [line.job.line_number for line in store.ended_lines(batch.id)] == [1, 4]
    assert store.get_batch(batch.id)[0].num_failed == 2
    with pytest.raises(InvalidRequest):
        store.requeue(jobs[0].id)
    assert store.audit() == []


def test_a_batch_whose_lines_all_failed_at_birth_has_ended(store: Store) -> None:
    batch = make_batch(store, 3, 2)
    lines = checked_lines(2, 2)
    elsewhere = list(read([dump_valid(3, None, "/v1/jobs", job_fields(), 3)], lines[-1].end))
    take_in(store, batch, [*lines, *elsewhere])
    assert store.get_batch(batch.id)[0].ended_at is not None
    assert store.audit() == []


@pytest.mark.parametrize("ask", ["cancel", "expire"])
def test_the_rest_of_a_batch_that_is_over_is_born_ended(store: Store, clock: Clock, ask: str) -> None:
    batch = make_batch(store, 4, 1)
    lines = checked_lines(4, 1)
    store.take_in(batch.id, lines[:2], lines[1].end, done=False)
    if ask == "cancel":
        store.cancel_batch(batch.id)
    else:
        clock.move(3601)
    store.take_in(batch.id, lines[2:], lines[3].end, done=True)
    store.sweep()
    found = store.get_batch(batch.id)[0]
    assert (found.num_failed, found.num_cancelled + found.num_expired) == (1, 3)
    assert found.ended_at is not None
    assert sorted(line.end_number for line in store.ended_lines(batch.id)) == [1, 2, 3, 4]
    assert store.audit() == []


def test_a_chunk_that_was_taken_is_not_taken_again(store: Store) -> None:
    batch = make_batch(store, 3)
    lines = checked_lines(3)
    assert store.take_in(batch.id, lines[:2], lines[1].end, done=False)
    assert not store.take_in(batch.id, lines[:2], lines[1].end, done=False)
    assert not store.take_in(batch.id, lines, lines[2].end, done=True)
    assert store.take_in(batch.id, lines[2:], lines[2].end, done=False)
    assert store.take_in(batch.id, [], lines[2].end, done=True)
    assert not store.take_in(batch.id, [], lines[2].end, done=True)
    assert store.get_batch(batch.id)[0].num_taken == 3


def test_a_file_with_fewer_lines_than_were_counted_is_noticed(store: Store) -> None:
    batch = make_batch(store, 3)
    lines = checked_lines(4)
    for wrong in (lines[:2], lines):
        with pytest.raises(InvalidRequest):
            store.take_in(batch.id, wrong, wrong[-1].end, done=True)
    assert store.get_batch(batch.id)[0].num_taken == 0


def test_a_line_that_the_database_refuses_leaves_nothing_and_is_not_shown(store: Store) -> None:
    batch = make_batch(store, 2)
    twice = list(read([valid(1, prompt="a secret"), valid(1, prompt="a secret")]))
    with pytest.raises(StoreRefused) as refused:
        store.take_in(batch.id, twice, twice[-1].end, done=True)
    assert "line_number" in str(refused.value)
    assert "secret" not in "".join(traceback.format_exception(refused.value))
    assert store.get_batch(batch.id)[0].num_taken == 0
    assert store.audit() == []


def test_a_batch_that_cannot_run_has_failed_from_the_start(store: Store) -> None:
    nothing = make_batch(store, 3, 3)
    strict = make_batch(store, 3, 1, on_invalid="reject")
    for batch in (nothing, strict):
        assert batch.failed_at is not None
        assert not store.take_in(batch.id, checked_lines(3, 1), 0, done=True)
        assert store.get_batch(batch.id)[1].by_state[JobState.QUEUED] == 0
        with pytest.raises(InvalidRequest):
            store.retry_batch(batch.id)
    assert store.unfinished_batches() == []
    assert store.fail_batch(strict.id, [{"code": "c", "message": "line 1: m", "param": None, "line": 1}])
    assert (store.get_batch(strict.id)[0].errors or [{}])[0]["line"] == 1
    assert make_batch(store, 3, 0, on_invalid="reject").failed_at is None
    assert store.audit() == []


def test_a_batch_with_lines_cannot_fail_as_a_whole(store: Store) -> None:
    assert not store.fail_batch(taken_batch(store, 2).id, [])


def test_a_batch_needs_an_input_file_of_its_owner(store: Store) -> None:
    file_id = make_file(store, 1, owner="me")
    with pytest.raises(NotFound):
        store.create_batch(new_batch(file_id), owner="you")
    output = make_file(store, 1, purpose="batch_output")
    with pytest.raises(InvalidRequest):
        store.create_batch(new_batch(output))
    store.delete_file(file_id, "me")
    with pytest.raises(NotFound):
        store.create_batch(new_batch(file_id), owner="me")


def test_a_batch_from_a_file_takes_no_more_jobs(store: Store) -> None:
    with pytest.raises(InvalidRequest):
        store.submit([make_line()], batch_id=taken_batch(store, 1).id)


def test_batches_are_listed_by_owner_newest_first(store: Store) -> None:
    mine = [make_batch(store, 1, owner="me") for _ in range(3)]
    make_batch(store, 1, owner="you")
    page, more = store.list_batches("me", limit=2)
    assert ([batch.id for batch in page], more) == ([mine[2].id, mine[1].id], True)
    assert [batch.id for batch in store.list_batches("me", after=page[-1].id)[0]] == [mine[0].id]
    assert store.counts_of(page)[mine[2].id].by_state[JobState.QUEUED] == 1
    with pytest.raises(NotFound):
        store.list_batches("you", after=mine[0].id)


def test_ends_are_numbered_in_their_order_whatever_ends_them(store: Store) -> None:
    batch = taken_batch(store, 5)
    ids = line_ids(store, batch.id)
    for index in (3, 0):
        store.finish(claim(store, ids[index], f"w{index}").ref, success())
    store.finish(claim(store, ids[4], "w4").ref, failed())
    store.cancel(ids[1])
    ended = store.ended_lines(batch.id)
    assert [(line.end_number, line.job.id, line.worker) for line in ended] == [
        (1, ids[3], "w3"),
        (2, ids[0], "w0"),
        (3, ids[4], "w4"),
        (4, ids[1], None),
    ]
    assert [line.generation.completion for line in ended if line.generation] == ["some text"] * 2
    assert [line.end_number for line in store.ended_lines(batch.id, after=1, succeeded=False)] == [3, 4]
    assert [line.job.line_number for line in store.lines_in_order(batch.id, after_line=1)] == [2, 4, 5]
    assert [line.job.line_number for line in store.lines_in_order(batch.id, succeeded=True)] == [1, 4]
    found = store.get_batch(batch.id)[0]
    assert (found.num_ends, found.num_prompt_tokens, found.num_completion_tokens) == (4, 6, 4)
    assert store.audit() == []


def test_files_grow_with_the_ends_and_are_closed_with_the_last(store: Store) -> None:
    batch = taken_batch(store, 4, 1, output_expires_after_seconds=60)
    ids = line_ids(store, batch.id)
    store.finish(claim(store, ids[1]).ref, success())
    write_files(store, batch.id)
    found = store.get_batch(batch.id)[0]
    assert (found.output_cursor, found.error_cursor) == (2, 2)
    assert not store.finalize(batch.id)
    output = store.get_file(str(found.output_file_id))
    assert (output.num_bytes, output.num_lines, output.complete_at, output.purpose) == (10, 1, None, "batch_output")
    end_all(store, batch.id)
    assert not store.finalize(batch.id)
    write_files(store, batch.id)
    assert store.finalize(batch.id)
    assert not store.finalize(batch.id)
    output = store.get_file(str(found.output_file_id))
    assert (output.num_bytes, output.num_lines, output.filename) == (30, 3, f"{batch.id}_output.jsonl")
    assert output.complete_at is not None
    assert [segment.start_byte for segment in store.segments(output.id)] == [0, 10]
    assert store.unfinished_batches() == []
    assert store.audit() == []


def test_of_two_clerks_that_append_one_is_refused(store: Store) -> None:
    batch = taken_batch(store, 2)
    end_all(store, batch.id)
    mine = NewSegment("file-a", 0, 10, 2, "outputs/file-a/0")
    assert store.append_output(batch.id, "output", mine, after=0, cursor=2)
    late = NewSegment("file-b", 0, 10, 2, "outputs/file-b/0")
    assert not store.append_output(batch.id, "output", late, after=0, cursor=2)
    assert not store.append_output(batch.id, "output", NewSegment("file-a", 5, 1, 1, "x"), after=2, cursor=2)
    assert not store.append_output(batch.id, "error", None, after=0, cursor=3)
    assert [segment.object_name for segment in store.segments("file-a")] == ["outputs/file-a/0"]


def test_a_retry_runs_failed_and_expired_lines_again(store: Store, clock: Clock) -> None:
    batch = taken_batch(store, 5, 1)
    ids = line_ids(store, batch.id)
    store.finish(claim(store, ids[1]).ref, success())
    store.finish(claim(store, ids[2]).ref, failed())
    clock.move(3601)
    store.sweep()
    write_files(store, batch.id)
    assert store.finalize(batch.id)
    before = store.get_batch(batch.id)[0]
    assert (before.num_failed, before.num_expired, before.num_ends) == (2, 2, 5)
    assert store.retry_batch(batch.id) == 3
    found, counts = store.get_batch(batch.id)
    assert (found.ended_at, found.finalized_at, found.error_cursor, found.error_file_id) == (None, None, 0, None)
    assert (found.num_failed, found.num_expired, counts.by_state[JobState.QUEUED], found.num_ends) == (1, 0, 3, 5)
    assert found.expires_at is not None
    assert (found.expires_at - clock.now).total_seconds() == 3600
    assert found.output_file_id == before.output_file_id
    assert store.get_file(str(before.error_file_id)).complete_at is not None
    assert store.get_file(str(found.output_file_id)).complete_at is None
    assert store.audit() == []
    end_all(store, batch.id)
    assert sorted(line.end_number for line in store.ended_lines(batch.id)) == [1, 2, 6, 7, 8]
    write_files(store, batch.id)
    assert store.finalize(batch.id)
    after = store.get_batch(batch.id)[0]
    assert store.get_file(str(after.output_file_id)).num_lines == 4
    assert store.get_file(str(after.error_file_id)).num_lines == 1
    assert store.audit() == []


def test_a_cancelled_batch_is_not_retried(store: Store) -> None:
    batch = taken_batch(store, 2)
    store.cancel_batch(batch.id)
    with pytest.raises(InvalidRequest):
        store.retry_batch(batch.id)
    with pytest.raises(NotFound):
        store.retry_batch(batch.id, "you")
