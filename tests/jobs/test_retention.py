"""What is let go of, and what stays: files whose time is over, objects of deleted ones, and what a crash left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.database import open_engine
from jobs.errors import Deleted, InvalidRequest, NotFound, StorageUnavailable
from jobs.files import Vault, output_name
from jobs.ids import new_file_id
from jobs.retention import GRACE_SECONDS, Retention
from jobs.states import JobState
from jobs.store import Store
from tests.jobs.batch_files import batch_of, make_batch, make_file, valid
from tests.jobs.batch_support import end_all, line_ids, taken_batch
from tests.jobs.support import Clock, claim, make_line, make_settings, submit_one, success


class Local:
    """A clock of this machine."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(str(tmp_path / "files"))


@pytest.fixture
def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1, minutes=1)


@pytest.fixture
def retention(store: Store, vault: Vault, tomorrow: datetime) -> Retention:
    """It believes that all objects of this test were written a day ago."""
    return Retention(store, vault, monotonic=Local(), now=lambda: tomorrow)


def objects(vault: Vault) -> set[str]:
    return set(vault.stored_before(datetime.now(UTC) + timedelta(days=2)))


def put(vault: Vault, name: str) -> str:
    with vault.writer(name) as out:
        out.write(b"a line\n")
    return name


def test_only_what_has_expired_goes(retention: Retention, store: Store, vault: Vault, clock: Clock) -> None:
    over = make_file(store, vault, [valid(1)], expires_at_seconds=3600.0)
    lasting = make_file(store, vault, [valid(1)], expires_at_seconds=7200.0)
    endless = make_file(store, vault, [valid(1)])
    clock.move(3601)
    sum(retention.sweep())
    with pytest.raises(NotFound):
        store.get_file(over)
    assert {store.get_file(file_id).id for file_id in (lasting, endless)} == {lasting, endless}
    assert not any(over in name for name in objects(vault))
    assert len(objects(vault)) == 4


def test_an_input_that_a_batch_still_needs_outlives_its_time(
    retention: Retention, store: Store, vault: Vault, clock: Clock
) -> None:
    batch_id = make_batch(store, vault, [valid(1)])
    file_id = str(batch_of(store, batch_id).input_file_id)
    with pytest.raises(InvalidRequest):
        store.delete_file(file_id)
    needed = make_file(store, vault, [valid(1)], expires_at_seconds=60.0)
    make_batch(store, vault, [valid(1)], input_file_id=needed)
    clock.move(61)
    sum(retention.sweep())
    assert store.get_file(needed).deleted_at is None
    assert sum(needed in name for name in objects(vault)) == 2


def test_a_file_that_its_owner_deletes_is_erased(retention: Retention, store: Store, vault: Vault) -> None:
    file_id = make_file(store, vault, [valid(1)])
    other = make_file(store, vault, [valid(1)])
    store.delete_file(file_id)
    assert sum(retention.erase()) == 1
    assert {other in name for name in objects(vault)} == {True}
    assert sum(retention.erase()) == 0


def test_erasing_goes_on_after_an_outage(
    retention: Retention, store: Store, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = make_file(store, vault, [valid(1)])
    store.delete_file(file_id)

    def away(name: str) -> None:
        raise StorageUnavailable("away")

    with monkeypatch.context() as outage:
        outage.setattr(vault, "delete", away)
        with pytest.raises(StorageUnavailable):
            sum(retention.erase())
    assert len(objects(vault)) == 2
    assert sum(retention.erase()) == 1
    assert not objects(vault)


def test_what_a_crash_left_goes_after_a_day_and_what_rows_name_stays(
    retention: Retention, store: Store, vault: Vault, tmp_path: Path
) -> None:
    file_id = make_file(store, vault, [valid(1)])
    held = objects(vault)
    put(vault, output_name(file_id, 0))
    put(vault, output_name(new_file_id(), 0))
    part = tmp_path / "files" / "inputs" / f".{new_file_id()}.jsonl.0123.part"
    part.write_bytes(b"half")
    assert sum(Retention(store, vault).drop_orphans()) == 0
    assert sum(retention.drop_orphans()) == 3
    assert objects(vault) == held


def test_what_is_not_ours_is_left_alone(retention: Retention, store: Store, vault: Vault) -> None:
    name = put(vault, "outputs/notes-of-somebody.txt")
    assert sum(retention.drop_orphans()) == 0
    assert vault.exists(name)


def test_a_replaced_object_stays_for_a_while(store: Store, vault: Vault) -> None:
    local = Local()
    retention = Retention(store, vault, monotonic=local)
    name = put(vault, output_name(new_file_id(), 0))
    retention.replaced([name])
    assert (sum(retention.drop_replaced()), vault.exists(name)) == (0, True)
    local.now = GRACE_SECONDS
    assert (sum(retention.drop_replaced()), vault.exists(name)) == (1, False)


def test_lines_cannot_be_checked_anew_while_a_batch_takes_them_in(store: Store, vault: Vault) -> None:
    batch_id = make_batch(store, vault, [valid(1)])
    file_id = str(batch_of(store, batch_id).input_file_id)
    again = {"checked_model": "b" * 64, "num_lines": 1, "num_invalid": 0, "urls": {}}
    with pytest.raises(InvalidRequest, match="being taken in"):
        store.set_checked(file_id, checked_object="checked/other.jsonl", **again)
    free = make_file(store, vault, [valid(1)])
    store.set_checked(free, checked_object="checked/other.jsonl", **again)
    assert store.get_file(free).checked_model == "b" * 64


def test_an_orphan_on_a_disk_is_as_old_as_its_bytes(store: Store, vault: Vault, tmp_path: Path) -> None:
    name = put(vault, output_name(new_file_id(), 0))
    two_days_ago = (datetime.now(UTC) - timedelta(days=2)).timestamp()
    os.utime(tmp_path / "files" / name, (two_days_ago, two_days_ago))
    assert sum(Retention(store, vault).drop_orphans()) == 1


@pytest.fixture
def forgetful(database_url: str, clock: Clock) -> Iterator[Store]:
    """A store that keeps jobs for an hour."""
    engine = open_engine(database_url)
    yield Store(engine, settings=make_settings(keep_jobs_seconds=3600.0), clock=clock)
    engine.dispose()


def ended_job(store: Store) -> str:
    job_id = submit_one(store)
    store.finish(claim(store, job_id).ref, success())
    return job_id


def is_there(store: Store, job_id: str) -> bool:
    try:
        return store.get(job_id).id == job_id
    except Deleted:
        return False


def test_single_jobs_go_when_their_time_is_over(
    forgetful: Store, vault: Vault, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.deleting.CHUNK", 2)
    old, waiting = [ended_job(forgetful) for _ in range(5)], submit_one(forgetful)
    clock.move(1800)
    young = ended_job(forgetful)
    clock.move(1800)
    retention = Retention(forgetful, vault)
    assert sum(retention.delete_jobs()) == 5
    assert [is_there(forgetful, job_id) for job_id in (*old, waiting, young)] == [False] * 5 + [True] * 2
    assert sum(retention.delete_jobs()) == 0
    assert forgetful.audit() == []


def test_lines_go_when_the_time_of_their_batch_is_over(
    forgetful: Store, vault: Vault, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.deleting.CHUNK", 2)
    done, slow, growing = (forgetful.submit([make_line()] * 3, new_batch=True) for _ in range(3))
    end_all(forgetful, str(done.batch_id))
    forgetful.finish(claim(forgetful, slow.ids[0]).ref, success())
    unwritten = taken_batch(forgetful, 1)
    end_all(forgetful, unwritten.id)
    clock.move(3600)
    end_all(forgetful, str(growing.batch_id))
    retention = Retention(forgetful, vault)
    sum(retention.delete_jobs())
    assert [is_there(forgetful, job_id) for job_id in done.ids] == [False] * 3
    kept = [*slow.ids, *growing.ids, *line_ids(forgetful, unwritten.id)]
    assert all(is_there(forgetful, job_id) for job_id in kept)
    assert list(retention.delete_jobs()) == []
    counts = forgetful.get_batch(str(done.batch_id))[1]
    assert counts.by_state[JobState.SUCCEEDED] == 3
    assert forgetful.audit() == []
    with pytest.raises(InvalidRequest, match="deleted"):
        forgetful.retry_batch(str(done.batch_id))


def test_without_a_time_nothing_is_deleted(store: Store, vault: Vault, clock: Clock) -> None:
    job_id = ended_job(store)
    clock.move(10 * 365 * 24 * 3600)
    assert list(Retention(store, vault).delete_jobs()) == []
    assert is_there(store, job_id)
