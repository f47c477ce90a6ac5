"""Who may import whom: DESIGN's table, as `.importlinter` and one rule about files that no contract can state."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAY_IMPORT_LLAMA = {f"worker/engine/{name}.py" for name in ("attention", "grammar", "machine", "model", "vocabulary")}
ROOMS = ("api", "cli", "jobs", "worker")


def test_every_contract_is_kept() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_few_files_call_llama_cpp() -> None:
    pattern = re.compile(r"^\s*(import|from) llama_cpp\b", re.MULTILINE)
    files = (file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
    callers = {str(file.relative_to(ROOT)) for file in files if pattern.search(file.read_text(encoding="utf-8"))}
    assert callers <= MAY_IMPORT_LLAMA


def test_nobody_imports_ops() -> None:
    pattern = re.compile(r"^\s*(import|from) ops\b", re.MULTILINE)
    files = (file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
    assert not [file for file in files if pattern.search(file.read_text(encoding="utf-8"))]
