"""Ids: a prefix that says what it names, and a UUIDv7, so that ids sort by the time of their making."""

from __future__ import annotations

import uuid_utils


def new_id(prefix: str) -> str:
    """Make an id such as `job_0199c2a4…` (prefix, underscore, 32 hexadecimal digits)."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def new_file_id() -> str:
    """Make a file's id, such as `file-0199c2a4…`: with a hyphen, as OpenAI's clients know it."""
    return f"file-{uuid_utils.uuid7().hex}"
