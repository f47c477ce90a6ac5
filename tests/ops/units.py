"""Reads systemd's unit files: sections, and directives that may come several times. Refuses a directive it does not
know, so that a slip of the pen is found where there is no systemd either."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "ops" / "systemd"
Unit = dict[str, dict[str, list[str]]]

_KNOWN = {
    "Unit": "Description Documentation After Before Wants Requires PartOf",
    "Install": "WantedBy",
    "Timer": "OnCalendar RandomizedDelaySec Persistent",
    "Service": "Type EnvironmentFile Environment LoadCredential ExecStart WorkingDirectory StateDirectory"
    " CacheDirectory ReadWritePaths Restart RestartSec RemainAfterExit KillMode TimeoutStopSec User"
    " Group NoNewPrivileges CapabilityBoundingSet AmbientCapabilities ProtectSystem ProtectHome"
    " PrivateTmp PrivateDevices ProtectClock ProtectHostname ProtectKernelLogs ProtectKernelModules"
    " ProtectKernelTunables ProtectControlGroups ProtectProc RestrictAddressFamilies"
    " RestrictNamespaces RestrictRealtime RestrictSUIDSGID LockPersonality RemoveIPC"
    " SystemCallArchitectures SystemCallFilter SystemCallErrorNumber UMask",
}


def parse(text: str) -> Unit:
    """Section → directive → its values, in order. Raises ValueError for what it does not know."""
    unit: Unit = {}
    section = ""
    for line in text.splitlines():
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        if found := re.fullmatch(r"\[(\w+)\]", line):
            section = found[1]
            unit[section] = {}
            continue
        name, equals, value = line.partition("=")
        if not equals or name not in _KNOWN.get(section, "").split():
            raise ValueError(f"[{section}] {line}")
        unit[section].setdefault(name, []).append(value)
    return unit


def load(name: str) -> Unit:
    return parse((FOLDER / name).read_text())


def environment(text: str) -> dict[str, str]:
    """An EnvironmentFile's variables."""
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {name: value for name, _, value in (line.partition("=") for line in lines)}
