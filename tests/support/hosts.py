"""Hosts of a private network, made of network namespaces: a bridge on a host of its own, a link from it to each other.

The addresses exist inside the namespaces only; nothing of it is reachable from this machine's own network, and this
machine's own interfaces and rules are not touched. Needs root and iproute2; `why_not` says what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path

NETWORK = "10.203.0.0/24"
_PREFIX = "10.203.0."


def why_not() -> str | None:
    """Why this machine cannot make hosts; None if it can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    network = Network()
    try:
        network.add_host("probe")
    except subprocess.CalledProcessError as error:
        return f"this machine refuses a network namespace: {error.stderr.strip()}"
    finally:
        network.remove()
    return None


class Network:
    """Hosts that see each other and nobody else. `remove` takes all of it away, whatever was made."""

    def __init__(self) -> None:
        self._name = f"penstock-{uuid.uuid4().hex[:6]}"
        self._switch = f"{self._name}-switch"
        self._hosts: list[str] = []

    def add_host(self, name: str) -> Host:
        if not self._hosts:
            self._make_switch()
        namespace = f"{self._name}-{name}"
        self._hosts.append(namespace)
        host = Host(namespace, self._switch, f"to{len(self._hosts)}", f"{_PREFIX}{len(self._hosts)}")
        host.make()
        return host

    def _make_switch(self) -> None:
        self._hosts.append(self._switch)
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "bridge0", "type", "bridge")
        # Frames between ports are the bridge's business only, whatever this machine filters.
        for family in ("iptables", "ip6tables", "arptables"):
            _quietly(self._switch, f"echo 0 > /proc/sys/net/bridge/bridge-nf-call-{family}")
        _ip("-n", self._switch, "link", "set", "bridge0", "up")

    def remove(self) -> None:
        """The links go with their namespaces."""
        for namespace in self._hosts:
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
        self._hosts.clear()

    def left_behind(self) -> list[Path]:
        return list(Path("/run/netns").glob(f"{self._name}*"))


class Host:
    """`prefix` before a command runs it here."""

    def __init__(self, namespace: str, switch: str, port: str, address: str) -> None:
        self._namespace, self._switch, self._port = namespace, switch, port
        self.address = address
        self.prefix = ("ip", "netns", "exec", namespace)

    def make(self) -> None:
        _ip("netns", "add", self._namespace)
        ends = ("eth0", "netns", self._namespace, "type", "veth", "peer", "name", self._port, "netns", self._switch)
        _ip("link", "add", *ends)
        _ip("-n", self._switch, "link", "set", self._port, "master", "bridge0", "up")
        _ip("-n", self._namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", self._namespace, "link", "set", device, "up")

    def cut(self) -> None:
        """Pull the cable: what is under way gets no answer, not even a refusal."""
        _ip("-n", self._switch, "link", "set", self._port, "down")

    def mend(self) -> None:
        _ip("-n", self._switch, "link", "set", self._port, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


def _quietly(namespace: str, command: str) -> None:
    subprocess.run(["ip", "netns", "exec", namespace, "sh", "-c", command], capture_output=True, check=False)
