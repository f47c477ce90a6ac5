"""Where deliveries may go: the judgement of addresses, of names that change their mind, of URLs."""

from __future__ import annotations

import pytest

from jobs.errors import InvalidRequest
from jobs.targets import TargetRefused, allowed_addresses, check_url, is_public, look_up

PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
INSIDE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "198.18.0.1",
    "203.0.113.5",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_inside_are_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "017700000001", "::1"])
def test_no_spelling_of_loopback_passes(host: str) -> None:
    with pytest.raises(TargetRefused, match="address_not_allowed"):
        allowed_addresses(host, 80, allow_private=False)
    assert look_up(host, 80) in (["127.0.0.1"], ["::1"])


def test_one_address_inside_spoils_the_others() -> None:
    with pytest.raises(TargetRefused, match="address_not_allowed"):
        allowed_addresses("mixed.example", 80, allow_private=False, resolve=lambda *_: ["8.8.8.8", "10.0.0.1"])


def test_the_operator_may_allow_addresses_inside() -> None:
    check_url("http://127.0.0.1:8080/hook", allow_private=True)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1/", "address_not_allowed"),
        ("https://localhost:8443/", "address_not_allowed"),
        ("http://[::1]/", "address_not_allowed"),
        ("http://[::ffff:127.0.0.1]/", "address_not_allowed"),
        ("http://169.254.169.254/latest/meta-data/", "address_not_allowed"),
        ("http://nowhere.invalid/", "name_not_resolved"),
        ("http://" + "a" * 70 + ".example/", "name_not_resolved"),
        ("ftp://8.8.8.8/", "invalid_value"),
        ("file:///etc/passwd", "invalid_value"),
        ("//8.8.8.8/", "invalid_value"),
        ("hook", "invalid_value"),
        ("http://", "invalid_value"),
        ("http://8.8.8.8:99999/", "invalid_value"),
        ("http://8.8.8.8:0/", "invalid_value"),
        ("http://8.8.8.8\r\nX: y/", "invalid_value"),
        ("http://user:word@8.8.8.8/", "invalid_value"),
        ("http://8.8.8.8/#part", "invalid_value"),
        ("https://xn--a.example/", "invalid_value"),
        ("http://8.8.8.8/" + "a" * 2048, "invalid_value"),
    ],
)
def test_a_url_that_cannot_be_delivered_to_is_refused_by_its_field(url: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        check_url(url, allow_private=False)
    assert (refusal.value.param, refusal.value.code) == ("url", code)
    assert str(refusal.value).startswith("url: ")
    assert "169.254" not in str(refusal.value)


@pytest.mark.parametrize("url", ["https://8.8.8.8/hook?key=1", "http://[2606:4700::1111]:8080/", "https://8.8.8.8"])
def test_a_public_url_is_taken(url: str) -> None:
    check_url(url, allow_private=False)
