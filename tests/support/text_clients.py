"""LangChain and `llm`, which speak to the API as their users have them, for blocks of the documentation."""

from __future__ import annotations

import os

from tests.support.packages import installed

PACKAGES = ("langchain-openai==1.7.3", "llm==0.36")


def environment_of_clients() -> dict[str, str]:
    """What lets a block find them: before anything else that is installed."""
    folder = installed(*PACKAGES)
    proxies = {name: "" for name in os.environ if "proxy" in name.lower()}
    return {"PYTHONPATH": str(folder), "PATH": str(folder / "bin"), **proxies}
