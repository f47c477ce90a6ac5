"""Our own attention for llama.cpp on processors: C code in `native/`, built once and loaded as a plug-in of ggml.

llama.cpp asks its plug-ins for each operation of a step whether they do it; ours does one, attention over half floats
in memory, and gives a row the same bits whatever stands beside it (`native/attention.c`). It is built by the compiler
that built llama-cpp-python, for the instructions of this processor, and kept: in the installation, where an image
brings it, or in the user's cache. Without one (no compiler, another processor) llama.cpp's own attention stays.

Knows compilers and files; of llama.cpp the way to load a plug-in only. One process has one attention at a time.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import llama_cpp

Choice = Literal["auto", "penstock", "llama.cpp"]
"""`auto`: ours where it can be had. `penstock`: ours, or no start. `llama.cpp`: its own."""

THEIRS = "llama.cpp"
DEVICE = "penstock"
"""Under which name ggml lists the plug-in among its devices."""

_NATIVE = Path(__file__).parent / "native"
_SOURCES = ("attention.c", "draw.c", "plugin.c")
_HEADERS = ("ggml.h", "ggml-backend.h", "ggml-cpu.h")
_FLAGS = ("-std=gnu11", "-O3", "-fopenmp", "-fPIC", "-shared", "-fvisibility=hidden")
_LEVELS = {
    "x86-64-v4": frozenset(("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
    "x86-64-v3": frozenset(("avx2", "bmi1", "bmi2", "f16c", "fma")),
}
"""What is built for, the best first: a name that compilers know, and the processor's flags it asks for."""

_FOR_EVERY_USER = 0o755
"""Of what is installed, whatever the umask of who installs it: a worker is another user."""

_ELSEWHERE = "it is written for x86-64 and Linux"

_library = llama_cpp.llama_cpp._lib
_loaded: ctypes.CDLL | None = None


class AttentionUnavailable(Exception):
    """Our attention cannot be had here; the text says why, and what to do."""


def use(choice: Choice) -> str:
    """Decide whose attention contexts made from now on have. Returns whose: `penstock …` with its build, or
    `llama.cpp`, with the reason where that was not asked for.

    Raises AttentionUnavailable for `penstock` where it cannot be had.
    """
    if choice == "llama.cpp":
        _switch(on=False)
        return THEIRS
    try:
        _load()
    except AttentionUnavailable as error:
        if choice == "penstock":
            raise
        return f"{THEIRS}: {error}"
    _switch(on=True)
    return f"{DEVICE} {_build_of(_loaded)}"


def is_used() -> bool:
    """Whether contexts made now have our attention."""
    return _loaded is not None and bool(_loaded.penstock_attention_is_on())


def has_declined() -> bool:
    """Whether a model whose context was made since `use` has attention that ours does not do: heads of more than 256
    numbers or of no whole 16, a cap on scores, sinks. llama.cpp does it then, and nobody can tell the two apart."""
    return _loaded is not None and bool(_loaded.penstock_attention_has_declined())


def step_back(choice: Choice) -> str:
    """Leave all of such a model to llama.cpp: with ours for some layers its recipe would be one that nobody named.
    Returns whose it is, as `use` does. Raises AttentionUnavailable for `penstock`."""
    reason = "this model's attention is of a kind that it does not do"
    if choice == "penstock":
        raise AttentionUnavailable(reason)
    return f"{use('llama.cpp')}: {reason}"


def level_here() -> str:
    """The best of what is built for that this processor has. Raises AttentionUnavailable."""
    if not _is_for_this_machine():
        raise AttentionUnavailable(_ELSEWHERE)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError as error:
        raise AttentionUnavailable(f"the processor's flags cannot be read ({error})") from error
    flags = frozenset(next((line for line in lines if line.startswith("flags")), "").split())
    for level, needed in _LEVELS.items():
        if needed <= flags:
            return level
    raise AttentionUnavailable("the processor has no AVX2")


def library() -> Path:
    """The library for this processor, which holds attention and draws (`worker.engine.draws`); built if need be.

    Raises AttentionUnavailable.
    """
    level = level_here()
    installed = _installed() / _file_name(level)
    return installed if installed.exists() else build(_cache(), level)


def outlook() -> str:
    """What `use` would find here, in words. Builds and loads nothing. Raises AttentionUnavailable."""
    level = level_here()
    folder, name = _cache(), _file_name(level)
    try:
        for there in (_installed(), folder):
            if (there / name).exists():
                return f"{level}, in {there}"
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:
        raise _cannot_be_built(folder, error) from error
    compiler = Path(_compiler()[0]).name
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise AttentionUnavailable(f"it cannot be built in {folder} ({nearest} cannot be written)")
    return f"{level}; the first start of a worker builds it with {compiler}, in {folder}"


def build(folder: Path, level: str) -> Path:
    """Compile for a level into `folder`; what is there already is kept. Raises AttentionUnavailable."""
    target = folder / _file_name(level)
    try:
        if target.exists():
            return target
        compiler = _compiler()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            made = Path(place) / target.name
            _compile(compiler, level, made)
            made.replace(target)
    except OSError as error:
        raise _cannot_be_built(folder, error) from error
    return target


def _cannot_be_built(folder: Path, error: OSError) -> AttentionUnavailable:
    return AttentionUnavailable(f"it cannot be built in {folder} ({error.strerror or error})")


def _compile(compiler: list[str], level: str, made: Path) -> None:
    defines = [f'-DPENSTOCK_LEVEL="{level}"', f"-I{_include()}"]
    libraries = [str(library) for name in ("ggml-base", "ggml-cpu") for library in [_libraries() / f"lib{name}.so"]]
    command = [
        *compiler,
        f"-march={level}",
        *_FLAGS,
        *defines,
        *_SOURCES,
        "-o",
        str(made.absolute()),
        *libraries,
        "-lm",
    ]
    done = subprocess.run(command, cwd=_NATIVE, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise AttentionUnavailable(f"{Path(compiler[0]).name} cannot build it: {said}")


def _load() -> None:
    """Load the plug-in, built if need be. Once in a process: ggml never lets one go."""
    global _loaded  # noqa: PLW0603  the registry of plug-ins is the process's
    if _loaded is not None:
        return
    path = library()
    load = _library.ggml_backend_load
    load.argtypes, load.restype = [ctypes.c_char_p], ctypes.c_void_p
    if not load(str(path).encode()):
        raise AttentionUnavailable(
            f"llama.cpp does not take the plug-in {path}: it is of another ggml, or may not be executed there"
        )
    loaded = ctypes.CDLL(str(path))
    loaded.penstock_attention_build.restype = ctypes.c_char_p
    _loaded = loaded


def _is_for_this_machine() -> bool:
    return sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64")


def _switch(*, on: bool) -> None:
    if _loaded is not None:
        _loaded.penstock_attention_switch(int(on))


def _build_of(library: Any) -> str:
    return str(library.penstock_attention_build().decode())


def _file_name(level: str) -> str:
    """Another name for other sources, and for another ggml: a plug-in is of one ggml's structures."""
    digest = hashlib.sha256()
    for path in sorted(_NATIVE.iterdir()):
        digest.update(path.read_bytes())
    for name in _HEADERS:
        try:
            digest.update((_include() / name).read_bytes())
        except OSError as error:
            raise AttentionUnavailable(f"llama-cpp-python came without {name}") from error
    return f"attention-{digest.hexdigest()[:16]}-{level}.so"


def _compiler() -> list[str]:
    """A compiler's path, and what `CC` says beside it."""
    named = os.environ.get("CC", "").split()
    for name, *words in filter(None, (named, ["cc"], ["gcc"], ["clang"])):
        found = shutil.which(name)
        if found:
            return [found, *words]
    raise AttentionUnavailable("there is no C compiler (install gcc)")


def _include() -> Path:
    return Path(llama_cpp.__file__).parents[1] / "include"


def _libraries() -> Path:
    return Path(_library._name).parent


def _installed() -> Path:
    return Path(sys.prefix) / "lib" / "penstock"


def _cache() -> Path:
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise AttentionUnavailable("there is no home folder to keep it in") from error
    return Path(base) / "penstock" / "attention"


def main(words: Sequence[str]) -> int:
    """`look`: say what a worker would find here, or why it would find none (status 1). Without a word: build for every
    level into the installation, which is what an image does, so that nothing is compiled where it runs."""
    if list(words) == ["look"]:
        return _look()
    folder = _installed()
    folder.mkdir(parents=True, exist_ok=True)  # an image copies it, for whatever processor it is built
    folder.chmod(_FOR_EVERY_USER)
    if not _is_for_this_machine():
        print(f"Nothing is built: {_ELSEWHERE}.")  # noqa: T201  a command's output
        return 0
    for level in _LEVELS:
        path = build(folder, level)
        path.chmod(_FOR_EVERY_USER)
        print(path)  # noqa: T201  a command's output
    return 0


def _look() -> int:
    try:
        print(outlook())  # noqa: T201  a command's output
    except AttentionUnavailable as error:
        print(error, file=sys.stderr)  # noqa: T201  a command's output
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
