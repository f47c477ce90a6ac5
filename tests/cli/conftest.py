"""What the command line's tests need: a fake API, and `penstock` as a call."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli import screen
from cli.main import main
from tests.support.fake_api import FakeAPI, fake_api


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


@pytest.fixture
def server() -> Iterator[FakeAPI]:
    with fake_api() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that nobody else uses."""
    folder = tmp_path / "home"
    monkeypatch.setenv("PENSTOCK_HOME", str(folder))
    return folder


@pytest.fixture
def penstock(
    home: Path, server: FakeAPI, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., Said]:
    """Run a command against the fake API."""
    monkeypatch.setenv("PENSTOCK_API", server.url)

    def run(*words: str, stdin: str = "") -> Said:
        monkeypatch.setattr(sys, "argv", ["penstock", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        monkeypatch.setattr(screen.out, "_file", None)
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        out, err = capsysbinary.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else int(bool(code)), out.decode(), err.decode())

    return run
