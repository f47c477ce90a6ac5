"""The commands of a batch against the whole system: API, dispatcher and worker as processes, a real model."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from tests.support.services import RedisServer, wait_until
from tests.support.system import System
from tests.worker.site import ROOT

NUM_PROMPTS = 12
COMMAND_SECONDS = 120


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, demo_model_path: Path) -> Iterator[System]:
    """One system for all tests of this module; each looks at its own batch."""
    folder = tmp_path_factory.mktemp("system")
    shutil.copy(sqlite_template, folder / "penstock.db")
    redis = RedisServer()
    made = System(folder, f"sqlite:///{folder / 'penstock.db'}", redis.url, demo_model_path, slots=8)
    made.start_all()
    yield made
    made.close()
    redis.remove()


@pytest.fixture
def start(system: System) -> Callable[..., subprocess.Popen[str]]:
    """Start a `penstock` command against the system."""
    where = {"PENSTOCK_API": str(system.http.base_url), "PENSTOCK_HOME": str(system.folder / "home")}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **where}

    def begin(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cli", *words],
            env=environment,
            cwd=system.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


@pytest.fixture
def penstock(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str, str]]:
    """Run a command to its end: exit status, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        command = start(*words)
        out, err = command.communicate(timeout=COMMAND_SECONDS)
        return command.returncode, out, err

    return run


def lines_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().split("\n") if line]


def num_completed(system: System, name: str) -> int:
    """Lines that have succeeded of the batch of this name, if there is one."""
    batches = system.http.get("/v1/batches").json()["data"]
    return sum(batch["request_counts"]["completed"] for batch in batches if batch["metadata"].get("name") == name)


def test_a_csv_file_comes_back_in_every_format(system: System, penstock: Callable[..., tuple[int, str, str]]) -> None:
    here = system.folder
    with (here / "prompts.csv").open("w", newline="") as file:
        rows = [[f"Write a haiku about\nnumber {n}", f"topic {n}"] for n in range(NUM_PROMPTS)]
        csv.writer(file).writerows([["prompt", "topic"], *rows, ["", "nothing"]])
    words = ["prompts.csv", "--keep", "topic", "--max-tokens", "6", "--name", "Haiku", "--wait", "-o", "all.jsonl"]

    status, out, err = penstock("batch", "submit", *words)

    assert status == 1, err
    assert "13 of 13 ended (12 succeeded, 1 failed)" in out
    assert "1 of 13 lines cannot run" in err
    batch_id = out.split()[0]
    found = lines_in(here / "all.jsonl")
    assert [line["penstock"]["line"] for line in found] == [*range(2, 2 + 2 * NUM_PROMPTS, 2), 2 + 2 * NUM_PROMPTS]
    assert found[-1]["error"]["message"].startswith("line 26: ")
    assert found[0]["response"]["body"]["metadata"]["topic"] == "topic 0"

    assert penstock("batch", "results", batch_id, "-o", "all.parquet")[0] == 0
    table = pyarrow.parquet.read_table(here / "all.parquet")
    assert table.column("state").to_pylist() == ["succeeded"] * NUM_PROMPTS + ["failed"]
    assert all(table.column("worker").to_pylist()[:-1])
    assert table.column("completion_tokens").to_pylist()[0] in range(1, 7)

    assert penstock("batch", "results", batch_id, "-o", "good.csv", "--errors", "bad.jsonl")[0] == 0
    assert len(list(csv.DictReader((here / "good.csv").open(newline="")))) == NUM_PROMPTS
    assert [line["custom_id"] for line in lines_in(here / "bad.jsonl")] == ["line-26"]
    _, native, _ = penstock("batch", "results", batch_id, "--order", "completion")
    assert len(native.splitlines()) == 13
    _, listed, _ = penstock("batch", "list")
    assert batch_id in listed
    assert "Haiku" in listed
    assert "1 lines failed" in penstock("batch", "status", batch_id)[2]


def test_watching_outlives_the_api_and_an_openai_file_keeps_its_shape(
    system: System, penstock: Callable[..., tuple[int, str, str]], start: Callable[..., subprocess.Popen[str]]
) -> None:
    api = system.roles[0]
    body = {"model": system.settings.model_name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40}
    line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    file = system.folder / "openai.jsonl"
    file.write_text("".join(json.dumps({"custom_id": f"c{n}", **line}) + "\n" for n in range(60)))
    watching = start("batch", "submit", "openai.jsonl", "--wait", "--name", "watched")
    wait_until(lambda: num_completed(system, "watched"), 60)

    api.kill()
    api.restart()
    out, err = watching.communicate(timeout=COMMAND_SECONDS)

    assert watching.returncode == 0, err
    batch_id = out.split()[0]
    assert f"{batch_id} completed: 60 of 60 ended (60 succeeded)" in out
    _, text, _ = penstock("batch", "results", batch_id)
    found = [json.loads(line) for line in text.split("\n") if line]
    assert [line["custom_id"] for line in found] == [f"c{n}" for n in range(60)]
    assert {line["response"]["body"]["object"] for line in found} == {"chat.completion"}


def test_a_batch_of_which_a_line_cannot_run_may_be_refused_as_a_whole(
    system: System, penstock: Callable[..., tuple[int, str, str]]
) -> None:
    file = system.folder / "prompts.jsonl"
    file.write_text('"Fine"\n\n{"prompt": "x", "temperature": -1}\n{"prompt": \n')
    status, out, err = penstock("batch", "submit", "prompts.jsonl", "--on-invalid", "reject")
    assert (status, out.split()[1]) == (1, "failed:")
    assert "line 3: body.temperature" in err
    assert "line 4: it is not valid JSON" in err


def test_files_of_the_real_api(system: System, penstock: Callable[..., tuple[int, str, str]]) -> None:
    file = system.folder / "prompts.txt"
    file.write_text("One\n")
    assert penstock("batch", "submit", "prompts.txt", "--max-tokens", "2", "--wait")[0] == 0
    _, listed, _ = penstock("file", "list", "--json")
    files = json.loads(listed)["data"][:2]
    assert {stored["purpose"] for stored in files} == {"batch", "batch_output"}
    for stored in files:
        assert penstock("file", "get", stored["id"], "-o", "back")[0] == 0
        assert (system.folder / "back").stat().st_size == stored["bytes"]
        assert penstock("file", "delete", stored["id"])[0] == 0


def test_webhooks_of_the_real_api(system: System, penstock: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = penstock("webhook", "add", "https://1.1.1.1/hook", "--event", "job.failed")
    assert status == 0, err
    webhook_id, secret = out.split("\nsecret: ")
    assert secret.startswith("whsec_")
    assert "https://1.1.1.1/hook" in penstock("webhook", "list")[1]
    assert penstock("webhook", "deliveries", webhook_id)[0] == 0
    assert penstock("webhook", "remove", webhook_id)[0] == 0
