"""The site is built strictly, as CI builds it, and needs nothing from elsewhere to be read."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ops.docs.pages import write_pages
from tests.docs.blocks import ROOT

_LOADED = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=["']?(?P<url>(?:https?:)?//[^"'\s>]+)"""
)
_IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?(?P<url>(?:https?:)?//[^"')\s]+)""")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the site in `build/site`, made from a copy of the pages."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", folder)
    write_pages(folder / "build" / "docs")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    builder = Path(sys.executable).with_name("zensical")
    command = [builder, "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_every_page_is_built(built: Path) -> None:
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not (built / "build" / "site" / page).exists()} == set()


def test_nothing_is_loaded_from_elsewhere(built: Path) -> None:
    site = built / "build" / "site"
    found = {
        (file.name, match["url"])
        for pattern, suffix in ((_LOADED, ".html"), (_IN_STYLE, ".css"), (_IN_STYLE, ".html"))
        for file in site.rglob(f"*{suffix}")
        for match in pattern.finditer(file.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_a_broken_link_is_an_error(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "again")
    page = tmp_path / "again" / "build" / "docs" / "index.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n[nowhere](how-to/nowhere.md)\n", encoding="utf-8")
    assert build(tmp_path / "again").returncode != 0


def test_made_parts_are_on_the_pages(built: Path) -> None:
    page = (built / "build" / "site" / "reference" / "settings.html").read_text(encoding="utf-8")
    assert "PENSTOCK_LEASE_SECONDS" in page
