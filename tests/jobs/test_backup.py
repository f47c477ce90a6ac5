"""Backups: one instant of a system at work, taken back whole into either database, or refused with a reason."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from redis import Redis

from jobs.backup import archive, rows
from jobs.backup.archive import BackupFailed, reading
from jobs.backup.restoring import Restored, restore
from jobs.backup.saving import save
from jobs.clerk import Clerk
from jobs.database import migrate, open_engine, transaction
from jobs.errors import StoreUnavailable
from jobs.files import Vault
from jobs.records import Failed
from jobs.retention import Retention
from jobs.states import JobState
from jobs.store import Store
from jobs.store.registry import BACKUP_OFFICE
from jobs.webhooks import NewWebhook
from tests.jobs.batch_files import check_files, content, end, make_batch, queued, valid
from tests.jobs.support import claim, make_line, make_settings, submit_one, success
from tests.support.services import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """Of the real clock: a backup and a retention look at who holds an office now."""
    engine = open_engine(database_url)
    yield Store(engine, settings=make_settings())
    engine.dispose()


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(str(tmp_path / "files"))


@pytest.fixture
def target_vault(tmp_path: Path) -> Vault:
    return Vault(str(tmp_path / "other-files"))


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store on a database without tables, of either kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'other' / 'penstock.db'}"
    else:
        url = str(request.getfixturevalue("empty_postgres_url"))
    engine = open_engine(url)
    yield Store(engine, settings=make_settings())
    engine.dispose()


@pytest.fixture
def empty_sqlite(tmp_path: Path) -> Iterator[Store]:
    engine = open_engine(f"sqlite:///{tmp_path / 'empty' / 'penstock.db'}")
    yield Store(engine, settings=make_settings())
    engine.dispose()


def restored(target: Store, vault: Vault, path: Path) -> Restored:
    with reading(path) as source:
        return restore(target, vault, source)


def table_rows(store: Store) -> dict[str, list[bytes]]:
    """Every row that is kept, by table, in the words of a backup."""
    with transaction(store.engine, writes=False) as connection:
        return {table.name: sorted(rows.dump(connection, table)) for table in rows.read_tables(connection)}


def fill(store: Store, vault: Vault, redis: Redis) -> str:
    """Jobs in every state, a batch from a file with results, a webhook's secret, a model. Answers the batch."""
    for outcome in (success("a text"), Failed("engine_failed", "The engine failed.", retryable=False)):
        store.finish(claim(store, submit_one(store, metadata={"é": "\U0001f3d2"})).ref, outcome)
    submit_one(store, deadline_seconds=3600)
    store.cancel(submit_one(store))
    store.create_webhook(NewWebhook(url="https://example.org/hook", events=["batch.completed"]))
    store.announce_model("demo", "0" * 64, 512, b"GGUF\x00\xff", {"model": "demo"})
    store.submit([make_line()], idempotency_key="a key", body_sha256="b" * 64)
    batch_id = make_batch(store, vault, [valid(number) for number in range(1, 9)])
    clerk = Clerk(store, vault, redis, store.settings)
    clerk.step()
    end(store, queued(store, batch_id)[:5])
    clerk.step()
    return batch_id


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def finish_batch(store: Store, vault: Vault, redis: Redis, batch_id: str) -> None:
    """The rest of a batch, to its complete files."""
    end(store, queued(store, batch_id))
    clerk = Clerk(store, vault, redis, store.settings)
    wait_until(lambda: (clerk.step(), store.get_batch(batch_id)[0].finalized_at)[1] is not None)


def test_what_is_taken_back_is_what_was_there(
    store: Store, vault: Vault, target: Store, target_vault: Vault, redis: Redis, tmp_path: Path
) -> None:
    batch_id = fill(store, vault, redis)
    save(store, vault, tmp_path / "backup.zip")
    done = restored(target, target_vault, tmp_path / "backup.zip")
    assert (done.problems, done.num_requeued, done.num_missing) == ([], 0, 0)
    assert table_rows(target) == table_rows(store)
    assert target.model("demo").vocabulary_gguf == b"GGUF\x00\xff"
    for file_id in (store.get_batch(batch_id)[0].output_file_id, store.get_batch(batch_id)[0].input_file_id):
        assert content(target, target_vault, file_id) == content(store, vault, file_id)


def test_a_batch_goes_on_where_the_backup_has_it(
    store: Store, vault: Vault, target: Store, target_vault: Vault, redis: Redis, tmp_path: Path
) -> None:
    batch_id = fill(store, vault, redis)
    save(store, vault, tmp_path / "backup.zip")
    finish_batch(store, vault, redis, batch_id)
    restored(target, target_vault, tmp_path / "backup.zip")
    finish_batch(target, target_vault, redis, batch_id)
    output, errors = check_files(target, target_vault, batch_id)
    assert (len(output), len(errors)) == (8, 0)


def test_jobs_that_run_and_end_meanwhile_are_in_it_whole_or_as_they_were(
    store: Store, vault: Vault, target: Store, target_vault: Vault, redis: Redis, tmp_path: Path
) -> None:
    fill(store, vault, redis)
    stop, num_ended = threading.Event(), 0

    def work() -> None:
        nonlocal num_ended
        while not stop.is_set():
            ids = store.submit([make_line() for _ in range(20)], new_batch=True).ids
            for job_id in ids:
                store.finish(claim(store, job_id).ref, success("a text"))
                num_ended += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        wait_until(lambda: num_ended > 30)
        save(store, vault, tmp_path / "backup.zip")
        at_the_end = num_ended
        wait_until(lambda: num_ended > at_the_end)
    finally:
        stop.set()
        worker.join()
    done = restored(target, target_vault, tmp_path / "backup.zip")
    assert done.problems == []
    assert len(target.list_jobs(state=JobState.SUCCEEDED, limit=100_000)[0]) > 30


def test_what_ran_is_queued_again_and_has_spent_no_attempt(
    store: Store, vault: Vault, target: Store, target_vault: Vault, tmp_path: Path
) -> None:
    running, published = submit_one(store), submit_one(store)
    claim(store, running)
    store.mark_published([published])
    save(store, vault, tmp_path / "backup.zip")
    assert restored(target, target_vault, tmp_path / "backup.zip").num_requeued == 1
    job = target.get(running)
    assert (job.state, job.attempt, job.num_failures) == (JobState.QUEUED, 1, 0)
    assert [attempt.outcome for attempt in target.attempts(running)] == ["interrupted"]
    assert set(target.to_publish().interactive) == {running, published}
    assert claim(target, running).ref.number == 2


def test_a_backup_of_the_first_tables_is_taken_back_into_the_newest(
    empty_sqlite: Store, vault: Vault, target: Store, target_vault: Vault, tmp_path: Path
) -> None:
    url = empty_sqlite.engine.url.render_as_string(hide_password=False)
    migrate(url, "0001")
    with transaction(empty_sqlite.engine, writes=True) as connection:
        for statement in OLD_ROWS:
            connection.execute(sa.text(statement))
    made = save(empty_sqlite, vault, tmp_path / "backup.zip")
    assert (made.revision, made.objects) == ("0001", {})
    migrate(target.engine.url.render_as_string(hide_password=False))  # an operator may have done so
    assert restored(target, target_vault, tmp_path / "backup.zip").problems == []
    job = target.get("job_old")
    assert (job.prompt, job.end_number, job.origin) == ("a prompt", 1, None)


OLD_ROWS = (
    """INSERT INTO batches (id, owner, num_total, num_succeeded, num_failed, num_cancelled, num_expired, created_at,
    ended_at, metadata) VALUES ('batch_old', '', 1, 0, 0, 1, 0, '2026-01-01', '2026-01-02', '{}')""",
    """INSERT INTO jobs (id, state, owner, model, priority, prompt, parameters, seed, num_prompt_tokens, metadata,
    batch_id, line_number, attempt, num_failures, max_attempts, available_at, created_at, ended_at)
    VALUES ('job_old', 'cancelled', '', 'demo', 'batch', 'a prompt', '{}', 7, 3, '{}', 'batch_old', 1, 0, 0, 3,
    '2026-01-01', '2026-01-01', '2026-01-02')""",
)


def test_objects_are_not_deleted_while_a_backup_runs(store: Store, vault: Vault, redis: Redis) -> None:
    batch_id = fill(store, vault, redis)
    retention = Retention(store, vault, now=lambda: datetime.now(UTC) + timedelta(days=2))
    finish_batch(store, vault, redis, batch_id)
    input_id = str(store.get_batch(batch_id)[0].input_file_id)
    names = [segment.object_name for segment in store.segments(input_id)]
    store.delete_file(input_id)
    assert store.hold_office(BACKUP_OFFICE, "a backup")
    list(retention.erase())
    assert all(map(vault.exists, names))
    store.resign_office(BACKUP_OFFICE, "a backup")
    list(retention.erase())
    assert not any(map(vault.exists, names))


def test_one_backup_at_a_time(store: Store, vault: Vault, tmp_path: Path) -> None:
    store.hold_office(BACKUP_OFFICE, "another")
    with pytest.raises(BackupFailed, match="Another backup"):
        save(store, vault, tmp_path / "backup.zip")
    assert list(tmp_path.glob("*backup*")) == []


def test_a_backup_without_files_says_which_are_missing(
    store: Store, vault: Vault, target: Store, target_vault: Vault, redis: Redis, tmp_path: Path
) -> None:
    fill(store, vault, redis)
    made = save(store, None, tmp_path / "backup.zip")
    done = restored(target, target_vault, tmp_path / "backup.zip")
    assert (done.num_objects, done.num_missing) == (0, len(made.objects))
    assert done.problems == []


def test_a_missing_object_ends_the_backup_and_leaves_no_file(
    store: Store, vault: Vault, redis: Redis, tmp_path: Path
) -> None:
    batch_id = fill(store, vault, redis)
    input_id = str(store.get_batch(batch_id)[0].input_file_id)
    vault.delete(store.segments(input_id)[0].object_name)
    with pytest.raises(BackupFailed, match=input_id):
        save(store, vault, tmp_path / "backup.zip")
    assert list(tmp_path.glob("*.zip*")) == list(tmp_path.glob(".*.part")) == []


@pytest.fixture
def backup(sqlite_url: str, vault: Vault, redis: Redis, tmp_path: Path) -> Path:
    """A backup of a filled SQLite database."""
    engine = open_engine(sqlite_url)
    filled = Store(engine, settings=make_settings())
    fill(filled, vault, redis)
    save(filled, vault, tmp_path / "backup.zip")
    engine.dispose()
    return tmp_path / "backup.zip"


def changed(source: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of a backup with other entries; None leaves one out."""
    path = source.with_name("changed.zip")
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return path


def test_only_its_owner_may_read_it(backup: Path) -> None:
    assert backup.stat().st_mode & 0o777 == 0o600


def test_a_backup_never_overwrites_a_file(empty_sqlite: Store, vault: Vault, tmp_path: Path) -> None:
    (tmp_path / "mine.zip").write_text("mine")
    migrate(empty_sqlite.engine.url.render_as_string(hide_password=False))
    with pytest.raises(BackupFailed, match="there already"):
        save(empty_sqlite, vault, tmp_path / "mine.zip")
    assert (tmp_path / "mine.zip").read_text() == "mine"


def test_a_target_with_rows_is_refused_and_left_as_it_was(backup: Path, target: Store, target_vault: Vault) -> None:
    migrate(target.engine.url.render_as_string(hide_password=False))
    job_id = submit_one(target)
    before = table_rows(target)
    with pytest.raises(BackupFailed, match="jobs has rows"):
        restored(target, target_vault, backup)
    assert table_rows(target) == before
    assert target.get(job_id).state == JobState.QUEUED
    assert not target_vault.exists("inputs")


def test_a_storage_with_other_objects_is_refused(backup: Path, empty_sqlite: Store, target_vault: Vault) -> None:
    with target_vault.writer("inputs/other.jsonl") as out:
        out.write(b"somebody else's")
    with pytest.raises(BackupFailed, match=r"inputs/other\.jsonl"):
        restored(empty_sqlite, target_vault, backup)


def test_a_target_that_somebody_leads_is_refused(backup: Path, target: Store, target_vault: Vault) -> None:
    migrate(target.engine.url.render_as_string(hide_password=False))
    target.hold_office("dispatcher", "a dispatcher")
    with pytest.raises(BackupFailed, match="stop every role"):
        restored(target, target_vault, backup)


def test_a_damaged_backup_is_refused_before_the_target_is_touched(
    backup: Path, empty_sqlite: Store, target_vault: Vault
) -> None:
    data = bytearray(backup.read_bytes())
    with zipfile.ZipFile(backup) as archive_:
        start = archive_.getinfo("tables/jobs.jsonl").header_offset
    data[start + 90] ^= 0xFF
    backup.write_bytes(data)
    with pytest.raises(BackupFailed):
        restored(empty_sqlite, target_vault, backup)
    assert sa.inspect(empty_sqlite.engine).get_table_names() == []


def test_a_backup_that_lacks_rows_is_refused_and_the_target_stays_empty(
    backup: Path, empty_sqlite: Store, target_vault: Vault
) -> None:
    def cut(name: str, data: bytes) -> bytes:
        return data[: data.rindex(b"\n", 0, -1) + 1] if name == "tables/generations.jsonl" else data

    with pytest.raises(BackupFailed, match="not whole: 5 of 6 rows of generations"):
        restored(empty_sqlite, target_vault, changed(backup, cut))
    assert not any(table_rows(empty_sqlite).values())
    assert restored(empty_sqlite, target_vault, backup).problems == []


def test_other_files_and_newer_formats_are_refused(backup: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no backup")
    newer = changed(backup, lambda name, data: data.replace(b'"format": 1', b'"format": 2'))
    without = tmp_path / "without.zip"
    zipfile.ZipFile(without, "w").close()
    for path, reason in (
        (tmp_path / "text", "no whole backup"),
        (tmp_path / "nowhere", "No such file"),
        (without, "no manifest"),
        (newer, "format 2"),
    ):
        with pytest.raises(BackupFailed, match=reason), reading(path):
            pass


def test_a_backup_of_newer_tables_is_refused(backup: Path, empty_sqlite: Store, target_vault: Vault) -> None:
    def newer(name: str, data: bytes) -> bytes:
        return data.replace(b'"revision": "0', b'"revision": "9') if name == archive.MANIFEST else data

    with pytest.raises(BackupFailed, match="newer Penstock"):
        restored(empty_sqlite, target_vault, changed(backup, newer))


def test_a_database_without_tables_cannot_be_backed_up(empty_sqlite: Store, vault: Vault, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        save(empty_sqlite, vault, tmp_path / "backup.zip")


def test_the_commands_make_and_take_back_and_the_audit_is_clean(
    store: Store, vault: Vault, redis: Redis, tmp_path: Path, empty_sqlite: Store
) -> None:
    fill(store, vault, redis)
    urls = [each.engine.url.render_as_string(hide_password=False) for each in (store, empty_sqlite)]

    def penstock(url: str, files: str, *words: str) -> subprocess.CompletedProcess[str]:
        settings = {"PENSTOCK_DATABASE_URL": url, "PENSTOCK_FILES_URL": str(tmp_path / files), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "cli", *words]
        return subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=60, check=False
        )

    made = penstock(urls[0], "files", "backup", str(tmp_path / "backup.zip"))
    assert made.returncode == 0, made.stderr
    assert " rows and 3 objects of files, " in made.stdout
    back = penstock(urls[1], "other-files", "restore", str(tmp_path / "backup.zip"))
    assert back.returncode == 0, back.stderr
    assert back.stderr.endswith("penstock audit: clean\n")
    again = penstock(urls[1], "other-files", "restore", str(tmp_path / "backup.zip"))
    assert again.returncode == 1
    assert "not empty" in again.stderr
    assert "prompt" not in again.stderr
