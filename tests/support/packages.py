"""Programs of other people that tests drive: each set of packages in a folder of its own, apart from ours.

A set is installed once, into the user's cache, from the package registry; that it cannot be is a failure of the test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def installed(*requirements: str) -> Path:
    """The folder that holds packages (`name==version`) and all they need. It goes onto `PYTHONPATH`, with `-S`."""
    cache = os.environ.get("XDG_CACHE_HOME")
    name = "+".join(requirements)
    folder = (Path(cache) if cache else Path.home() / ".cache") / "penstock" / "packages" / name
    if folder.is_dir():
        return folder
    part = folder.with_name(f".{name}.{os.getpid()}")
    part.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(part), *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(part, ignore_errors=True)
        raise AssertionError(f"{name} cannot be installed: {done.stderr[-2000:]}")
    try:
        part.rename(folder)
    except OSError:  # another run was faster
        shutil.rmtree(part)
    return folder


def environment(*requirements: str) -> dict[str, str]:
    """What a process needs to see packages and no proxy: the servers that tests start are on this machine."""
    own = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return own | {"PYTHONPATH": str(installed(*requirements))}
