"""batch submit, status, watch, list, cancel and retry, over real HTTP."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cli import batch_sending, progress, screen
from cli.batch_words import eta_of, pace_of
from tests.cli.conftest import Said
from tests.support.fake_api import FakeAPI
from tests.support.services import wait_until

ROOT = Path(__file__).parents[2]

Penstock = Callable[..., Said]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A file of five prompts."""
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Prompt {n}", "metadata": {"n": str(n)}}) + "\n" for n in range(5)))
    return file


def posted(server: FakeAPI, path: str) -> list[tuple[dict[str, str], Any]]:
    return [(headers, body) for asked, headers, body in server.seen if asked == path and body is not None]


def test_submit_uploads_lines_starts_a_batch_and_prints_its_id(
    penstock: Penstock, server: FakeAPI, prompts: Path
) -> None:
    said = penstock("batch", "submit", str(prompts))
    assert (said.status, said.out) == (0, "batch_0\n")
    lines = [json.loads(line) for line in server.files["file-0"].splitlines()]
    assert [line["body"]["prompt"] for line in lines] == [f"Prompt {n}" for n in range(5)]
    assert posted(server, "/v1/batches")[0][1] == {
        "input_file_id": "file-0",
        "endpoint": "/v1/jobs",
        "metadata": {},
    }


def test_what_was_typed_reaches_the_batch(penstock: Penstock, server: FakeAPI, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("q,topic\nWhy?,ice\n")
    words = "--column q --keep topic --window 90m --name Night --metadata a=b --on-invalid reject --weight 2"
    assert penstock("batch", "submit", str(tmp_path / "p.csv"), *words.split(), "--temperature", "0").status == 0
    (line,) = [json.loads(line) for line in server.files["file-0"].split(b"\n") if line]
    assert line["body"] == {
        "temperature": 0.0,
        "messages": [{"role": "user", "content": "Why?"}],
        "metadata": {"topic": "ice"},
    }
    batch = posted(server, "/v1/batches")[0][1]
    assert batch["completion_window"] == "90m"
    assert batch["metadata"] == {"a": "b", "name": "Night", "on_invalid": "reject", "weight": "2"}


def test_an_upload_that_breaks_starts_again_under_the_same_key(
    penstock: Penstock, server: FakeAPI, prompts: Path
) -> None:
    prompts.write_text("".join(json.dumps({"prompt": "x" * 1000}) + "\n" for _ in range(300)))
    server.cuts = [("POST", 1), ("POST", 200_000)]
    assert penstock("batch", "submit", str(prompts)).status == 0
    assert len(server.files["file-0"].splitlines()) == 300
    assert len(server.batches) == 1


def test_a_reply_that_is_lost_makes_no_second_file_and_no_second_batch(
    penstock: Penstock, server: FakeAPI, prompts: Path
) -> None:
    for num_lost in (1, 2):
        server.lost_replies = num_lost
        assert penstock("batch", "submit", str(prompts)).status == 0
    uploads, starts = posted(server, "/v1/files"), posted(server, "/v1/batches")
    assert len({headers["Idempotency-Key"] for headers, _ in uploads}) == 2
    assert len({headers["Idempotency-Key"] for headers, _ in starts}) == 2
    assert len(uploads) + len(starts) == 7
    assert len(server.batches) == 2


def test_an_api_that_asks_for_patience_gets_it(penstock: Penstock, server: FakeAPI, prompts: Path) -> None:
    server.refusals.append((503, {}))
    assert penstock("batch", "submit", str(prompts)).status == 0
    assert len(server.batches) == 1


def test_a_refused_upload_says_why(penstock: Penstock, server: FakeAPI, prompts: Path) -> None:
    server.refusals.append((413, {"error": {"message": "file: too large.", "type": "x", "param": "file", "code": "y"}}))
    said = penstock("batch", "submit", str(prompts))
    assert (said.status, said.out) == (1, "")
    assert "file: too large." in said.err


def test_a_batch_that_is_refused_as_a_whole_lists_its_errors(
    penstock: Penstock, server: FakeAPI, prompts: Path
) -> None:
    server.status, server.errors = "failed", [{"message": f"line {n}: no."} for n in range(1, 13)]
    said = penstock("batch", "submit", str(prompts))
    assert said.status == 1
    assert "line 10: no." in said.err
    assert "and 2 more" in said.err
    assert penstock("batch", "results", "batch_0").status == 1


def test_lines_for_another_endpoint_are_told(penstock: Penstock, server: FakeAPI, prompts: Path) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}
    prompts.write_text(prompts.read_text() + json.dumps(line) + "\n")
    said = penstock("batch", "submit", str(prompts), "--max-tokens", "5")
    assert "1 lines are not for /v1/jobs" in said.err
    assert "1 lines are OpenAI lines" in said.err


def test_lines_that_cannot_run_are_counted_at_once(penstock: Penstock, server: FakeAPI, prompts: Path) -> None:
    server.num_invalid = 2
    said = penstock("batch", "submit", str(prompts))
    assert said.status == 0
    assert "2 of 9 lines cannot run: they will end in the error file" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "x.jsonl"], "--output: only together with --wait"),
        (["--temperature", "-1"], "--temperature"),
        (["--on-invalid", "ignore"], "--on-invalid: only `reject`"),
        (["--column", "q"], "only for CSV"),
        (["--name", "a", "--metadata", "name=b"], "also given as --name"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_sent(
    penstock: Penstock, server: FakeAPI, prompts: Path, words: list[str], said: str
) -> None:
    heard = penstock("batch", "submit", str(prompts), *words)
    assert heard.status == 2
    assert said in heard.err
    assert not server.seen


def test_an_empty_or_missing_file_is_named(penstock: Penstock, server: FakeAPI, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    for name in ("empty.jsonl", "missing.jsonl"):
        said = penstock("batch", "submit", str(tmp_path / name))
        assert said.status == 2
        assert name in said.err
    assert not server.seen


def test_a_file_that_turns_out_to_be_none_makes_nothing(penstock: Penstock, server: FakeAPI, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"fine\n" * 5 + b"\xff\n")
    said = penstock("batch", "submit", str(tmp_path / "p.txt"))
    assert said.status == 2
    assert "line 6 is not UTF-8" in said.err
    assert not server.files


def test_standard_input_is_a_file_too(penstock: Penstock, server: FakeAPI) -> None:
    server.cuts = [("POST", 1)]
    assert penstock("batch", "submit", "-", "--format", "text", stdin="One\nTwo\n").status == 0
    assert len(server.files["file-0"].splitlines()) == 2


def test_wait_ends_with_the_batch_and_writes_results(penstock: Penstock, prompts: Path, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    said = penstock("batch", "submit", str(prompts), "--wait", "-o", str(results))
    assert said.status == 0
    assert "batch_0 completed: 5 of 5 ended (5 succeeded)" in said.out
    lines = [json.loads(text) for text in results.read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == [f"line-{n}" for n in range(1, 6)]


def test_wait_fails_when_a_line_did(penstock: Penstock, server: FakeAPI, prompts: Path) -> None:
    server.bad_lines = {2}
    said = penstock("batch", "submit", str(prompts), "--wait")
    assert said.status == 1
    assert "1 of 5 lines did not succeed" in said.err
    assert "penstock batch retry batch_0" in said.err


def test_status_and_watch_say_how_far_it_is(penstock: Penstock, server: FakeAPI) -> None:
    server.make({}, "batch_1")
    for word in ("status", "watch"):
        assert penstock("batch", word, "batch_1").out == "batch_1 completed: 1 of 1 ended (1 succeeded)\n"


def test_status_says_how_fast_it_goes_and_what_failed(penstock: Penstock, server: FakeAPI, prompts: Path) -> None:
    server.status, server.bad_lines = "in_progress", {1}
    server.pace = {"lines_per_second": 12.5, "tokens_per_second": 1310.4, "eta_seconds": {"p50": 70, "p90": 100.4}}
    penstock("batch", "submit", str(prompts))
    said = penstock("batch", "status", "batch_0")
    assert said.out.splitlines()[1] == "12.5 lines/s · 1,310 tokens/s · ETA 0:01:10 – 0:01:40"
    assert "1 lines failed: `penstock batch results batch_0 --errors FILE`" in said.err


def test_watch_waits_for_an_api_that_starts_again(penstock: Penstock, server: FakeAPI, prompts: Path) -> None:
    penstock("batch", "submit", str(prompts))
    server.refusals = [(503, {}), (502, {})]
    assert penstock("batch", "watch", "batch_0").status == 0


def test_list_cancel_and_retry(penstock: Penstock, server: FakeAPI, prompts: Path) -> None:
    server.bad_lines = {1}
    penstock("batch", "submit", str(prompts), "--name", "Night run")
    assert "Night run" in penstock("batch", "list").out
    assert "batch_0 cancelling" in penstock("batch", "cancel", "batch_0").out
    assert "batch_0 in_progress" in penstock("batch", "retry", "batch_0").out


def test_ctrl_c_stops_watching_and_leaves_the_batch_alone(penstock: Penstock, server: FakeAPI, prompts: Path) -> None:
    server.status = "in_progress"
    penstock("batch", "submit", str(prompts))
    server.seen.clear()
    words = [sys.executable, "-m", "cli", "batch", "watch", "batch_0", "--api", server.url]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watching:
        wait_until(lambda: len(server.seen) > 1)
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert "the batch goes on: `penstock batch watch batch_0`" in said
    assert {path for path, _, _ in server.seen} == {"/v1/batches/batch_0"}
    server.batches["batch_0"]["status"] = "completed"
    assert penstock("batch", "watch", "batch_0").status == 0


def test_ctrl_c_while_sending_says_that_nothing_was_submitted(
    penstock: Penstock, server: FakeAPI, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(batch_sending, "upload", stopped)
    said = penstock("batch", "submit", str(prompts))
    assert said.status == 130
    assert "nothing was submitted" in said.err


def test_the_bar_shows_lines_tokens_and_a_range_for_the_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "err", Console(stderr=True, width=160, force_terminal=True, color_system=None))
    batch = {"lines_per_second": 2.0, "tokens_per_second": 80.0, "eta_seconds": {"p50": 90_000, "p90": None}}
    with progress.generating() as bars:
        bars.add_task("Generating", total=10, completed=4, pace=pace_of(batch), eta=eta_of(batch))
    shown = capsys.readouterr().err
    assert "4/10" in shown
    assert "2.0 lines/s · 80 tokens/s" in shown
    assert "ETA 1 d 1:00:00" in shown


@pytest.mark.parametrize("command", [["batch", "submit"], ["submit"]])
def test_help_shows_every_default(penstock: Penstock, command: list[str]) -> None:
    said = penstock(*command, "--help").out
    assert said.count("(off)") == 3
    assert "(drawn)" in said
