"""batch results: every line once, in any order and format, across broken connections and while the batch runs."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

from cli.batch_results import COLUMNS, ResultLine, in_input_order, row
from tests.cli.conftest import Said
from tests.support.fake_api import FakeAPI
from tests.support.fake_batches import TEXT

Penstock = Callable[..., Said]
NUM_LINES = 40
BAD = {3, 17}


@pytest.fixture
def batch(penstock: Penstock, server: FakeAPI, tmp_path: Path) -> str:
    """A batch whose lines ended in the opposite order, two of them badly."""
    server.bad_lines = BAD
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"Prompt {n}\n" for n in range(NUM_LINES)))
    return penstock("batch", "submit", str(file)).out.strip()


def numbers(text: str) -> list[int]:
    return [json.loads(line)["penstock"]["line"] for line in text.split("\n")[:-1]]


def test_every_line_is_there_once_in_the_order_of_the_input(penstock: Penstock, batch: str) -> None:
    said = penstock("batch", "results", batch)
    assert numbers(said.out) == list(range(1, NUM_LINES + 1))
    assert json.loads(said.out.split("\n")[2])["error"]["code"] == "out_of_memory"
    assert "2 of 40 lines did not succeed: they are there, each with its `error`" in said.err


def test_completion_order_is_the_files_own_failed_lines_last(penstock: Penstock, batch: str) -> None:
    found = numbers(penstock("batch", "results", batch, "--order", "completion").out)
    assert found == [n for n in range(NUM_LINES, 0, -1) if n not in BAD] + [17, 3]


def test_failed_lines_can_go_to_a_file_of_their_own(penstock: Penstock, batch: str, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    said = penstock("batch", "results", batch, "-o", str(good), "--errors", str(bad))
    assert numbers(bad.read_text()) == [3, 17]
    assert len(numbers(good.read_text())) == NUM_LINES - 2
    assert f"38 results in {good}; 2 of 40 lines did not succeed: they are in {bad}" in said.err.replace("\n", " ")


def test_a_download_goes_on_where_it_broke(penstock: Penstock, server: FakeAPI, batch: str) -> None:
    server.cuts = [("GET", 700), ("GET", 1), ("GET", 5000)]
    whole = penstock("batch", "results", batch, "--order", "completion").out
    assert sorted(numbers(whole)) == list(range(1, NUM_LINES + 1))
    ranges = [headers.get("Range") for path, headers, _ in server.seen if path.endswith("/content")]
    assert ranges[1:4] == ["bytes=700-", "bytes=701-", "bytes=5701-"]


def test_a_running_batch_gives_what_there_is_and_says_so(penstock: Penstock, server: FakeAPI, batch: str) -> None:
    server.batches[batch] |= {"status": "in_progress", "error_file_id": None}
    said = penstock("batch", "results", batch)
    assert len(numbers(said.out)) == NUM_LINES - 2
    assert "the batch is in_progress, so this is not all: 40 lines in the end" in said.err


def test_csv_has_a_row_for_every_line(penstock: Penstock, batch: str, tmp_path: Path) -> None:
    said = penstock("batch", "results", batch, "-o", str(tmp_path / "out.csv"))
    assert said.status == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert len(rows) == NUM_LINES
    assert rows[0] == {
        "custom_id": "line-1",
        "line": "1",
        "state": "succeeded",
        "completion": TEXT,
        "finish_reason": "stop",
        "seed": "7",
        "prompt_tokens": "3",
        "completion_tokens": "20",
        "attempt": "1",
        "worker": "w1",
        "recipe": "r1",
        "error_code": "",
        "error_message": "",
    }
    assert (rows[2]["state"], rows[2]["error_code"]) == ("failed", "out_of_memory")


def test_parquet_has_typed_columns(penstock: Penstock, batch: str, tmp_path: Path) -> None:
    assert penstock("batch", "results", batch, "-o", str(tmp_path / "out.parquet")).status == 0
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert {field.name: str(field.type) for field in table.schema} == dict(COLUMNS)
    assert table.column("line").to_pylist() == list(range(1, NUM_LINES + 1))
    assert table.column("completion").to_pylist()[2] is None
    assert table.column("seed").to_pylist() == [7] * NUM_LINES


def test_without_pyarrow_the_way_to_get_it_is_said_before_anything_is_sent(
    penstock: Penstock, server: FakeAPI, batch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    server.seen.clear()
    said = penstock("batch", "results", batch, "-o", str(tmp_path / "out.parquet"))
    assert said.status == 2
    assert "pip install 'penstock[parquet]'" in said.err
    assert not server.seen
    assert not (tmp_path / "out.parquet").exists()


def test_a_result_file_that_cannot_be_written_is_named(penstock: Penstock, batch: str) -> None:
    said = penstock("batch", "results", batch, "-o", "/no/such/folder/out.jsonl")
    assert said.status == 2
    assert "--output: cannot write" in said.err


def test_a_file_that_is_gone_leaves_no_half_result(
    penstock: Penstock, server: FakeAPI, batch: str, tmp_path: Path
) -> None:
    server.batches[batch]["output_file_id"] = "file-gone"
    said = penstock("batch", "results", batch, "-o", str(tmp_path / "out.jsonl"))
    assert said.status == 1
    assert not [path for path in tmp_path.iterdir() if "out.jsonl" in path.name]


def test_a_batch_without_files_is_read_from_its_jobs(penstock: Penstock, server: FakeAPI) -> None:
    for number in range(230):
        server.make({"metadata": {"custom_id": f"c{number}"}}, "batch_n")
    lines = penstock("batch", "results", "batch_n").out.split("\n")[:-1]
    assert [json.loads(text)["custom_id"] for text in lines] == [f"c{number}" for number in range(230)]
    table = penstock("batch", "results", "batch_n", "--format", "csv").out
    assert table.count("succeeded,") == 230


def test_a_line_that_ran_again_counts_once_and_as_it_ended_best() -> None:
    def line(number: int | None, *, succeeded: bool) -> ResultLine:
        ours = {} if number is None else {"penstock": {"line": number}}
        return ResultLine(json.dumps({"good": succeeded} | ours).encode() + b"\n", succeeded)

    given = [line(2, succeeded=True), line(None, succeeded=True), line(1, succeeded=False), line(2, succeeded=False)]
    assert list(in_input_order(given)) == [given[2], given[0], given[1]]


def test_a_row_is_read_from_every_endpoints_shape() -> None:
    chat = {"choices": [{"message": {"content": "Cold"}, "finish_reason": "length"}], "usage": {"completion_tokens": 2}}
    text = {"choices": [{"text": "Cold", "finish_reason": "length"}], "usage": {"completion_tokens": 2}}
    for body in (chat, text):
        line = {"custom_id": "a", "response": {"status_code": 200, "body": body}, "error": None}
        found = dict(zip(COLUMNS, row(ResultLine(json.dumps(line).encode(), succeeded=True)), strict=True))
        assert [found[name] for name in ("state", "completion", "finish_reason", "completion_tokens")] == [
            "succeeded",
            "Cold",
            "length",
            2,
        ]


def test_a_line_that_was_cut_short_keeps_the_text_it_had() -> None:
    ours = {"state": "expired", "completion": "Co", "usage": {"completion_tokens": 1}}
    line = {"custom_id": "\ud800", "response": None, "error": {"code": "batch_expired"}, "penstock": ours}
    found = dict(zip(COLUMNS, row(ResultLine(json.dumps(line).encode(), succeeded=False)), strict=True))
    assert (found["custom_id"], found["completion"], found["error_code"]) == ("?", "Co", "batch_expired")
