"""Upgrades without a stop: migrations only add, and the code of earlier versions works on the newest tables."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.engine import Engine

from jobs import database
from jobs.database import migrate, migration_config, open_engine, transaction
from jobs.states import JobState, Priority
from jobs.store import Store
from tests.jobs.support import Clock, claim, make_job, make_line, make_settings, success
from tests.ops.additive import objection
from tests.ops.recording import FOLDER, NOW, Ids, play

SCRIPTS = ScriptDirectory.from_config(migration_config())
REVISIONS = [script.revision for script in reversed(list(SCRIPTS.walk_revisions()))]
HEAD = REVISIONS[-1]
RECORDED = sorted(path.stem for path in FOLDER.glob("*.json"))

ALLOWED = {
    ("0002", "DROP INDEX ix_jobs_unpublished"): "made again in the same transaction, with more columns",
    ("0002", "uq_jobs_batch_id_end_number"): "only rows that newer code has numbered are in it",
    ("0002", "num_taken"): "older code only raises num_total",
    ("0002", "end_number"): "older code takes ends back in one place, `penstock jobs requeue`, which then says why not",
}
"""Statements that are no plain additions, each with the reason why older code works on."""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("empty_postgres_url"))


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """On a database with the newest tables."""
    opened = open_engine(str(request.getfixturevalue(request.param)))
    yield opened
    opened.dispose()


@pytest.fixture
def store(engine: Engine) -> Store:
    clock = Clock()
    clock.now = NOW
    return Store(engine, settings=make_settings(retry_backoff_seconds=0.0), clock=clock, dice=random.Random(7))


# The rule


def sent_by_migrations(url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The statements of each migration, in the order of the chain."""
    sent: dict[str, list[str]] = {}
    opened = open_engine

    def listening(url: str) -> Engine:
        engine = opened(url)
        event.listen(engine, "before_cursor_execute", lambda *given: sent[revision].append(given[2]))
        return engine

    monkeypatch.setattr(database, "open_engine", listening)
    for revision in REVISIONS:
        sent[revision] = []
        migrate(url, revision)
    return sent


def test_every_migration_only_adds(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objections = []
    for revision, statements in sent_by_migrations(empty_url, monkeypatch).items():
        new_tables = {found[1] for sql in statements if (found := re.search(r"CREATE TABLE (\w+)", sql))}
        for sql in statements:
            excused = any(of == revision and part in sql for of, part in ALLOWED)
            reason = None if excused else objection(sql, new_tables)
            objections += [f"{revision}: {reason}"] if reason else []
    assert objections == []


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE jobs",
        "ALTER TABLE jobs DROP COLUMN seed",
        "ALTER TABLE jobs RENAME COLUMN seed TO dice",
        "ALTER TABLE jobs RENAME TO tasks",
        "ALTER TABLE jobs ALTER COLUMN seed TYPE TEXT",
        "ALTER TABLE jobs ADD CONSTRAINT ck_jobs_seed CHECK (seed > 0)",
        "ALTER TABLE jobs ADD COLUMN a INTEGER NOT NULL",
        "ALTER TABLE jobs ADD COLUMN num_a INTEGER CONSTRAINT ck CHECK (num_a < num_failures)",
        "CREATE UNIQUE INDEX uq ON jobs (seed)",
        "DELETE FROM jobs",
        "\n CREATE TRIGGER t AFTER INSERT ON jobs",
    ],
)
def test_what_would_break_older_code_is_seen(sql: str) -> None:
    assert objection(sql, new_tables=set()) is not None


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE jobs ADD COLUMN a INTEGER",
        "ALTER TABLE jobs ADD COLUMN a INTEGER DEFAULT '0' NOT NULL",
        "ALTER TABLE jobs ADD COLUMN a_kind TEXT DEFAULT 'is_a' NOT NULL CONSTRAINT c CHECK (a_kind IN ('is_a', 'b'))",
        "CREATE UNIQUE INDEX uq ON things (name)",
        "CREATE INDEX ix ON jobs (seed)",
        "CREATE TABLE things (name TEXT NOT NULL)",
    ],
)
def test_an_addition_is_none_of_it(sql: str) -> None:
    assert objection(sql, new_tables={"things"}) is None


# Older code on the newest tables


def phases(revision: str, engine: Engine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{revision}.json").read_text())[engine.dialect.name]
    return found


def submitted(store: Store) -> Ids:
    """The rows that a recording is about, made by the code of today."""
    first, second = store.submit([make_job(), make_job()]).ids
    made = store.submit([make_line(), make_line()], new_batch=True)
    return {"first": first, "second": second, "batch": str(made.batch_id), "line-1": made.ids[0], "line-2": made.ids[1]}


OLD_IDS = {
    "batch": f"batch_{0:032x}",
    **{name: f"job_{number:032x}" for number, name in enumerate(("first", "second", "line-1", "line-2"), 1)},
}
"""For the rows that a recorded API makes itself."""


def mend(store: Store) -> None:
    """What the dispatcher and the clerk of the newest code do from time to time."""
    store.sweep()
    while store.forget():
        pass


def test_there_is_a_recording_of_the_first_tables_and_of_the_newest() -> None:
    assert "0001" in RECORDED
    assert HEAD in RECORDED, "run `python -m tests.ops.recording`, and commit what it writes"


@pytest.mark.parametrize("revision", RECORDED)
def test_an_old_worker_runs_the_jobs_of_a_new_api(revision: str, engine: Engine, store: Store) -> None:
    ids, old = submitted(store), phases(revision, engine)
    for name in ("announce", "heartbeat", "claim", "renew", "finish"):
        play(engine, old[name], ids)
    mend(store)
    assert {name: store.get(ids[name]).state for name in ("first", "second", "line-1")} == {
        "first": JobState.SUCCEEDED, "second": JobState.QUEUED, "line-1": JobState.SUCCEEDED,
    }  # fmt: skip
    generation = store.get_generation(ids["line-1"])
    assert generation is not None
    assert generation.completion == "a text"
    assert store.audit() == []


@pytest.mark.parametrize("revision", RECORDED)
def test_new_workers_run_the_jobs_of_an_old_api(revision: str, engine: Engine, store: Store) -> None:
    old = phases(revision, engine)
    ids = OLD_IDS
    play(engine, old["submit"], ids)
    mend(store)
    names = ("first", "second", "line-1", "line-2")
    assert set(store.to_publish().interactive) == {ids["first"], ids["second"]}
    assert set(store.to_publish(only=[Priority.BATCH]).batch) == {ids["line-1"], ids["line-2"]}
    for name in names:
        store.finish(claim(store, ids[name]).ref, success())
    mend(store)
    batch, counts = store.get_batch(ids["batch"])
    assert batch.ended_at is not None
    assert counts.by_state[JobState.SUCCEEDED] == 2
    assert store.audit() == []


@pytest.mark.parametrize("revision", RECORDED)
def test_an_old_version_goes_on_alone_on_the_newest_tables(revision: str, engine: Engine, store: Store) -> None:
    """As between the migrations and the first new process, and after a rollback of the code."""
    old = phases(revision, engine)
    for phase in old.values():
        play(engine, phase, OLD_IDS)
    mend(store)
    assert store.audit() == []


def test_old_code_that_starts_on_newer_tables_leaves_them_as_they_are(empty_url: str) -> None:
    """The migration that an older version runs at its start, in the middle of an upgrade or after a rollback."""
    migrate(empty_url)
    engine = open_engine(empty_url)
    with transaction(engine, writes=True) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    migrate(empty_url)
    with transaction(engine, writes=False) as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "9999"
    engine.dispose()
