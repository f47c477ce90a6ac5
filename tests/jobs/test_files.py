"""Files: rows, segments, deletion, expiry, compaction."""

from __future__ import annotations

import pytest

from jobs.errors import InvalidRequest, NotFound
from jobs.records import Erasable, NewFile, NewSegment
from jobs.store import Store
from tests.jobs.batch_support import (
    checked_lines,
    end_all,
    make_batch,
    make_file,
    new_batch,
    take_in,
    taken_batch,
    write_files,
)
from tests.jobs.support import Clock


def test_a_file_is_what_was_stored(store: Store, clock: Clock) -> None:
    new = NewFile("batch", "in.jsonl", 30, [("a", 10), ("b", 20)], sha256="0" * 64, num_lines=2, expires_at_seconds=60)
    filed = store.create_file(new, owner="me", file_id="file-mine")
    assert (filed.id, filed.replayed) == ("file-mine", False)
    file = store.get_file(filed.id, "me")
    assert (file.filename, file.num_bytes, file.num_lines, file.complete_at) == ("in.jsonl", 30, 2, clock.now)
    segments = store.segments(filed.id)
    assert [(segment.start_byte, segment.num_bytes, segment.object_name) for segment in segments] == [
        (0, 10, "a"),
        (10, 20, "b"),
    ]
    with pytest.raises(NotFound):
        store.get_file(filed.id, "you")
    assert make_file(store, 1).startswith("file-")
    assert store.audit() == []


def test_a_name_that_is_too_long_or_cannot_be_stored_is_refused(store: Store) -> None:
    for filename in ("x" * 256, "nul \x00"):
        with pytest.raises(InvalidRequest):
            store.create_file(NewFile("batch", filename, 0, []))
    with pytest.raises(InvalidRequest):
        store.create_file(NewFile("batch", "x", 0, [], expires_at_seconds=1e20))


def test_files_are_listed_both_ways(store: Store) -> None:
    ids = [make_file(store, 1, owner="me") for _ in range(3)]
    make_file(store, 1, owner="you")
    output = make_file(store, 1, owner="me", purpose="batch_output")
    page, more = store.list_files("me", "batch", limit=2)
    assert ([file.id for file in page], more) == ([ids[2], ids[1]], True)
    page, more = store.list_files("me", after=ids[0], order="asc")
    assert ([file.id for file in page], more) == ([ids[1], ids[2], output], False)
    with pytest.raises(NotFound):
        store.list_files("you", after=ids[0])


def test_a_deleted_file_is_gone_at_once_and_its_objects_later(store: Store) -> None:
    file_id = make_file(store, 1)
    store.delete_file(file_id)
    for call in (store.get_file, store.delete_file):
        with pytest.raises(NotFound):
            call(file_id)
    assert store.list_files()[0] == []
    assert store.erasable_files() == [Erasable(file_id, ["inputs/one.jsonl", "checked/one.jsonl"])]
    store.file_erased(file_id)
    assert store.erasable_files() == []
    assert store.segments(file_id) == []
    assert store.audit() == []


def test_a_file_that_a_batch_needs_cannot_be_deleted(store: Store) -> None:
    file_id = make_file(store, 2)
    batch = store.create_batch(new_batch(file_id))[0]
    with pytest.raises(InvalidRequest, match="taken all its lines"):
        store.delete_file(file_id)
    take_in(store, batch, checked_lines(2))
    store.delete_file(file_id)
    end_all(store, batch.id)
    write_files(store, batch.id)
    output = str(store.get_batch(batch.id)[0].output_file_id)
    with pytest.raises(InvalidRequest, match="still writes"):
        store.delete_file(output)
    assert store.finalize(batch.id)
    store.delete_file(output)


def test_a_batch_goes_on_in_a_new_file_when_its_results_were_deleted_before_a_retry(store: Store) -> None:
    from tests.jobs.batch_support import failed, line_ids
    from tests.jobs.support import claim, success

    batch = taken_batch(store, 2)
    ids = line_ids(store, batch.id)
    store.finish(claim(store, ids[0]).ref, success())
    store.finish(claim(store, ids[1]).ref, failed())
    write_files(store, batch.id)
    store.finalize(batch.id)
    store.delete_file(str(store.get_batch(batch.id)[0].output_file_id))
    assert store.retry_batch(batch.id) == 1
    assert store.get_batch(batch.id)[0].output_file_id is None
    end_all(store, batch.id)
    write_files(store, batch.id)
    assert store.finalize(batch.id)
    assert store.get_file(str(store.get_batch(batch.id)[0].output_file_id)).num_lines == 1
    assert store.audit() == []


def test_files_expire_when_nobody_needs_them(store: Store, clock: Clock) -> None:
    kept = make_file(store, 1)
    needed = make_file(store, 1, expires_at_seconds=10)
    batch = store.create_batch(new_batch(needed))[0]
    over = make_file(store, 1, expires_at_seconds=5)
    clock.move(20)
    assert store.expired_files() == [over]
    take_in(store, batch, checked_lines(1))
    assert store.expired_files() == [over, needed]
    assert kept not in store.expired_files()


def test_results_expire_after_they_are_whole(store: Store, clock: Clock) -> None:
    batch = taken_batch(store, 1, output_expires_after_seconds=10)
    end_all(store, batch.id)
    write_files(store, batch.id)
    clock.move(20)
    assert store.expired_files() == []
    store.finalize(batch.id)
    assert store.expired_files() == []
    output = store.get_file(str(store.get_batch(batch.id)[0].output_file_id))
    assert output.expires_at is not None
    assert (output.expires_at - output.created_at).total_seconds() == 10
    clock.move(10)
    assert store.expired_files() == [output.id]


def test_segments_that_follow_each_other_become_one_and_no_byte_moves(store: Store) -> None:
    batch = taken_batch(store, 3)
    end_all(store, batch.id)
    for start, cursor in ((0, 1), (10, 2), (20, 3)):
        segment = NewSegment("file-o", start, 10, 1, f"outputs/file-o/{start}")
        assert store.append_output(batch.id, "output", segment, after=cursor - 1, cursor=cursor)
    assert store.merge_segments("file-o", 10, 30, "outputs/file-o/tail") == ["outputs/file-o/10", "outputs/file-o/20"]
    for start, end in ((10, 30), (0, 20), (5, 30), (0, 31), (0, 10)):
        assert store.merge_segments("file-o", start, end, "outputs/file-o/none") == []
    assert store.merge_segments("file-o", 0, 30, "outputs/file-o/whole") == ["outputs/file-o/0", "outputs/file-o/tail"]
    assert [(s.start_byte, s.num_bytes, s.object_name) for s in store.segments("file-o")] == [
        (0, 30, "outputs/file-o/whole")
    ]
    store.append_output(batch.id, "error", None, after=0, cursor=3)
    assert store.finalize(batch.id)
    store.delete_file("file-o")
    assert store.merge_segments("file-o", 0, 30, "outputs/file-o/none") == []
    assert store.audit() == []


def test_an_append_that_brings_not_all_lines_that_ended_changes_nothing(store: Store) -> None:
    batch = taken_batch(store, 3)
    end_all(store, batch.id)
    for num_lines, after, cursor in ((2, 0, 3), (4, 0, 3), (2, 0, 1), (1, 0, 2)):
        segment = NewSegment("file-o", 0, 10, num_lines, "outputs/file-o/0")
        assert not store.append_output(batch.id, "output", segment, after=after, cursor=cursor)
    assert not store.append_output(batch.id, "output", None, after=0, cursor=3)
    assert not store.append_output(batch.id, "error", NewSegment("file-e", 0, 10, 1, "e"), after=0, cursor=3)
    assert store.append_output(batch.id, "output", NewSegment("file-o", 0, 10, 3, "o"), after=0, cursor=3)


def test_objects_that_no_row_names_are_known_by_the_id_they_bear(store: Store) -> None:
    mine = f"file-{'1' * 32}"
    held = [f"inputs/{mine}.jsonl", f"checked/{mine}.jsonl"]
    store.create_file(NewFile("batch", "in.jsonl", 9, [(held[0], 9)], checked_object=held[1]), file_id=mine)
    stranger = f"outputs/file-{'0' * 32}-00000000000000000000-0123456789ab.jsonl"
    assert store.unknown_objects([*held, stranger, "outputs/somebody.txt"]) == [stranger]
    store.delete_file(mine)
    assert store.unknown_objects(held) == []
    store.file_erased(mine)
    assert store.unknown_objects(held) == held


def test_another_check_replaces_what_the_first_has_found(store: Store) -> None:
    file_id = make_file(store, 3)
    store.set_checked(
        file_id, checked_object="checked/two", checked_model="1" * 64, num_lines=3, num_invalid=1, urls={"/v1/jobs": 2}
    )
    file = store.get_file(file_id)
    assert (file.checked_object, file.checked_model, file.num_invalid, file.urls) == (
        "checked/two",
        "1" * 64,
        1,
        {"/v1/jobs": 2},
    )
    store.delete_file(file_id)
    with pytest.raises(NotFound):
        store.set_checked(file_id, checked_object="", checked_model="", num_lines=0, num_invalid=0, urls={})
    assert make_batch(store, 1).num_total == 1
