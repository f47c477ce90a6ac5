"""batch submit, status, results and cancel, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import batch_commands
from cli.batch_commands import chunks
from tests.cli.conftest import Said
from tests.support.fake_api import TEXT, FakeAPI

Penstock = Callable[..., Said]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A file of five prompts."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Prompt {n}", "metadata": {"n": str(n)}}) + "\n" for n in range(5)))
    return file


def test_submit_prints_the_batch_id(penstock: Penstock, prompts: Path) -> None:
    said = penstock("batch", "submit", str(prompts))
    assert (said.status, said.out) == (0, "batch_1\n")


def test_later_chunks_name_the_batch_and_carry_keys_of_their_own(
    penstock: Penstock, server: FakeAPI, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_commands, "MAX_CHUNK_JOBS", 2)
    assert penstock("batch", "submit", str(prompts)).status == 0
    posts = [(headers["Idempotency-Key"], body) for _, headers, body in server.seen if body]
    assert [len(body["jobs"]) for _, body in posts] == [2, 2, 1]
    assert [body.get("batch_id") for _, body in posts] == [None, "batch_1", "batch_1"]
    assert len({key for key, _ in posts}) == 3


def test_a_chunk_that_is_sent_again_makes_no_second_job(penstock: Penstock, server: FakeAPI, prompts: Path) -> None:
    server.refusals.append((503, {}))
    assert penstock("batch", "submit", str(prompts)).status == 0
    assert len(server.jobs) == 5


def test_a_bad_line_is_named_and_nothing_is_sent(penstock: Penstock, server: FakeAPI, prompts: Path) -> None:
    prompts.write_text(prompts.read_text() + '{"prompt": "x", "temperature": -1}\n{}\n')
    said = penstock("batch", "submit", str(prompts))
    assert said.status == 2
    assert "2 of 7 lines" in said.err
    assert "line 6: temperature" in said.err
    assert not server.seen


def test_an_empty_or_missing_file_is_named(penstock: Penstock, server: FakeAPI, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    for name in ("empty.jsonl", "missing.jsonl"):
        said = penstock("batch", "submit", str(tmp_path / name))
        assert said.status == 2
        assert name in said.err
    assert not server.seen


def test_standard_input_is_a_file_too(penstock: Penstock, server: FakeAPI) -> None:
    assert penstock("batch", "submit", "-", stdin='"One"\n"Two"\n').status == 0
    assert len(server.jobs) == 2


def test_wait_ends_with_the_batch_and_writes_results(penstock: Penstock, prompts: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    said = penstock("batch", "submit", str(prompts), "--wait", "-o", str(results))
    assert said.status == 0
    assert "batch_1 completed: 5 of 5 ended (5 succeeded)" in said.out
    lines = [json.loads(text) for text in results.read_text().splitlines()]
    assert [result["metadata"]["n"] for result in lines] == ["0", "1", "2", "3", "4"]
    assert lines[0]["completion"] == TEXT
    assert lines[0]["seed"] == 7


def test_wait_fails_when_a_job_did(penstock: Penstock, server: FakeAPI, prompts: Path) -> None:
    server.end_state = "failed"
    said = penstock("batch", "submit", str(prompts), "--wait")
    assert said.status == 1
    assert "5 of 5 jobs did not succeed" in said.err


def test_results_come_in_the_order_of_the_file_over_pages(penstock: Penstock, server: FakeAPI) -> None:
    for number in range(230):
        server.make({"metadata": {"custom_id": f"c{number}"}}, "batch_1")
    lines = penstock("batch", "results", "batch_1").out.split("\n")[:-1]
    assert [json.loads(text)["custom_id"] for text in lines] == [f"c{number}" for number in range(230)]
    assert "metadata" not in json.loads(lines[0])


def test_a_result_file_that_cannot_be_written_is_named(penstock: Penstock, server: FakeAPI) -> None:
    server.make({}, "batch_1")
    said = penstock("batch", "results", "batch_1", "-o", "/no/such/folder/out.jsonl")
    assert said.status == 2
    assert "--output" in said.err


def test_status_and_watch_say_how_far_it_is(penstock: Penstock, server: FakeAPI) -> None:
    server.make({}, "batch_1")
    for word in ("status", "watch"):
        assert penstock("batch", word, "batch_1").out == "batch_1 completed: 1 of 1 ended (1 succeeded)\n"


def test_chunks_keep_within_the_size_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_commands, "MAX_CHUNK_BYTES", 100)
    sizes = [len(chunk) for chunk in chunks({"prompt": "x" * 30} for _ in range(5))]
    assert sizes == [2, 2, 1]
