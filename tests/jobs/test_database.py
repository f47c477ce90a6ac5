"""Outages and refusals of the database: ours to name, without a row in the message."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from jobs import database
from jobs.database import open_engine, transaction
from jobs.errors import PenstockError, StoreRefused, StoreUnavailable
from jobs.store import Store
from tests.jobs.support import claim, make_job, make_settings, submit_one, success


def test_a_database_that_is_not_there_is_an_outage(tmp_path: Path) -> None:
    for url in ("postgresql://nobody@127.0.0.1:1/none", f"sqlite:///{tmp_path}"):
        store = Store(open_engine(url), settings=make_settings())
        with pytest.raises(StoreUnavailable) as outage:
            store.submit([make_job("a secret prompt")])
        assert "secret" not in str(outage.value)


def test_a_database_whose_host_gives_no_answer_is_an_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none?connect_timeout=2"
        with pytest.raises(StoreUnavailable):
            Store(open_engine(url), settings=make_settings()).ping()


def test_only_two_databases_are_known() -> None:
    with pytest.raises(PenstockError, match="mysql"):
        open_engine("mysql://somewhere/else")


def test_a_broken_rule_is_named_without_its_row(store: Store) -> None:
    with pytest.raises(StoreRefused) as refused:
        store.submit([make_job("a secret prompt", seed=-1)])
    assert "seed" in refused.value.rule
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert store.list_jobs() == ([], False)


def test_a_full_disk_loses_nothing_and_heals(store: Store, sqlite_url: str) -> None:
    """SQLite's page limit is a disk that is full on demand."""
    engine = open_engine(sqlite_url)
    small = Store(engine, settings=make_settings())
    ref = claim(small, submit_one(small)).ref
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    limits = [pages + 2]

    def limit(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {limits[0]}")

    sa.event.listen(engine, "begin", limit)
    with pytest.raises(StoreUnavailable, match="SQLITE_FULL"):
        small.finish(ref, success("long " * 100_000))
    limits[0] = 1_000_000
    assert small.finish(ref, success("long " * 100_000)) == "succeeded"
    assert small.audit() == []
    engine.dispose()


def test_a_writer_that_stands_still_is_an_outage_for_the_others(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    engine = open_engine(sqlite_url)
    store = Store(engine, settings=make_settings())
    with transaction(open_engine(sqlite_url), writes=True), pytest.raises(StoreUnavailable, match="SQLITE_BUSY"):
        submit_one(store)
    store.get(submit_one(store))
    engine.dispose()


def test_connections_that_were_cut_are_replaced(postgres_url: str, postgres_server: str) -> None:
    engine = open_engine(postgres_url)
    store = Store(engine, settings=make_settings())
    job_id = submit_one(store)
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [engine.url.database]
        )
    assert store.get(job_id).id == job_id
    engine.dispose()


def test_a_connection_cut_inside_a_transaction_is_an_outage_and_changes_nothing(
    postgres_url: str, postgres_server: str
) -> None:
    engine = open_engine(postgres_url)
    store = Store(engine, settings=make_settings())
    ref = claim(store, submit_one(store)).ref

    def cut(connection: sa.Connection, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("INSERT INTO generations"):
            driver: Any = connection.connection.driver_connection
            with psycopg.connect(postgres_server, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s)", [driver.info.backend_pid])

    sa.event.listen(engine, "before_cursor_execute", cut)
    with pytest.raises(StoreUnavailable):
        store.finish(ref, success())
    sa.event.remove(engine, "before_cursor_execute", cut)
    assert store.finish(ref, success()) == "succeeded"
    assert store.audit() == []
    engine.dispose()


def test_threads_write_sqlite_without_getting_in_each_others_way(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    store = Store(engine, settings=make_settings())
    threads = [threading.Thread(target=lambda: [submit_one(store) for _ in range(10)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.list_jobs(limit=100)[0]) == 80
    engine.dispose()


def test_claims_spare_the_disk_and_results_do_not(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    modes: list[int] = []
    for durable in (True, False, True):
        with transaction(engine, writes=True, durable=durable) as connection:
            modes.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
    assert modes == [2, 1, 2]
    engine.dispose()
