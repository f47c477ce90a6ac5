"""file upload, list, get and delete, over real HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Said
from tests.support.fake_api import FakeAPI

Penstock = Callable[..., Said]


def test_a_file_comes_back_as_it_went(penstock: Penstock, server: FakeAPI, tmp_path: Path) -> None:
    content = b'{"a": "\xc3\xa9"}\r\n--\r\n' * 20_000
    (tmp_path / 'odd "name".jsonl').write_bytes(content)
    server.cuts = [("POST", 140_000), ("GET", 100_000)]
    assert penstock("file", "upload", str(tmp_path / 'odd "name".jsonl')).out == "file-0\n"
    assert penstock("file", "get", "file-0", "-o", str(tmp_path / "back")).status == 0
    assert (tmp_path / "back").read_bytes() == content
    assert penstock("file", "get", "file-0").out.encode() == content


def test_files_are_listed_described_and_deleted(penstock: Penstock, server: FakeAPI) -> None:
    server.create_file(b"x" * 1234)
    assert "1,234" in penstock("file", "list").out
    assert '"bytes": 1234' in penstock("file", "get", "file-0", "--json").out
    assert penstock("file", "delete", "file-0").out == "file-0 deleted\n"


def test_an_unknown_or_unreadable_file_is_an_error(penstock: Penstock, tmp_path: Path) -> None:
    assert penstock("file", "get", "file-9", "-o", str(tmp_path / "out")).status == 1
    assert not (tmp_path / "out").exists()
    assert penstock("file", "upload", str(tmp_path / "missing")).status == 2
