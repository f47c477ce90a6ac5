"""`make demo`, run as a newcomer runs it; and what it does when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli import demo
from cli.demo import DemoFailed, check_results, write_prompts

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 240


def test_it_shows_a_haiku_a_batch_and_the_rows_and_stops() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli.demo"], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "50 of 50 ended (50 succeeded)" in done.stdout
    assert done.stdout.count("job_") == demo.ROWS_SHOWN
    assert "Everything has stopped." in done.stdout


def test_a_system_that_does_not_start_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "python", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    assert demo.main() == 1
    assert "ended before it was ready (exit status 3)" in capfd.readouterr().out


def test_logs_of_a_failed_demo_are_shown(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "worker-1.log").write_text("[loading] no memory\n")
    demo.print_logs(tmp_path)
    assert "[loading] no memory" in capfd.readouterr().out


def test_a_prompt_without_a_stored_generation_fails_it(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps({"penstock": {"state": "succeeded", "seed": 1}}) + "\n" for _ in range(49)))
    with pytest.raises(DemoFailed, match="49 of 50"):
        check_results(results)


def test_it_sends_fifty_prompts(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl")
    assert len((tmp_path / "prompts.jsonl").read_text().splitlines()) == demo.NUM_PROMPTS
