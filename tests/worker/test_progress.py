"""Progress: a bar for a terminal, a line now and then for a log."""

from __future__ import annotations

import logging

import pytest

from worker import progress
from worker.progress import Meter, loading


def test_without_a_terminal_lines_come_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "penstock.progress")
    with Meter("Downloading x", 200.0, terminal=False) as meter:
        meter.advance(50)
        assert caplog.messages == ["Downloading x …"], "not yet time for a line"
        monkeypatch.setattr(meter, "_next_line_at", 0.0)
        meter.advance(50)
        meter.advance(50)
    assert caplog.messages == ["Downloading x …", "Downloading x: 50 %", "Downloading x: done"]


def test_a_size_that_nobody_told_is_counted_in_bytes(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "penstock.progress")
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with Meter("Downloading x", None, terminal=False) as meter:
        meter.reach(3 * 2**20)
    assert "Downloading x: 3 MiB" in caplog.messages


def test_a_failure_is_not_called_done(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "penstock.progress")
    with pytest.raises(OSError, match="cut"), Meter("Downloading x", 1.0, terminal=False):
        raise OSError("cut")
    assert caplog.messages == ["Downloading x …"]


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with Meter("Downloading x", 2.0**20, terminal=True) as meter:
        meter.advance(2.0**20)
    assert "Downloading x" in capsys.readouterr().err


def test_a_load_reports_a_fraction() -> None:
    meter, report = loading("Loading x")
    with meter:
        report(0.5)
    assert meter._done == 0.5
