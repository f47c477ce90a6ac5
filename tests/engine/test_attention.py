"""Penstock's own attention: built once, kept, taken where it can be had; and what is said where it cannot.

ggml never lets a plug-in go, so whatever loads one does so in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from worker.engine import attention

USE = """
import sys
from worker.engine import attention
try:
    print(attention.use(sys.argv[1]))
except attention.AttentionUnavailable as error:
    print(f"refused: {error}")
"""
INSTALL = f"""
import sys
sys.prefix = sys.argv[2]
from worker.engine import attention
if sys.argv[1] == "install":
    sys.exit(attention.main([]))
{USE}
"""
LOAD = """
import sys
from pathlib import Path
from worker.engine.model import Model, ModelLoadError, ModelOptions
try:
    Model.load(Path(sys.argv[1]), ModelOptions(slots=1, context_tokens=64, attention="penstock"))
except ModelLoadError as error:
    print(f"{error.code}: {error}")
"""
COMPARE = """
import json, sys
from pathlib import Path
import numpy as np
from worker.engine import attention
from worker.engine.model import Model, ModelOptions, Piece
level, path = sys.argv[1:]
attention._LEVELS = {level: attention._LEVELS[level]}
rows = []
for choice in ("llama.cpp", "penstock", "llama.cpp", "auto"):
    model = Model.load(Path(path), ModelOptions(slots=1, context_tokens=128, attention=choice))
    model.prefill([Piece(0, 0, list(range(300, 332)), 32)])
    logits = model.decode_lone(0, 7, 32).logits.copy()
    model.forget(0)
    devices = [device for device in model.recipe["devices"] if device.startswith("penstock: ")]
    rows.append((model.attention, devices, logits))
    model.close()
(theirs, no_device, first), (ours, device, other), (_, none_again, again), (_, _, ours_again) = rows
print(json.dumps({
    "theirs": theirs, "ours": ours, "devices": [no_device, device, none_again],
    "back": bool(np.array_equal(first, again)), "same": bool(np.array_equal(first, other)),
    "repeats": bool(np.array_equal(other, ours_again)), "close": bool(np.std(first - other) < np.std(first) / 50),
}))
"""
REFUSING = """#!/bin/sh
echo "attention.c:1: error: not today" >&2
echo "and more of it" >&2
exit 1
"""
NO_COMPILER = "there is no C compiler (install gcc)"
LEVELS_HERE = list(attention._LEVELS)[list(attention._LEVELS).index(attention.level_here()) :]


class Machine:
    """A user's cache and programs. It has no compiler before it is given one."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.programs = folder / "programs"
        self.programs.mkdir()
        plain = {name: value for name, value in os.environ.items() if name != "CC"}
        self.environment = {**plain, "XDG_CACHE_HOME": str(self.cache), "PATH": str(self.programs)}

    def give_compiler(self, text: str | None = None, name: str = "cc") -> None:
        """The real one, or a script."""
        if text is None:
            text = f'#!/bin/sh\nPATH={os.environ["PATH"]} exec {_real_compiler()} "$@"\n'
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def take_compiler(self) -> None:
        (self.programs / "cc").unlink()

    def start(self, script: str, *words: object, umask: int = -1) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, *map(str, words)]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, text=True, umask=umask)

    def says(self, script: str, *words: object, umask: int = -1) -> str:
        process = self.start(script, *words, umask=umask)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        return said.strip()

    def look(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "worker.engine.attention", "look"]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    def built(self) -> list[Path]:
        return sorted(self.cache.rglob("*.so"))


def _real_compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert found, "the engine is built by a C compiler, and so is its attention"
    return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(scope="module")
def built_machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """One where a worker has started before, and whose compiler is gone since."""
    made = Machine(tmp_path_factory.mktemp("built"))
    made.give_compiler()
    assert made.says(USE, "penstock").startswith("penstock attention/")
    made.take_compiler()
    return made


def test_without_a_compiler_llama_cpps_attention_stays_and_it_is_said_why(machine: Machine) -> None:
    assert machine.says(USE, "auto") == f"llama.cpp: {NO_COMPILER}"
    assert machine.says(USE, "penstock") == f"refused: {NO_COMPILER}"


def test_a_model_that_must_have_ours_is_not_loaded_without_it(machine: Machine, tiny_model_path: Path) -> None:
    said = machine.says(LOAD, tiny_model_path)
    assert said == f"attention_unavailable: Penstock's own attention cannot be had: {NO_COMPILER}"


def test_a_compiler_that_fails_is_quoted_by_its_first_line(machine: Machine) -> None:
    machine.give_compiler(REFUSING)
    assert machine.says(USE, "auto") == "llama.cpp: cc cannot build it: attention.c:1: error: not today"
    assert machine.built() == []


def test_a_compiler_can_be_named_with_words_of_its_own(machine: Machine) -> None:
    machine.give_compiler('#!/bin/sh\necho "told $1" >&2\nexit 1\n', name="mine")
    machine.environment["CC"] = "mine --quick"
    assert machine.says(USE, "auto") == "llama.cpp: mine cannot build it: told --quick"


def test_a_message_of_the_compiler_names_no_folder_of_this_machine(machine: Machine) -> None:
    machine.give_compiler('#!/bin/sh\necho "$@" >&2\nexit 1\n')
    words = machine.says(USE, "auto").split()
    assert {"attention.c", "plugin.c"} <= set(words)


def test_a_cache_that_cannot_be_written_is_named(machine: Machine) -> None:
    machine.give_compiler()
    machine.cache.write_text("a file where a folder should be")
    said = machine.says(USE, "auto")
    assert said.startswith(f"llama.cpp: it cannot be built in {machine.cache}/penstock/attention (")


def test_a_processor_without_the_instructions_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_LEVELS", {"x86-64-v9": frozenset(("no-such-instruction",))})
    with pytest.raises(attention.AttentionUnavailable, match="no AVX2"):
        attention.level_here()


def test_a_second_start_builds_nothing(built_machine: Machine) -> None:
    (before,) = built_machine.built()
    stamp = before.stat()
    assert built_machine.says(USE, "auto").startswith(f"penstock attention/1 {attention.level_here()}")
    (after,) = built_machine.built()
    assert (after, after.stat().st_ino, after.stat().st_mtime_ns) == (before, stamp.st_ino, stamp.st_mtime_ns)


def test_who_asks_for_llama_cpps_gets_it_and_nothing_is_built(machine: Machine) -> None:
    machine.give_compiler()
    assert machine.says(USE, "llama.cpp") == "llama.cpp"
    assert not machine.cache.exists()


def test_an_installed_one_is_taken_without_a_compiler_and_without_a_cache(machine: Machine, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    machine.give_compiler()
    paths = [Path(line) for line in machine.says(INSTALL, "install", prefix, umask=0o077).splitlines()]
    assert {path.parent for path in paths} == {prefix / "lib" / "penstock"}
    assert [path.stem.partition("x86-64")[1:] for path in paths] == [("x86-64", "-v4"), ("x86-64", "-v3")]
    assert all(path.stat().st_mode & 0o005 == 0o005 for path in (paths[0].parent, *paths)), "another user runs it"
    machine.take_compiler()
    assert machine.says(INSTALL, "penstock", prefix).startswith("penstock attention/")
    assert not machine.cache.exists()


def test_an_image_for_another_processor_is_built_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert attention.main([]) == 0
    assert capsys.readouterr().out == "Nothing is built: it is written for x86-64 and Linux.\n"
    assert list((tmp_path / "lib" / "penstock").iterdir()) == []


def test_another_source_and_another_ggml_are_files_of_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native, headers = tmp_path / "native", tmp_path / "include"
    shutil.copytree(attention._NATIVE, native)
    headers.mkdir()
    for name in attention._HEADERS:
        shutil.copy(attention._include() / name, headers)
    first = attention._file_name("x86-64-v3")
    monkeypatch.setattr(attention, "_NATIVE", native)
    monkeypatch.setattr(attention, "_include", lambda: headers)
    assert attention._file_name("x86-64-v3") == first, "what is the same is found again, wherever it lies"
    (native / "attention.c").write_text((native / "attention.c").read_text() + "\n")
    other_source = attention._file_name("x86-64-v3")
    (headers / "ggml.h").write_text((headers / "ggml.h").read_text() + "\n")
    other_ggml = attention._file_name("x86-64-v3")
    assert len({first, other_source, other_ggml, attention._file_name("x86-64-v4")}) == 4
    (headers / "ggml.h").unlink()
    with pytest.raises(attention.AttentionUnavailable, match=r"came without ggml\.h"):
        attention._file_name("x86-64-v3")


def test_two_that_build_at_once_leave_one_whole_file(machine: Machine, tmp_path: Path) -> None:
    arrived, go = tmp_path / "arrived", tmp_path / "go"
    os.mkfifo(arrived)
    os.mkfifo(go)
    wait = f"echo here > {arrived}; read _ < {go}"
    machine.give_compiler(f'#!/bin/sh\n{wait}\nPATH={os.environ["PATH"]} exec {_real_compiler()} "$@"\n')
    ends = [os.open(path, os.O_RDWR) for path in (arrived, go)]
    both = [machine.start(USE, "penstock") for _ in range(2)]
    heard = b""
    while heard.count(b"\n") < 2:
        heard += os.read(ends[0], 64)
    os.write(ends[1], b"now\nnow\n")
    said = [process.communicate(timeout=60)[0] for process in both]
    for end in ends:
        os.close(end)
    assert all(text.startswith("penstock attention/") for text in said)
    (made,) = (machine.cache / "penstock" / "attention").iterdir()
    machine.take_compiler()
    assert (made.suffix, machine.says(USE, "penstock")) == (".so", said[0].strip())


@pytest.mark.parametrize("level", LEVELS_HERE)
def test_the_recipe_and_the_bits_follow_the_choice(machine: Machine, tiny_model_path: Path, level: str) -> None:
    machine.give_compiler()
    found = json.loads(machine.says(COMPARE, level, tiny_model_path))
    assert found["theirs"] == "llama.cpp"
    assert found["ours"].startswith(f"penstock attention/1 {level}, compiler ")
    no_device, device, none_again = found["devices"]
    assert (no_device, none_again) == ([], []), "a recipe of llama.cpp's attention does not know ours"
    assert device == [found["ours"].replace("penstock ", "penstock: ", 1)]
    assert found["close"]
    assert not found["same"]
    assert found["back"], "llama.cpp's bits are back"
    assert found["repeats"], "and ours after them"


def test_a_look_tells_what_a_worker_would_find_and_builds_nothing(machine: Machine, built_machine: Machine) -> None:
    without = machine.look()
    assert (without.returncode, without.stderr.strip()) == (1, NO_COMPILER)
    machine.give_compiler()
    level = attention.level_here()
    before = machine.look()
    expected = f"{level}; the first start of a worker builds it with cc, in {machine.cache}/penstock/attention"
    assert (before.returncode, before.stdout.strip()) == (0, expected)
    assert not machine.cache.exists()
    after = built_machine.look()
    assert after.stdout.strip() == f"{level}, in {built_machine.cache}/penstock/attention"


def test_a_look_sees_a_cache_that_cannot_be_written(machine: Machine) -> None:
    machine.give_compiler()
    machine.cache.write_text("a file where a folder should be")
    found = machine.look()
    assert (found.returncode, found.stderr.strip()) == (
        1,
        f"it cannot be built in {machine.cache}/penstock/attention ({machine.cache} cannot be written)",
    )
