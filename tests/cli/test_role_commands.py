"""Roles, models and the doctor: what is executed, and what is said."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.home import Addresses, announce
from cli.roles import ROOT, child_environment, read_settings
from tests.cli.conftest import Said

Penstock = Callable[..., Said]


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `exec` was called with."""
    calls: list[Any] = []

    def execve(program: str, command: list[str], environment: dict[str, str]) -> None:
        calls.append((program, command, environment))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", execve)
    return calls


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (["api"], ["api"]),
        (["worker"], ["worker"]),
        (["dispatcher"], ["jobs.dispatcher"]),
        (["audit"], ["jobs.audit"]),
        (["jobs", "requeue", "job_1"], ["jobs.admin", "requeue", "job_1"]),
        (["keys", "list", "--json"], ["jobs.key_commands", "list", "--json"]),
        (["keys", "revoke", "psk_1"], ["jobs.key_commands", "revoke", "psk_1"]),
        (["keys", "rotate", "psk_1"], ["jobs.key_commands", "rotate", "--grace=1d", "psk_1"]),
        (["keys", "forget", "psk_1"], ["jobs.key_commands", "forget", "psk_1"]),
        (
            ["keys", "create", "--scope", "metrics", "--expires", "9d", "--open-batches", "3", "--json", "my key"],
            [
                "jobs.key_commands",
                "create",
                "--expires=9d",
                "--open-batches=3",
                "--scope=metrics",
                "--json",
                "--",
                "my key",
            ],
        ),
        (["chaos", "--jobs", "9", "--help"], ["ops.chaos", "--jobs", "9", "--help"]),
        (["bench", "--tune", "--help"], ["ops.bench", "--tune", "--help"]),
    ],
)
def test_a_role_replaces_the_command(
    penstock: Penstock, replaced: list[Any], words: list[str], module: list[str]
) -> None:
    penstock(*words)
    (program, command, _), *_ = replaced
    assert program == sys.executable
    assert command == [sys.executable, "-P", "-m", *module]


@pytest.mark.parametrize(
    ("words", "own_url", "given"),
    [
        (["audit"], "", "postgresql://embedded"),
        (["worker"], "", "postgresql://embedded"),
        (["audit"], "postgresql://mine", "postgresql://mine"),
        (["chaos", "--help"], "", None),
    ],
)
def test_beside_an_up_with_postgres_a_command_works_on_that_one(
    penstock: Penstock,
    replaced: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    own_url: str,
    given: str | None,
) -> None:
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
    if own_url:
        monkeypatch.setenv("PENSTOCK_DATABASE_URL", own_url)
    with announce(tmp_path, Addresses(os.getpid(), "http://x", "http://y", "postgresql://embedded")):
        penstock(*words)
    (_, _, environment), *_ = replaced
    assert environment.get("PENSTOCK_DATABASE_URL") == given


def test_the_password_of_flower_is_not_on_its_command_line(
    penstock: Penstock, replaced: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_FLOWER_BASIC_AUTH", "me:secret")
    penstock("flower")
    (_, command, environment), *_ = replaced
    assert command[-1] == "ops.flower"
    assert "secret" not in " ".join(command)
    assert environment["PENSTOCK_FLOWER_BASIC_AUTH"] == "me:secret"


def test_children_find_this_application_before_any_other(home: Path) -> None:
    environment = child_environment(read_settings(), {"model": "demo", "home": home})
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    assert environment["PENSTOCK_MODEL"] == "demo"


def test_a_bad_setting_is_named(penstock: Penstock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SLOTS", "many")
    said = penstock("doctor")
    assert said.status == 2
    assert "PENSTOCK_SLOTS" in said.err


def test_a_bad_option_of_up_is_named(penstock: Penstock) -> None:
    said = penstock("up", "--slots", "0")
    assert said.status == 2
    assert "--slots" in said.err


def test_models_are_listed_with_what_is_here(penstock: Penstock) -> None:
    said = penstock("model", "list")
    assert said.status == 0
    assert said.out.splitlines()[0].startswith("demo")
    names = [model["name"] for model in json.loads(penstock("model", "list", "--json").out)]
    assert names[:2] == ["demo", "phi-3-mini"]


def test_pull_says_where_the_file_is(penstock: Penstock) -> None:
    said = penstock("model", "pull", "demo")
    assert said.status == 0
    assert said.out.startswith("demo  /")


def test_pull_of_what_does_not_exist_fails(penstock: Penstock) -> None:
    assert penstock("model", "pull", "/no/such/file.gguf").status == 1


def test_the_doctor_finds_this_machine_fit(penstock: Penstock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_MODEL", "demo")
    monkeypatch.setenv("PENSTOCK_PORT", "0")
    monkeypatch.setenv("PENSTOCK_FLOWER_PORT", "0")
    said = penstock("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(said.out)}
    assert said.status == 0, said.err
    assert findings["llama.cpp"]["level"] == "ok"
    assert findings["model"]["text"].startswith("demo")


def attention_as_the_doctor_finds_it(penstock: Penstock) -> dict[str, str]:
    findings = json.loads(penstock("doctor", "--json").out)
    (found,) = [finding for finding in findings if finding["name"] == "attention"]
    return dict(found)


def test_the_doctor_says_whose_attention_a_worker_would_have(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = attention_as_the_doctor_finds_it(penstock)
    assert (found["level"], found["text"].partition(" x86")[0]) == ("ok", "Penstock's own, for")
    assert not (tmp_path / "cache").exists(), "it looks, and builds nothing"
    monkeypatch.setenv("PENSTOCK_KV_TYPE", "q8_0")
    found = attention_as_the_doctor_finds_it(penstock)
    assert (found["level"], found["text"].partition(":")[0]) == ("ok", "llama.cpp's")
    monkeypatch.setenv("PENSTOCK_ATTENTION", "penstock")
    found = attention_as_the_doctor_finds_it(penstock)
    assert (found["level"], found["text"].partition(":")[0]) == ("missing", "no worker starts")


@pytest.mark.parametrize(("choice", "level"), [("auto", "warning"), ("penstock", "missing"), ("llama.cpp", "ok")])
def test_the_doctor_tells_what_a_missing_compiler_means(
    penstock: Penstock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, choice: str, level: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PENSTOCK_ATTENTION", choice)
    found = attention_as_the_doctor_finds_it(penstock)
    assert found["level"] == level
    assert ("install gcc" in found["text"]) is (choice != "llama.cpp")


def test_the_doctor_names_what_is_missing_and_what_to_do(penstock: Penstock, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("PENSTOCK_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("PENSTOCK_MODEL", "no-such-model")
        monkeypatch.setenv("PENSTOCK_REDIS_URL", "redis://127.0.0.1:9/0")
        monkeypatch.setenv("PENSTOCK_DATABASE_URL", "postgresql://127.0.0.1:9/x")
        said = penstock("doctor")
    assert said.status == 1
    assert "model, Redis, database, API" in said.err
    assert "penstock up --port 0" in said.out
