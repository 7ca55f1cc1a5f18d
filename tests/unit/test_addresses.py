"""Which addresses the Internet knows."""

from ipaddress import ip_address

import pytest

from firezone.addresses import is_public


@pytest.mark.parametrize("text", ["1.1.1.1", "203.0.113.7", "2606:4700::1111", "64:ff9b::101:101"])
def test_public(text):
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.1.1",
        "192.168.1.1",
        "224.0.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::1",
    ],
)
def test_not_public(text):
    assert not is_public(ip_address(text))
