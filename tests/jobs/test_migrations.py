"""Migrations: up, down, equal to the tables, and safe when two processes run them at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from jobs.database import main, migrate, open_engine, transaction
from jobs.errors import StoreUnavailable
from jobs.settings import Settings
from jobs.store import Store
from jobs.tables import Base

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'folder' / 'empty.db'}"
    return str(request.getfixturevalue("empty_postgres_url"))


def tables(url: str) -> set[str]:
    engine = open_engine(url)
    try:
        return set(sa.inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_the_migrated_database_equals_the_tables(empty_url: str) -> None:
    migrate(empty_url)
    engine = open_engine(empty_url)
    with transaction(engine, writes=False) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_constraints_are_those_of_the_tables(empty_url: str) -> None:
    migrate(empty_url)
    engine = open_engine(empty_url)
    for table in Base.metadata.sorted_tables:
        wanted = {str(item.name) for item in table.constraints if isinstance(item, sa.CheckConstraint)}
        assert {check["name"] for check in sa.inspect(engine).get_check_constraints(table.name)} == wanted
    engine.dispose()


def test_down_removes_everything_and_up_brings_it_back(empty_url: str) -> None:
    migrate(empty_url)
    full = tables(empty_url)
    migrate(empty_url, "base")
    assert tables(empty_url) == {"alembic_version"}
    migrate(empty_url)
    assert tables(empty_url) == full


def test_migrating_twice_changes_nothing(empty_url: str) -> None:
    migrate(empty_url)
    migrate(empty_url)
    assert "jobs" in tables(empty_url)


def test_three_processes_may_migrate_at_once(empty_url: str) -> None:
    command = [sys.executable, "-m", "jobs.database", "migrate", "--url", empty_url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert "jobs" in tables(empty_url)


def test_a_database_without_tables_is_an_outage_until_it_is_migrated(empty_url: str) -> None:
    engine = open_engine(empty_url)
    store = Store(engine, settings=Settings())
    with pytest.raises(StoreUnavailable):
        store.ping()
    migrate(empty_url)
    store.ping()
    engine.dispose()


def test_the_command_says_what_is_wrong_without_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--url", "postgresql://me:secret@127.0.0.1:1/none"]) == 1
    assert main(["migrate", "--url", "mysql://me:secret@127.0.0.1:1/none"]) == 1
    output = capsys.readouterr()
    assert "cannot connect" in output.err
    assert "secret" not in output.err + output.out
