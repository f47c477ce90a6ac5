"""LangChain and `llm`, which speak to the API as their users have them: installed apart, once, into the user's cache.

That they cannot be installed is a failure of the test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = ("langchain-openai==1.7.3", "llm==0.36")


def installed() -> Path:
    """The folder that holds them and all they need."""
    cache = os.environ.get("XDG_CACHE_HOME")
    name = "-".join(package.replace("==", "-") for package in PACKAGES)
    folder = (Path(cache) if cache else Path.home() / ".cache") / "penstock" / "clients" / name
    if folder.is_dir():
        return folder
    part = folder.with_name(f".{name}.{os.getpid()}")
    part.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(part), *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"the clients cannot be installed: {done.stderr[-2000:]}")
    try:
        part.rename(folder)
    except OSError:  # another run was faster
        shutil.rmtree(part)
    return folder


def environment_of_clients() -> dict[str, str]:
    """What lets a block find them: before anything else that is installed."""
    folder = installed()
    proxies = {name: "" for name in os.environ if "proxy" in name.lower()}
    return {"PYTHONPATH": str(folder), "PATH": str(folder / "bin"), **proxies}
