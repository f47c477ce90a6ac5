"""Whether a model fits: bytes that this process may still take, and the context that they allow.

Knows sizes only; loads nothing. The estimate is made before loading, so that a machine that is too small says so in
a second and not by being killed minutes later.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from worker.gguf_header import Header

WORKING_BYTES = 300 * 1024 * 1024
"""What the process needs beside weights and KV cells: Python, buffers of a step, logits."""
CONTEXT_STEP_TOKENS = 256
"""Contexts are cut to whole multiples of this: llama.cpp pads its KV streams to it."""
_CGROUP = Path("/sys/fs/cgroup")


class TooLittleMemory(Exception):
    """The model cannot fit. The message says how much is needed, how much there is, and what to turn."""


@dataclass(frozen=True, slots=True)
class Need:
    """`file_bytes` of weights; `num_slots` lanes of KV cells at `kv_bytes_per_token` each."""

    file_bytes: int
    num_slots: int
    kv_bytes_per_token: int

    def total(self, context_tokens: int) -> int:
        return self.file_bytes + WORKING_BYTES + self.num_slots * context_tokens * self.kv_bytes_per_token


def need_of(header: Header, file_bytes: int, num_slots: int, kv_type: str) -> Need:
    """q8_0 keeps 32 values in 34 bytes."""
    per_value = 34 / 32 if kv_type == "q8_0" else 2.0
    return Need(file_bytes, num_slots, header.kv_bytes_per_token(per_value) or 0)


def plan_context(need: Need, *, asked: int | None, trained: int, available: int, minimum: int = 512) -> int:
    """Context of one slot, in tokens: what was asked for, else the most that training and memory allow.

    Raises TooLittleMemory when what was asked for, or `minimum`, does not fit into `available` bytes.
    """
    wanted = asked or min(trained, minimum)
    if need.total(wanted) > available:
        raise TooLittleMemory(
            f"it needs about {_gib(need.total(wanted))} ({_gib(need.file_bytes)} of weights, the rest KV cells of "
            f"{need.num_slots} slots with {wanted} tokens each), and {_gib(available)} are free; "
            "use fewer slots, a smaller context, or a smaller model"
        )
    if asked is not None or not need.kv_bytes_per_token:
        return asked or trained
    room = (available - need.total(0)) // (need.num_slots * need.kv_bytes_per_token)
    return trained if room >= trained else max(room // CONTEXT_STEP_TOKENS * CONTEXT_STEP_TOKENS, wanted)


def available_bytes() -> int:
    """Memory this process may still take: of the machine, and of its cgroup where that is less."""
    limits = [_machine_bytes()]
    in_cgroup = _cgroup_bytes(_CGROUP)
    return min(limits if in_cgroup is None else [*limits, in_cgroup])


def _machine_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cgroup_bytes(folder: Path) -> int | None:
    """Free bytes under the limit of a version 2 cgroup; file pages count as free, for the kernel drops them."""
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no cgroup, or "max": no limit
        return None
    return limit - used + int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.0f} MiB"
