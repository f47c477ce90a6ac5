"""`penstock keys`: what an operator sees, and that a key is shown once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from jobs.database import open_engine
from jobs.key_commands import main
from jobs.settings import Settings
from jobs.store import Store
from tests.jobs.support import make_settings


class Said(NamedTuple):
    status: int
    out: str
    err: str


Keys = Callable[..., Said]


@pytest.fixture
def keys(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Keys:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", database_url)
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))

    def run(*words: str) -> Said:
        status = main(words)
        return Said(status, *capsys.readouterr())

    return run


@pytest.fixture
def stored(database_url: str) -> Iterator[Store]:
    engine = open_engine(database_url)
    yield Store(engine, settings=make_settings())
    engine.dispose()


def test_a_key_is_alone_on_standard_output_and_in_no_list(keys: Keys, stored: Store) -> None:
    made = keys("create", "tonight", "--owner", "alice", "--expires", "90d", "--queued-tokens", "5000")
    key = made.out.strip()
    row = stored.find_key(key)
    assert row is not None
    assert (row.owner, row.queued_tokens, made.status) == ("alice", 5000, 0)
    listed = keys("list").out
    assert all(word in listed for word in ("tonight", "alice", "jobs:read,jobs:write", "queued_tokens=5000", "until"))
    assert key not in listed + keys("list", "--json").out + made.err
    assert row.sha256 not in keys("list", "--json").out


def test_a_key_is_made_rotated_revoked_and_forgotten_by_what_the_list_shows(keys: Keys, stored: Store) -> None:
    first = json.loads(keys("create", "k", "--scope", "metrics", "--json").out)
    assert first["scopes"] == ["metrics"]
    second = json.loads(keys("rotate", first["hint"], "--grace", "0", "--json").out)
    assert (stored.find_key(first["key"]), second["owner"]) == (None, first["owner"])
    assert "2 s more" in keys("revoke", second["id"]).err
    listed = keys("list").out
    assert ("revoked" in listed, "expired" in listed) == (True, True)
    assert [keys("forget", one["id"]).status for one in (first, second)] == [0, 0]
    assert json.loads(keys("list", "--json").out) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "k", "--scope", "all"), "scope: 'all' is none of"),
        (("create", "k", "--expires", "soon"), "expires: a positive number and a unit"),
        (("create", "k", "--owner", "a b"), "owner: must have"),
        (("revoke", "key_1"), "No key with the id 'key_1'"),
        (("rotate", "key_1", "--grace", "x"), "grace: a positive number and a unit"),
    ],
)
def test_what_is_wrong_is_one_line(keys: Keys, words: tuple[str, ...], said: str) -> None:
    done = keys(*words)
    assert done.status == 1
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_the_embedded_database_is_prepared_by_the_first_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PENSTOCK_DATABASE_URL", raising=False)
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "home"))
    assert main(["create", "first"]) == 0
    assert capsys.readouterr().out.startswith("psk_")
    engine = open_engine(Settings().resolved_database_url)
    assert Store(engine, settings=Settings()).any_key(alive=True)
    engine.dispose()
