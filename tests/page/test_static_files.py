"""The page's files as they lie: whole, small, and none of them speaks of another host or of markup from strings."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from api.page import STATIC

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(STATIC.rglob("*.js"))
IMPORT = re.compile(r'^import (?:\{(?P<names>[^}]+)\}|\* as \w+) from "(?P<path>[^"]+)";$', re.MULTILINE)
MARKUP = (
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "document.write",
    "DOMParser",
    "eval(",
    "new Function",
    "srcdoc",
)
MAX_BYTES = 300_000


def test_every_import_names_something_that_its_file_exports() -> None:
    assert [fault for script in SCRIPTS for fault in _faults(script)] == []


def _faults(script: Path) -> Iterator[str]:
    for found in IMPORT.finditer(script.read_text()):
        target = (script.parent / found["path"]).resolve()
        exported = target.read_text() if target.is_file() else ""
        for name in (found["names"] or "show").split(","):
            if not re.search(rf"export (async )?(function|const|class) {name.split(' as ')[0].strip()}\b", exported):
                yield f"{script.name}: {name} of {found['path']}"


def test_no_script_makes_markup_of_a_string_or_names_another_host() -> None:
    for script in SCRIPTS:
        text = script.read_text()
        assert [word for word in MARKUP if word in text] == []
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}
    for sheet in STATIC.rglob("*.css"):
        assert set(re.findall(r'url\("([^"]+)"\)', sheet.read_text())) <= {
            "/page/fonts/inter.woff2",
            "/page/fonts/jetbrains-mono.woff2",
        }


def test_every_script_says_what_it_owns() -> None:
    assert [script.name for script in SCRIPTS if not script.read_text().startswith("// ")] == []


def test_the_package_carries_every_file_of_the_page() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = setuptools["package-data"]["api.page"]
    files = [path.relative_to(STATIC.parent) for path in STATIC.rglob("*") if path.is_file()]
    left_out = [
        str(path)
        for path in files
        if not any(len(path.parts) == pattern.count("/") + 1 and fnmatch(str(path), pattern) for pattern in patterns)
    ]
    assert left_out == []
    assert "api.page" in setuptools["packages"]


def test_the_whole_page_is_small() -> None:
    assert sum(path.stat().st_size for path in STATIC.rglob("*") if path.is_file()) < MAX_BYTES
