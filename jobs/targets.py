"""Where deliveries may go: a URL that a caller gave must not reach what only this machine can reach.

The rule is about addresses, not names: a name is looked up, every address that comes back is judged, and whoever
connects must connect to those very addresses (`jobs.posting`). So a name that is harmless when the webhook is made
and points inside when it is used gains nothing. Knows no HTTP and no database.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpx

from jobs.errors import InvalidRequest

MAX_URL_CHARACTERS = 2048

Resolver = Callable[[str, int], Sequence[str]]
"""Host and port to addresses. Raises TargetRefused."""

_NAT64 = ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ip_network("2000::/3")
# Not told apart by `is_global` everywhere: protocol assignments (a cloud keeps its metadata there), and the public
# address at which another one serves its machines.
_ALSO_INSIDE = (ip_network("192.0.0.0/24"), ip_network("168.63.129.16/32"))


class TargetRefused(Exception):
    """A delivery may not, or cannot, go there. `code`: `address_not_allowed` or `name_not_resolved`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def check_url(url: str, *, allow_private: bool, resolve: Resolver | None = None) -> None:
    """Refuse a URL that no delivery could go to as things stand. Raises InvalidRequest."""
    parsed = parse(url)
    try:
        allowed_addresses(
            parsed.raw_host.decode("ascii"), port_of(parsed), allow_private=allow_private, resolve=resolve
        )
    except TargetRefused as error:
        reason = {
            "address_not_allowed": "leads to a private, loopback, link-local or other address that is not public",
            "name_not_resolved": "its host name cannot be resolved",
        }[error.code]
        raise InvalidRequest(f"url: {reason}.", param="url", code=error.code) from None


def parse(url: str) -> httpx.URL:
    """The URL, if it has a form that can be delivered to. Raises InvalidRequest."""
    if len(url) > MAX_URL_CHARACTERS:
        raise InvalidRequest(f"url: must be at most {MAX_URL_CHARACTERS} characters long.", param="url")
    try:
        parsed = httpx.URL(url)
        host = parsed.host  # read here: a label that only looks like punycode is found out by reading it
    except (httpx.InvalidURL, UnicodeError):
        raise InvalidRequest("url: is not a valid URL.", param="url") from None
    if parsed.scheme not in {"http", "https"} or not host:
        raise InvalidRequest("url: must be an absolute http or https URL.", param="url")
    if parsed.port is not None and not 1 <= parsed.port <= 65535:
        raise InvalidRequest("url: its port must be between 1 and 65535.", param="url")
    if parsed.userinfo:
        raise InvalidRequest("url: must hold no user name or password; deliveries are signed.", param="url")
    if parsed.fragment:
        raise InvalidRequest("url: must have no fragment ('#…').", param="url")
    return parsed


def port_of(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def allowed_addresses(host: str, port: int, *, allow_private: bool, resolve: Resolver | None = None) -> Sequence[str]:
    """Look a host up, and answer its addresses if a delivery may go to every one of them. Raises TargetRefused.

    One address inside spoils the others: such a name is a trick or a mistake.
    """
    addresses = (resolve or look_up)(host, port)
    if not addresses:
        raise TargetRefused("name_not_resolved")
    if not allow_private and not all(is_public(address) for address in addresses):
        raise TargetRefused("address_not_allowed")
    return addresses


def look_up(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver. An address, in whatever spelling the system reads as one, comes back plainly."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        raise TargetRefused("name_not_resolved") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether everybody on the internet can reach this address, so that reaching it from here tells them nothing."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return _is_public_v4(parsed)
    inner = _carried(parsed)
    if inner is not None:
        return _is_public_v4(inner)
    return parsed in _GLOBAL_UNICAST and parsed.is_global and not parsed.is_multicast


def _is_public_v4(address: IPv4Address) -> bool:
    inside = address.is_multicast or address.is_reserved or any(address in network for network in _ALSO_INSIDE)
    return address.is_global and not inside


def _carried(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one stands for: mapped, or reached through a gateway (NAT64, 6to4, Teredo)."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
