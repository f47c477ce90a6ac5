"""The clerk's rounds: lines in, files out, on both databases; what it does when others die, fail or compete."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from jobs import clerk as clerk_module
from jobs import result_files
from jobs.clerk import ASIDE_SECONDS, CHUNK_LINES, OFFICE, Clerk
from jobs.database import open_engine
from jobs.errors import StorageUnavailable, StoreUnavailable
from jobs.events import EventWriter, open_redis
from jobs.files import ObjectWriter, Vault
from jobs.states import JobState
from jobs.store import Store
from tests.jobs.batch_files import (
    CHAT,
    CUT_SHORT,
    FAILED,
    STOPPED,
    batch_of,
    check_files,
    content,
    documents,
    end,
    ids_in,
    invalid,
    make_batch,
    make_file,
    queued,
    valid,
)
from tests.jobs.support import Clock, claim, make_settings
from tests.support.services import wait_until

ROOT = Path(__file__).resolve().parents[2]


class Local:
    """The clerk's own clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Killed(BaseException):
    """Stands for a SIGKILL: nothing catches it, nothing is tidied that a dead process could not tidy."""


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with open_redis(redis_url) as client:
        yield client


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(str(tmp_path / "files"))


@pytest.fixture
def local() -> Local:
    return Local()


@pytest.fixture
def clerk(store: Store, vault: Vault, redis: Redis, local: Local) -> Clerk:
    return make_clerk(store, vault, redis, local)


def make_clerk(store: Store, vault: Vault, redis: Redis, local: Local, name: str = "first") -> Clerk:
    return Clerk(store, vault, redis, store.settings, holder=name, monotonic=local)


def rounds(clerk: Clerk, local: Local, num: int = 1) -> None:
    """Rounds, each when files are due again."""
    for _ in range(num):
        local.now += 1.0
        while clerk.step().more:
            pass


def test_lines_are_taken_in_a_chunk_a_round_until_all_are_there(clerk: Clerk, store: Store, vault: Vault) -> None:
    batch_id = make_batch(store, vault, (valid(number) for number in range(1, 2 * CHUNK_LINES + 6)))
    assert [clerk.step().num_taken for _ in range(4)] == [CHUNK_LINES, CHUNK_LINES, 5, 0]
    batch = batch_of(store, batch_id)
    assert (batch.num_taken, batch.taken_at is not None) == (2 * CHUNK_LINES + 5, True)
    assert len(queued(store, batch_id)) == 2 * CHUNK_LINES + 5


def test_a_batch_whose_lines_are_a_whole_number_of_chunks_is_taken_whole(
    clerk: Clerk, store: Store, vault: Vault
) -> None:
    batch_id = make_batch(store, vault, (valid(number) for number in range(1, CHUNK_LINES + 1)))
    assert [clerk.step().num_taken for _ in range(2)] == [CHUNK_LINES, 0]
    assert batch_of(store, batch_id).taken_at is not None


def test_batches_take_turns(clerk: Clerk, store: Store, vault: Vault) -> None:
    long = make_batch(store, vault, (valid(number) for number in range(1, CHUNK_LINES + 2)))
    short = make_batch(store, vault, [valid(1)])
    clerk.step()
    assert (batch_of(store, long).num_taken, batch_of(store, short).num_taken) == (CHUNK_LINES, 1)


def test_files_grow_while_the_batch_runs_and_no_byte_moves(
    clerk: Clerk, store: Store, vault: Vault, local: Local
) -> None:
    batch_id = make_batch(store, vault, [*(valid(number) for number in range(1, 10)), invalid(10)])
    rounds(clerk, local)
    batch = batch_of(store, batch_id)
    assert batch.output_file_id is None
    (born_failed,) = documents(content(store, vault, batch.error_file_id))
    assert (born_failed["error"]["line"], born_failed["custom_id"]) == (10, "line-10")
    seen = b""
    while waiting := queued(store, batch_id):
        end(store, waiting[:2])
        rounds(clerk, local)
        batch = batch_of(store, batch_id)
        grown = content(store, vault, batch.output_file_id)
        assert grown.startswith(seen)
        assert len(grown) > len(seen)
        seen = grown
    output, _ = check_files(store, vault, batch_id)
    assert [document["penstock"]["line"] for document in output] == list(range(1, 10))
    assert batch_of(store, batch_id).finalized_at is not None


def test_files_grow_no_more_often_than_the_setting_says(clerk: Clerk, store: Store, vault: Vault, local: Local) -> None:
    batch_id = make_batch(store, vault, (valid(number) for number in range(1, 4)))
    rounds(clerk, local)
    first, second, _ = queued(store, batch_id)
    end(store, [first])
    assert clerk.step().num_written == 1  # the first line at once
    end(store, [second])
    assert clerk.step().num_written == 0
    local.now += 1.0
    assert clerk.step().num_written == 1


def test_every_end_comes_into_the_right_file(clerk: Clerk, store: Store, vault: Vault, local: Local) -> None:
    batch_id = make_batch(store, vault, (valid(number) for number in range(1, 6)))
    rounds(clerk, local)
    one, two, three, four, five = queued(store, batch_id)
    end(store, [one, five])
    end(store, [two], FAILED)
    end(store, [three], CUT_SHORT)
    ref = claim(store, four).ref
    store.cancel(four)
    store.finish(ref, STOPPED)
    rounds(clerk, local)
    output, errors = check_files(store, vault, batch_id)
    assert len(output) == 2
    codes = {document["penstock"]["line"]: document["error"]["code"] for document in errors}
    assert codes == {2: "engine_failed", 3: "batch_expired", 4: "batch_cancelled"}
    texts = {document["penstock"]["line"]: document["penstock"].get("completion") for document in errors}
    assert texts == {2: None, 3: "as far as it c", 4: "as far as"}


def test_a_finished_batch_has_one_object_a_file_with_the_same_bytes(
    clerk: Clerk, store: Store, vault: Vault, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_files, "TAIL_SEGMENTS", 4)
    batch_id = make_batch(store, vault, (valid(number) for number in range(1, 31)))
    rounds(clerk, local)
    while len(waiting := queued(store, batch_id)) > 1:
        end(store, waiting[:1])
        rounds(clerk, local)
    file_id = str(batch_of(store, batch_id).output_file_id)
    before = content(store, vault, file_id)
    assert 1 < len(store.segments(file_id)) < 12  # small ones were put together meanwhile
    end(store, waiting)
    rounds(clerk, local)
    after = content(store, vault, file_id)
    assert hashlib.sha256(after[: len(before)]).digest() == hashlib.sha256(before).digest()
    assert len(store.segments(file_id)) == 1
    check_files(store, vault, batch_id)


def test_a_reader_may_go_on_with_an_object_that_was_replaced(
    clerk: Clerk, store: Store, vault: Vault, local: Local
) -> None:
    batch_id = make_batch(store, vault, [valid(1), valid(2)])
    rounds(clerk, local)
    first, second = queued(store, batch_id)
    end(store, [first])
    rounds(clerk, local)
    (segment,) = store.segments(str(batch_of(store, batch_id).output_file_id))
    end(store, [second])
    rounds(clerk, local)
    assert vault.exists(segment.object_name)
    local.now += 3600
    rounds(clerk, local)
    assert not vault.exists(segment.object_name)
    check_files(store, vault, batch_id)


def test_in_the_order_of_the_input_the_file_comes_at_the_end(
    clerk: Clerk, store: Store, vault: Vault, local: Local
) -> None:
    batch_id = make_batch(store, vault, (valid(number) for number in range(1, 41)), output_order="input")
    rounds(clerk, local)
    waiting = queued(store, batch_id)
    random.Random(3).shuffle(waiting)
    end(store, waiting[:20])
    end(store, waiting[20:22], FAILED)
    rounds(clerk, local)
    batch = batch_of(store, batch_id)
    assert (batch.output_file_id, batch.error_file_id is None) == (None, False)
    end(store, waiting[22:])
    rounds(clerk, local)
    output, _ = check_files(store, vault, batch_id)
    lines = [document["penstock"]["line"] for document in output]
    assert lines == sorted(lines)
    assert len(lines) == 38
    assert batch_of(store, batch_id).finalized_at is not None


def test_a_retry_writes_a_new_error_file_and_goes_on_with_the_output_file(
    clerk: Clerk, store: Store, vault: Vault, local: Local
) -> None:
    batch_id = make_batch(store, vault, [*(valid(number) for number in range(1, 6)), invalid(6)])
    rounds(clerk, local)
    waiting = queued(store, batch_id)
    end(store, waiting[:3])
    end(store, waiting[3:], FAILED)
    rounds(clerk, local)
    before = batch_of(store, batch_id)
    first_output = content(store, vault, before.output_file_id)
    first_errors = content(store, vault, before.error_file_id)
    assert store.retry_batch(batch_id) == 2
    rounds(clerk, local)
    end(store, queued(store, batch_id))
    rounds(clerk, local)
    output, errors = check_files(store, vault, batch_id)
    after = batch_of(store, batch_id)
    assert (after.output_file_id, after.finalized_at is not None) == (before.output_file_id, True)
    assert content(store, vault, after.output_file_id).startswith(first_output)
    assert len(output) == 5
    assert [document["penstock"]["line"] for document in errors] == [6]
    assert after.error_file_id != before.error_file_id
    assert content(store, vault, before.error_file_id) == first_errors


def test_a_retry_between_reading_and_noting_keeps_the_line_out_of_the_old_file(
    clerk: Clerk, store: Store, vault: Vault, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = make_batch(store, vault, [valid(1), valid(2)])
    rounds(clerk, local)
    first, _ = queued(store, batch_id)
    end(store, [first], FAILED)
    append = store.append_output

    def overtaken(*arguments: Any, **named: Any) -> bool:
        store.retry_batch(batch_id)
        return append(*arguments, **named)

    with monkeypatch.context() as race:
        race.setattr(store, "append_output", overtaken)
        rounds(clerk, local)
    end(store, queued(store, batch_id))
    rounds(clerk, local)
    output, errors = check_files(store, vault, batch_id)
    assert (len(output), len(errors)) == (2, 0)


def test_a_cancelled_batch_takes_the_rest_in_as_cancelled_and_is_finished(
    clerk: Clerk, store: Store, vault: Vault, local: Local
) -> None:
    batch_id = make_batch(store, vault, (valid(number) for number in range(1, CHUNK_LINES + 11)))
    clerk.step()
    store.cancel_batch(batch_id)
    while store.sweep():
        pass
    rounds(clerk, local, 2)
    _, errors = check_files(store, vault, batch_id)
    assert len(errors) == CHUNK_LINES + 10
    assert {document["error"]["code"] for document in errors} == {"batch_cancelled"}
    assert batch_of(store, batch_id).finalized_at is not None


def test_results_expire_so_long_after_they_are_whole(
    clerk: Clerk, store: Store, vault: Vault, local: Local, clock: Clock
) -> None:
    batch_id = make_batch(store, vault, [valid(1), valid(2)], output_expires_after_seconds=3600)
    kept = make_batch(store, vault, [valid(1)])
    rounds(clerk, local)
    end(store, queued(store, kept))
    first, second = queued(store, batch_id)
    end(store, [first])
    rounds(clerk, local)
    clock.move(7200)
    local.now += 7200
    end(store, [second])
    rounds(clerk, local)
    file_id = str(batch_of(store, batch_id).output_file_id)
    assert len(documents(content(store, vault, file_id))) == 2
    names = [segment.object_name for segment in store.segments(file_id)]
    clock.move(3601)
    local.now += 3601
    rounds(clerk, local)
    assert not store.segments(file_id)
    assert not any(map(vault.exists, names))
    check_files(store, vault, kept)


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, target: object, name: str, *, after: bool = False) -> Iterator[None]:
    """The process dies when it calls this: just before, or just after it has come to pass."""
    original = getattr(target, name)

    def die(*arguments: Any, **named: Any) -> None:
        if after:
            original(*arguments, **named)
        raise Killed

    with monkeypatch.context() as death:
        death.setattr(target, name, die)
        yield


DEATHS = [
    ("take_in", "completion"),
    ("append_output", "completion"),
    ("append_output", "input"),
    ("merge_segments", "completion"),
    ("finalize", "completion"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("call", "order"), DEATHS)
def test_whoever_is_killed_and_when_each_line_is_in_a_file_once(
    store: Store,
    vault: Vault,
    redis: Redis,
    local: Local,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    after: bool,
    order: str,
) -> None:
    lines = [*(valid(number) for number in range(1, 12)), invalid(12)]
    batch_id = make_batch(store, vault, lines, output_order=order)
    dice = random.Random(5)
    num_deaths = 0
    while batch_of(store, batch_id).finalized_at is None:
        local.now += 1.0
        clerk = make_clerk(store, vault, redis, local)
        with killed_at(monkeypatch, store, call, after=after):
            try:
                clerk.step()
            except Killed:
                num_deaths += 1
        rounds(make_clerk(store, vault, redis, local), local)  # the one that takes its place
        waiting = queued(store, batch_id)
        end(store, waiting[:2], FAILED if dice.random() < 0.3 else None)
    assert num_deaths > 0
    output, errors = check_files(store, vault, batch_id)
    assert len(output) + len(errors) == 12


def environment_of(database_url: str, redis_url: str, files: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PENSTOCK_DATABASE_URL": database_url,
        "PENSTOCK_REDIS_URL": redis_url,
        "PENSTOCK_FILES_URL": str(files),
        "PENSTOCK_FILE_INTERVAL_SECONDS": "0.02",
        "PENSTOCK_LEADER_SECONDS": "0.2",
    }


def test_a_clerk_that_is_killed_again_and_again_writes_each_line_once(
    database_url: str, redis_url: str, vault: Vault, tmp_path: Path
) -> None:
    engine = open_engine(database_url)
    store = Store(engine, settings=make_settings())
    batch_id = make_batch(store, vault, [*(valid(number) for number in range(1, 2 * CHUNK_LINES)), invalid(9999)])
    environment = environment_of(database_url, redis_url, tmp_path / "files")

    def num_written() -> int:
        batch = batch_of(store, batch_id)
        return batch.num_taken + batch.output_cursor + batch.error_cursor

    for _ in range(3):
        before = num_written()
        process = subprocess.Popen([sys.executable, "-m", "jobs.clerk"], env=environment, stderr=subprocess.DEVNULL)
        wait_until(lambda before=before: num_written() > before, seconds=30)
        process.kill()
        process.wait()
        end(store, queued(store, batch_id)[:3])
    store.cancel_batch(batch_id)
    process = subprocess.Popen([sys.executable, "-m", "jobs.clerk"], env=environment, stderr=subprocess.DEVNULL)
    while batch_of(store, batch_id).ended_at is None:
        store.sweep()
    wait_until(lambda: batch_of(store, batch_id).finalized_at is not None, seconds=30)
    process.terminate()
    process.wait(timeout=20)
    output, errors = check_files(store, vault, batch_id)
    assert (len(output), len(output) + len(errors)) == (9, 2 * CHUNK_LINES)
    engine.dispose()


def test_two_clerks_that_both_believe_to_lead_write_each_line_once(
    store: Store, vault: Vault, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clerk_module.Tenure, "held", lambda _: True)
    store.settings = make_settings(file_interval_seconds=0.001)
    batch_id = make_batch(store, vault, (valid(number) for number in range(1, 151)))
    runs = [run_in_thread(Clerk(store, vault, redis, store.settings, holder=name)) for name in ("first", "second")]
    wait_until(lambda: batch_of(store, batch_id).taken_at is not None)
    waiting = queued(store, batch_id)
    for start in range(0, 150, 10):
        end(store, waiting[start : start + 10], FAILED if start % 30 else None)
    wait_until(lambda: batch_of(store, batch_id).finalized_at is not None, seconds=30)
    for thread, stop in runs:
        stop.set()
        thread.join(timeout=10)
    output, errors = check_files(store, vault, batch_id)
    assert (len(output), len(errors)) == (50, 100)


def test_storage_that_fails_in_between_costs_nothing(
    clerk: Clerk, store: Store, vault: Vault, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = make_batch(store, vault, (valid(number) for number in range(1, 6)))
    rounds(clerk, local)
    end(store, queued(store, batch_id)[:3])
    write = ObjectWriter.write
    left = iter(range(1))

    def fail(self: ObjectWriter, data: bytes) -> None:
        if next(left, None) is None:
            raise StorageUnavailable("full")
        write(self, data)

    with monkeypatch.context() as outage:
        outage.setattr(ObjectWriter, "write", fail)
        local.now += 1.0
        with pytest.raises(StorageUnavailable):
            clerk.step()
    assert batch_of(store, batch_id).output_file_id is None
    end(store, queued(store, batch_id))
    rounds(clerk, local)
    output, _ = check_files(store, vault, batch_id)
    assert len(output) == 5


def test_a_database_that_goes_away_after_the_object_was_written_costs_nothing(
    clerk: Clerk, store: Store, vault: Vault, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = make_batch(store, vault, [valid(1)])
    rounds(clerk, local)
    end(store, queued(store, batch_id))

    def away(*_: object, **__: object) -> bool:
        raise StoreUnavailable("away")

    with monkeypatch.context() as outage:
        outage.setattr(store, "append_output", away)
        local.now += 1.0
        with pytest.raises(StoreUnavailable):
            clerk.step()
    rounds(clerk, local)
    check_files(store, vault, batch_id)
    assert batch_of(store, batch_id).finalized_at is not None


def test_of_two_clerks_one_works(store: Store, vault: Vault, redis: Redis, local: Local, clock: Clock) -> None:
    first, second = (make_clerk(store, vault, redis, local, name) for name in ("first", "second"))
    assert (first.step().leads, second.step().leads) == (True, False)
    clock.move(7)
    local.now += 7
    assert (second.step().leads, first.step().leads) == (True, False)


def test_a_clerk_that_sleeps_through_its_term_doubles_nothing(
    store: Store, vault: Vault, redis: Redis, local: Local, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = make_batch(store, vault, (valid(number) for number in range(1, 4)))
    sleeper, other_clock = make_clerk(store, vault, redis, local, "first"), Local()
    other = make_clerk(store, vault, redis, other_clock, "second")
    rounds(sleeper, local)
    end(store, queued(store, batch_id)[:2])
    append = store.append_output

    def overtaken(*arguments: Any, **named: Any) -> bool:
        with monkeypatch.context() as awake:
            awake.setattr(store, "append_output", append)
            clock.move(7)
            end(store, queued(store, batch_id))
            rounds(other, other_clock, 3)
        return append(*arguments, **named)

    with monkeypatch.context() as race:
        race.setattr(store, "append_output", overtaken)
        local.now += 1.0
        sleeper.step()
    output, _ = check_files(store, vault, batch_id)
    assert len(output) == 3
    assert batch_of(store, batch_id).finalized_at is not None
    rounds(other, other_clock)
    held = {segment.object_name for segment in store.segments(str(batch_of(store, batch_id).output_file_id))}
    assert all(map(vault.exists, held))


def test_long_work_ends_when_the_office_is_lost(
    store: Store, vault: Vault, redis: Redis, local: Local, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clerk = make_clerk(store, vault, redis, local)
    batch_id = make_batch(store, vault, (valid(number) for number in range(1, 60)), output_order="input")
    rounds(clerk, local)
    end(store, queued(store, batch_id))
    read = store.lines_in_order

    def slowly(*arguments: Any, **named: Any) -> Any:
        clock.move(7)
        local.now += 7
        store.hold_office(OFFICE, "second")
        return read(*arguments, **named)

    with monkeypatch.context() as slow:
        slow.setattr(store, "lines_in_order", slowly)
        clerk.step()
    assert batch_of(store, batch_id).output_file_id is None
    clock.move(7)
    rounds(clerk, local, 5)
    check_files(store, vault, batch_id)
    assert batch_of(store, batch_id).finalized_at is not None


def test_a_batch_whose_lines_are_gone_has_failed_and_the_others_go_on(
    clerk: Clerk, store: Store, vault: Vault, local: Local
) -> None:
    broken = make_batch(store, vault, [valid(1)])
    sound = make_batch(store, vault, [valid(1)])
    vault.delete(str(store.get_file(str(batch_of(store, broken).input_file_id)).checked_object))
    rounds(clerk, local)
    batch = batch_of(store, broken)
    assert (batch.failed_at is not None, (batch.errors or [{}])[0]["code"]) == (True, "input_unreadable")
    assert len(queued(store, sound)) == 1


def test_a_batch_that_trips_the_clerk_is_set_aside_for_a_while(
    clerk: Clerk, store: Store, vault: Vault, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_batch(store, vault, [valid(1)])
    second = make_batch(store, vault, [valid(1)])
    rounds(clerk, local)
    end(store, queued(store, first) + queued(store, second))
    render = result_files.render

    def trip(line: Any, endpoint: str) -> bytes:
        if line.job.batch_id == first:
            raise KeyError("a secret prompt")
        return render(line, endpoint)

    with monkeypatch.context() as defect:
        defect.setattr(result_files, "render", trip)
        rounds(clerk, local)
    assert batch_of(store, second).finalized_at is not None
    rounds(clerk, local)
    assert batch_of(store, first).finalized_at is None
    local.now += ASIDE_SECONDS
    rounds(clerk, local)
    assert batch_of(store, first).finalized_at is not None
    check_files(store, vault, first)


def test_long_results_are_read_a_few_at_a_time_and_written_in_bounded_segments(
    clerk: Clerk, store: Store, vault: Vault, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_files, "SEGMENT_BYTES", 20_000)
    monkeypatch.setattr(result_files, "PAGE_BYTES", 5_000)
    batch_id = make_batch(store, vault, (valid(number) for number in range(1, 101)))
    rounds(clerk, local)
    end(store, queued(store, batch_id)[:99])
    local.now += 1.0
    done = clerk.step()
    assert (done.more, 20 < done.num_written < 40) == (True, True)
    rounds(clerk, local)
    file_id = str(batch_of(store, batch_id).output_file_id)
    assert len(store.segments(file_id)) > 2
    end(store, queued(store, batch_id))
    rounds(clerk, local)
    output, _ = check_files(store, vault, batch_id)
    assert len(output) == 100


def test_housekeeping_takes_turns_with_batches_and_what_fails_in_it_is_tried_again(
    clerk: Clerk, store: Store, vault: Vault, local: Local, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_ids = [make_file(store, vault, [valid(1)]) for _ in range(3)]
    for file_id in file_ids:
        store.delete_file(file_id)
    delete = vault.delete

    def slowly(name: str) -> None:
        local.now += 1.0
        delete(name)

    def away(name: str) -> None:
        raise StorageUnavailable("away")

    with monkeypatch.context() as outage:
        outage.setattr(vault, "delete", away)
        assert not clerk.step().more
    local.now += ASIDE_SECONDS
    clock.move(ASIDE_SECONDS)
    with monkeypatch.context() as slow:
        slow.setattr(vault, "delete", slowly)
        assert clerk.step().more
        assert 0 < len(store.erasable_files()) < 3
        batch_id = make_batch(store, vault, [valid(1)])
        assert clerk.step().num_taken == 1
        while clerk.step().more:
            clock.move(1)
    assert not store.erasable_files()
    assert len(queued(store, batch_id)) == 1


def run_in_thread(clerk: Clerk) -> tuple[threading.Thread, threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=clerk.run, args=(stop,))
    thread.start()
    return thread, stop


def test_a_ring_wakes_it_and_it_wakes_the_dispatcher(store: Store, vault: Vault, redis: Redis) -> None:
    store.settings = make_settings(file_interval_seconds=1.0)
    thread, stop = run_in_thread(Clerk(store, vault, redis, store.settings))
    with redis.pubsub(ignore_subscribe_messages=True) as ear:
        ear.subscribe("penstock:dispatch")
        wait_until(lambda: redis.pubsub_numsub("penstock:dispatch")[0][1] == 2)
        batch_id = make_batch(store, vault, [valid(1)])
        EventWriter(redis).wake_dispatcher()
        wait_until(lambda: batch_of(store, batch_id).taken_at is not None)
        wait_until(lambda: ear.get_message() and ear.get_message())
    end(store, queued(store, batch_id))
    wait_until(lambda: batch_of(store, batch_id).finalized_at is not None)
    stop.set()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert store.hold_office(OFFICE, "somebody else")


def test_it_outlives_outages_of_everything(
    store: Store, vault: Vault, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.settings = make_settings(file_interval_seconds=0.01)
    monkeypatch.setattr(clerk_module, "OUTAGE_SECONDS", 0.01)
    num_failures: list[str] = []

    def failing(error: Exception) -> Callable[..., Any]:
        def fail(*_: object, **__: object) -> Any:
            num_failures.append(type(error).__name__)
            raise error

        return fail

    clerk = Clerk(store, vault, redis, store.settings)
    thread, stop = run_in_thread(clerk)
    for target, name, error in (
        (store, "unfinished_batches", StoreUnavailable("away")),
        (store, "unfinished_batches", KeyError("a defect")),
        (vault, "read", StorageUnavailable("away")),
    ):
        num_failures.clear()
        with monkeypatch.context() as outage:
            outage.setattr(target, name, failing(error))
            batch_id = make_batch(store, vault, [valid(1)])
            wait_until(lambda: len(num_failures) > 1)
        wait_until(lambda batch_id=batch_id: batch_of(store, batch_id).taken_at is not None)
    stop.set()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_a_storage_that_the_settings_misname_ends_no_other_role(store: Store, redis: Redis) -> None:
    settings = make_settings(files_url="nonsense://somewhere")
    assert clerk_module.start(store, redis, settings, threading.Event()) is None


@pytest.mark.parametrize("module", ["jobs.clerk", "jobs.dispatcher"])
def test_the_role_runs_as_a_process_and_in_the_dispatchers(
    module: str, sqlite_url: str, redis_url: str, tmp_path: Path
) -> None:
    engine = open_engine(sqlite_url)
    store = Store(engine, settings=make_settings())
    vault = Vault(str(tmp_path / "files"))
    batch_id = make_batch(store, vault, [valid(1, prompt="a secret prompt"), invalid(2)])
    environment = environment_of(sqlite_url, redis_url, tmp_path / "files")
    process = subprocess.Popen([sys.executable, "-m", module], env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: batch_of(store, batch_id).taken_at is not None, seconds=30)
    end(store, ids_in(store, batch_id, JobState.QUEUED))
    wait_until(lambda: batch_of(store, batch_id).finalized_at is not None, seconds=30)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "secret" not in log
    assert store.hold_office(OFFICE, "somebody else")
    check_files(store, vault, batch_id)
    assert batch_of(store, batch_id).endpoint == CHAT
    engine.dispose()


def test_a_batch_runs_through_an_object_store(store: Store, redis: Redis, local: Local, s3_url: str) -> None:
    vault = Vault(s3_url)
    clerk = make_clerk(store, vault, redis, local)
    batch_id = make_batch(store, vault, [*(valid(number) for number in range(1, 5)), invalid(5)])
    rounds(clerk, local)
    while waiting := queued(store, batch_id):
        end(store, waiting[:2])
        rounds(clerk, local)
    check_files(store, vault, batch_id)
    batch = batch_of(store, batch_id)
    assert batch.finalized_at is not None
    assert len(store.segments(str(batch.output_file_id))) == 1
