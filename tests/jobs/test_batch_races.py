"""Races around batches made from files, with real threads on real databases."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobs.errors import InvalidRequest, NotFound
from jobs.records import NewSegment
from jobs.states import JobState
from jobs.store import Store
from tests.jobs.batch_support import (
    checked_lines,
    end_all,
    failed,
    line_ids,
    make_batch,
    make_file,
    new_batch,
    taken_batch,
    write_files,
)
from tests.jobs.support import Clock, claim, make_line, success
from tests.jobs.test_races import at_once

NUM_LINES = 20
CHUNK = 4


def take_all(store: Store, batch_id: str, after_each: Callable[[], object] = lambda: None) -> int:
    """Be a clerk: take in chunk after chunk, from where the batch says that it is; how many chunks were ours."""
    lines = checked_lines(NUM_LINES, 3)
    num_taken = 0
    while True:
        batch = store.get_batch(batch_id)[0]
        if batch.taken_at is not None:
            return num_taken
        rest = [line for line in lines if line.start >= batch.intake_byte]
        chunk = rest[:CHUNK]
        num_taken += store.take_in(batch_id, chunk, chunk[-1].end, done=len(rest) <= CHUNK)
        after_each()


def settle(store: Store, batch_id: str) -> None:
    """Let sweeps and workers bring every line to its end, and a clerk the batch."""
    while store.sweep():
        pass
    end_all(store, batch_id)
    write_files(store, batch_id)
    assert store.finalize(batch_id)
    batch = store.get_batch(batch_id)[0]
    assert batch.num_succeeded + batch.num_failed + batch.num_cancelled + batch.num_expired == NUM_LINES
    numbers = [line.end_number for line in store.ended_lines(batch_id, 0, 1000)]
    assert len(numbers) == len(set(numbers)) == NUM_LINES
    assert store.audit() == []


def test_a_batch_cancelled_during_its_intake_is_cancelled_whole(store: Store) -> None:
    batch = make_batch(store, NUM_LINES, 3)
    at_once([lambda: take_all(store, batch.id), lambda: store.cancel_batch(batch.id)])
    while store.sweep():
        pass
    found = store.get_batch(batch.id)[0]
    assert (found.num_failed, found.num_cancelled) == (3, NUM_LINES - 3)
    assert found.num_ends == NUM_LINES
    settle(store, batch.id)


def test_a_batch_that_expires_during_its_intake_expires_whole(store: Store, clock: Clock) -> None:
    batch = make_batch(store, NUM_LINES, 3)
    at_once([lambda: take_all(store, batch.id), lambda: clock.move(3601), store.sweep])
    while store.sweep():
        pass
    found = store.get_batch(batch.id)[0]
    assert (found.num_failed, found.num_expired) == (3, NUM_LINES - 3)
    settle(store, batch.id)


def test_two_clerks_take_each_line_in_once(store: Store) -> None:
    batch = make_batch(store, NUM_LINES, 3)
    answers = at_once([lambda: take_all(store, batch.id)] * 3)
    assert sum(answers) == NUM_LINES // CHUNK
    assert [store.get(job_id).line_number for job_id in line_ids(store, batch.id)] == list(range(1, NUM_LINES + 1))
    settle(store, batch.id)


def test_lines_run_while_others_are_taken_in(store: Store) -> None:
    batch = make_batch(store, NUM_LINES, 3)

    def work() -> None:
        while store.get_batch(batch.id)[0].ended_at is None:
            for job_id in store.to_publish().batch:
                claimed = store.claim(job_id, "w")
                if claimed is not None:
                    store.finish(claimed.ref, success())

    at_once([lambda: take_all(store, batch.id), work, work])
    assert store.get_batch(batch.id)[0].num_succeeded == NUM_LINES - 3
    settle(store, batch.id)


def test_of_two_clerks_that_write_results_one_writes_each_end(store: Store) -> None:
    batch = taken_batch(store, NUM_LINES)
    end_all(store, batch.id)

    def write(name: str) -> int:
        num_written = 0
        while (found := store.get_batch(batch.id)[0]).output_cursor < found.num_ends:
            after = found.output_cursor
            file_id = found.output_file_id or f"file-{name}"
            start = store.get_file(file_id).num_bytes if found.output_file_id else 0
            lines = store.ended_lines(batch.id, after, CHUNK)
            segment = NewSegment(file_id, start, len(lines), len(lines), f"outputs/{file_id}/{start}/{name}")
            num_written += len(lines) * store.append_output(
                batch.id, "output", segment, after=after, cursor=lines[-1].end_number
            )
        return num_written

    answers = at_once([lambda: write("a"), lambda: write("b"), lambda: write("c")])
    assert sum(answers) == NUM_LINES
    found = store.get_batch(batch.id)[0]
    assert store.get_file(str(found.output_file_id)).num_lines == NUM_LINES
    assert store.audit() == []


def test_a_retry_while_lines_end_loses_none(store: Store) -> None:
    batch = taken_batch(store, NUM_LINES)
    ids = line_ids(store, batch.id)
    refs = [claim(store, job_id).ref for job_id in ids]
    for ref in refs[: NUM_LINES // 2]:
        store.finish(ref, failed())

    def end_the_rest() -> None:
        for ref in refs[NUM_LINES // 2 :]:
            store.finish(ref, failed() if int(ref.job_id[-1], 16) % 2 else success())

    at_once([end_the_rest, lambda: store.retry_batch(batch.id), lambda: store.retry_batch(batch.id)])
    found = store.get_batch(batch.id)[0]
    assert found.num_ends == NUM_LINES  # Each line has ended once so far; no number is used again.
    assert store.audit() == []
    store.retry_batch(batch.id)
    settle(store, batch.id)
    assert store.get_batch(batch.id)[0].num_succeeded == NUM_LINES


def test_a_batch_is_finalized_before_a_retry_or_after_it_but_not_amid(store: Store) -> None:
    for _ in range(5):
        batch = taken_batch(store, 4)
        end_all(store, batch.id, failed())
        write_files(store, batch.id)
        at_once([lambda: store.finalize(batch.id), lambda: store.retry_batch(batch.id)])  # noqa: B023
        found, counts = store.get_batch(batch.id)
        assert (found.finalized_at, found.ended_at, found.error_file_id) == (None, None, None)
        assert counts.by_state[JobState.QUEUED] == 4
        assert store.audit() == []
        end_all(store, batch.id)
        write_files(store, batch.id)
        assert store.finalize(batch.id)
        assert store.audit() == []


def test_a_cancel_and_a_retry_agree_on_who_was_first(store: Store) -> None:
    for _ in range(5):
        batch = taken_batch(store, 4)
        ids = line_ids(store, batch.id)
        for job_id in ids[:2]:
            store.finish(claim(store, job_id).ref, failed())

        def retry() -> None:
            try:
                store.retry_batch(batch.id)  # noqa: B023
            except InvalidRequest:
                assert store.get_batch(batch.id)[0].cancel_requested_at is not None  # noqa: B023

        at_once([retry, lambda: store.cancel_batch(batch.id)])  # noqa: B023
        while store.sweep():
            pass
        assert store.get_batch(batch.id)[0].ended_at is not None
        assert store.audit() == []


def test_a_finished_batch_that_is_extended_ends_again(store: Store) -> None:
    for _ in range(5):
        made = store.submit([make_line()], new_batch=True)
        batch_id = str(made.batch_id)
        ref = claim(store, made.ids[0]).ref
        at_once(
            [
                lambda: store.finish(ref, success()),  # type: ignore[list-item]  # noqa: B023
                lambda: store.submit([make_line()], batch_id=batch_id),  # noqa: B023
            ]
        )
        found = store.get_batch(batch_id)[0]
        assert (found.ended_at, found.num_total, found.num_taken) == (None, 2, 2)
        end_all(store, batch_id)
        assert store.get_batch(batch_id)[0].ended_at is not None
        assert [line.end_number for line in store.ended_lines(batch_id)] == [1, 2]
        assert store.audit() == []


def test_a_file_deleted_while_a_batch_is_made_of_it_is_either_kept_or_missing(store: Store) -> None:
    for _ in range(5):
        file_id = make_file(store, 1)

        def make() -> str:
            try:
                return store.create_batch(new_batch(file_id))[0].id  # noqa: B023
            except NotFound:
                return "no file"

        def delete() -> str:
            try:
                store.delete_file(file_id)  # noqa: B023
            except InvalidRequest:
                return "in use"
            return "deleted"

        answers = at_once([make, delete])
        assert ("no file" in answers) == ("deleted" in answers)


@pytest.mark.parametrize("call", [{"idempotency_key": "k"}, {"silent_retry": True}])
def test_of_the_same_create_sent_many_times_at_once_one_makes_a_batch(store: Store, call: dict[str, object]) -> None:
    file_id = make_file(store, 1)
    answers = at_once(
        [lambda: store.create_batch(new_batch(file_id), body_sha256="a", **call)] * 6  # type: ignore[arg-type]
    )
    assert len({batch.id for batch, _ in answers}) == 1
    assert sorted(replayed for _, replayed in answers) == [False] + [True] * 5
    assert len(store.list_batches()[0]) == 1
