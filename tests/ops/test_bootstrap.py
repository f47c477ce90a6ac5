"""What the bootstrap decides: which Python, which build, what it shows."""

from __future__ import annotations

import io
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ops.setup import bootstrap
from ops.setup.bootstrap import (
    Meter,
    SetupFailed,
    build_engine,
    build_key,
    check_compilers,
    describe_cpu,
    find_python,
    locked_version,
    run_build,
    version_of,
    wheel_folder,
    without_amx,
    without_multimodal,
)

CPUINFO = "processor\t: 0\nmodel name\t: A\ncpu MHz\t\t: 2000\nflags\t\t: avx2 fma\n\nprocessor\t: 1\nmodel name\t: B\n"


def fake_python(folder: Path, name: str, version: str) -> str:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho {version}\n")
    program.chmod(0o755)
    return str(program)


def test_the_first_python_with_an_embedded_redis_is_taken(tmp_path: Path) -> None:
    old, newest, good = (
        fake_python(tmp_path, name, version) for name, version in (("a", "3 9"), ("b", "3 13"), ("c", "3 12"))
    )
    assert find_python([old, newest, good]) == good
    assert find_python([old, newest]) == newest


def test_without_a_python_that_is_new_enough_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(SetupFailed, match=re.escape("Python 3.11 or newer")):
        find_python([fake_python(tmp_path, "a", "3 9"), "/no/such/python"])


def test_a_shim_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert version_of(str(shim)) is None
    assert version_of(sys.executable) == sys.version_info[:2]


def test_the_lock_names_the_engine_and_no_place() -> None:
    lock = bootstrap.LOCK.read_text(encoding="utf-8")
    assert re.fullmatch(r"[0-9.]+", locked_version(lock, bootstrap.ENGINE))
    assert not re.search(r"://|^\s*-|@ |/", lock, re.MULTILINE)


def test_a_lock_without_the_engine_is_an_error() -> None:
    with pytest.raises(SetupFailed, match="make lock"):
        locked_version("numpy==2.0\n", bootstrap.ENGINE)


def test_the_multimodal_part_is_left_out_unless_somebody_wants_it() -> None:
    assert without_multimodal("") == "-DLLAVA_BUILD=OFF"
    assert without_multimodal("-DGGML_CUDA=on") == "-DGGML_CUDA=on -DLLAVA_BUILD=OFF"
    assert without_multimodal("-DLLAVA_BUILD=ON") == "-DLLAVA_BUILD=ON"


def test_amx_is_left_out_unless_somebody_sets_compiler_flags() -> None:
    flags = "'-mno-amx-tile -mno-amx-int8 -mno-amx-bf16'"
    assert without_amx("") == f"-DCMAKE_C_FLAGS={flags} -DCMAKE_CXX_FLAGS={flags}"
    own = "-DCMAKE_C_FLAGS=-O2 -DCMAKE_CXX_FLAGS=-O2"
    assert without_amx(own) == own


def test_a_build_is_kept_by_processor_and_arguments() -> None:
    cpu = describe_cpu(CPUINFO)
    assert cpu == "model name=A\nflags=avx2 fma"
    keys = {
        build_key("x86_64", cpu, "-DX=1"),
        build_key("aarch64", cpu, "-DX=1"),
        build_key("x86_64", cpu + " avx512", "-DX=1"),
        build_key("x86_64", cpu, "-DX=2"),
    }
    assert len(keys) == 4
    assert build_key("x86_64", cpu, " -DX=1  ") in keys


def test_wheels_are_kept_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert wheel_folder("abc") == tmp_path / "penstock" / "wheels" / "abc"


def test_a_missing_compiler_is_named_with_what_to_install(tmp_path: Path) -> None:
    fake_python(tmp_path, "gcc", "")
    with pytest.raises(SetupFailed, match=r"C\+\+ compiler.*build-essential"):
        check_compilers({"PATH": str(tmp_path)})
    fake_python(tmp_path, "g++", "")
    check_compilers({"PATH": str(tmp_path)})


def test_a_terminal_gets_one_moving_line() -> None:
    screen = io.StringIO()
    meter = Meter(screen, terminal=True, clock=lambda: 0.0)
    for text in ("noise", "[1/4] Building", "  [4/4] Linking"):
        meter.see(text)
    meter.end()
    assert screen.getvalue().count("\r") == 2
    assert "4/4" in screen.getvalue()


def test_a_log_gets_a_line_now_and_then() -> None:
    screen = io.StringIO()
    now = [0.0]
    meter = Meter(screen, terminal=False, clock=lambda: now[0])
    for now[0], text in ((5.0, "[1/4] a"), (30.0, "[2/4] b"), (31.0, "[3/4] c"), (32.0, "[4/4] d")):
        meter.see(text)
    meter.end()
    assert [text.split()[2] for text in screen.getvalue().splitlines()] == ["2/4", "4/4"]


def test_a_build_that_fails_shows_the_end_of_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "VENV", tmp_path)
    pip = tmp_path / "python"
    pip.write_text("#!/bin/sh\necho '[1/2] Building'\necho 'CMake Error: no C++ here'\nexit 1\n")
    pip.chmod(0o755)
    with pytest.raises(SetupFailed, match="no C\\+\\+ here"):
        build_engine(pip, "0.1", "", tmp_path / "wheels")


def test_a_build_writes_everything_to_its_log(tmp_path: Path) -> None:
    meter = Meter(io.StringIO(), terminal=False)
    log = tmp_path / "log"
    assert run_build(["/bin/sh", "-c", "echo one; echo two >&2"], os.environ, log, meter) == 0
    assert sorted(log.read_text().split()) == ["one", "two"]


def test_the_lock_holds_every_package_that_is_asked_for() -> None:
    project = tomllib.loads((bootstrap.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    names = {canonicalize_name(Requirement(text).name) for text in wanted} - {"penstock"}
    lock = bootstrap.LOCK.read_text(encoding="utf-8")
    for name in names:
        assert locked_version(lock, name)


@pytest.mark.parametrize(
    ("backend", "option"),
    [("cpu", ""), ("cuda", "GGML_CUDA"), ("ROCm", "GGML_HIP"), ("vulkan", "GGML_VULKAN"), ("metal", "GGML_METAL")],
)
def test_a_backend_is_built_by_its_option_and_the_callers_stay(backend: str, option: str) -> None:
    words = bootstrap.with_backend("-DCMAKE_CUDA_ARCHITECTURES=90", backend)
    assert words.endswith("-DCMAKE_CUDA_ARCHITECTURES=90")
    assert option in words


def test_a_backend_that_is_unknown_is_refused_with_the_known_ones() -> None:
    with pytest.raises(bootstrap.SetupFailed, match=r"cuda.*vulkan"):
        bootstrap.with_backend("", "tpu")
