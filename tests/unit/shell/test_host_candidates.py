"""A look at the host: what is told, when it is told again, and when it is not."""

from __future__ import annotations

import logging
import socket
from ipaddress import ip_address, ip_interface

import pytest

from firezone.model import Endpoint, IPAddress
from firezone.shell import host_candidates
from firezone.shell.host_candidates import HostCandidates
from firezone.shell.rtnetlink import Link, LinkAddress

ETH0, TUN = Link(2, 1, 0x1043), Link(9, 0xFFFE, 0x10D1, "tun")
PORTS = {4: 52625, 6: 52626}
DEPRECATED = 0x20


class Kernel:
    """The interfaces, as the test decides."""

    def __init__(self) -> None:
        self.addresses = [
            LinkAddress(2, ip_interface("10.7.0.2/24")),
            LinkAddress(2, ip_interface("2001:db8::2/64")),
            LinkAddress(9, ip_interface("100.64.0.2/32")),
        ]
        self.error: OSError | None = None
        self.closed = False

    def links(self) -> list[Link]:
        if self.error is not None:
            raise self.error
        return [ETH0, TUN]

    def link_addresses(self) -> list[LinkAddress]:
        return self.addresses

    def close(self) -> None:
        self.closed = True


def outward(_owners: object) -> dict[int, tuple[int, IPAddress]]:
    return {6: (2, ip_address("2001:db8::2"))}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(host_candidates, "RtNetlink", lambda: made)
    monkeypatch.setattr(host_candidates, "outward_sources", outward)
    monkeypatch.setattr(socket, "if_nametoindex", lambda name: {"tun": 9}[name])
    return made


def found(hosts: HostCandidates) -> list[str] | None:
    endpoints = hosts.look(PORTS)
    return None if endpoints is None else [str(endpoint) for endpoint in endpoints]


def test_addresses_are_told_once_with_the_port_of_their_family(kernel: Kernel) -> None:
    hosts = HostCandidates("tun")
    assert found(hosts) == ["[2001:db8::2]:52626", "10.7.0.2:52625"]
    assert found(hosts) is None
    kernel.addresses.pop(0)
    assert found(hosts) == ["[2001:db8::2]:52626"]


def test_without_a_socket_of_the_family_there_is_no_candidate(kernel: Kernel) -> None:
    assert HostCandidates("tun").look({4: 5}) == [Endpoint.parse("10.7.0.2:5")]


def test_whoever_forgot_is_told_again_but_of_nothing_deprecated(kernel: Kernel) -> None:
    hosts = HostCandidates("tun")
    hosts.look(PORTS)
    kernel.addresses[1] = LinkAddress(2, ip_interface("2001:db8::3/64"), DEPRECATED)
    kernel.addresses[0] = LinkAddress(2, ip_interface("10.7.0.2/24"), DEPRECATED)
    assert found(hosts) == ["10.7.0.2:52625"]
    hosts.forget()
    assert found(hosts) == []


def test_a_look_that_fails_changes_nothing_and_is_told_of_once(
    kernel: Kernel, caplog: pytest.LogCaptureFixture
) -> None:
    hosts = HostCandidates("tun")
    hosts.look(PORTS)
    kernel.error = OSError(24, "Too many open files")
    assert found(hosts) is None
    assert found(hosts) is None
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    kernel.error = None
    assert found(hosts) is None


def test_it_leaves_nothing_open(kernel: Kernel) -> None:
    HostCandidates("tun").close()
    assert kernel.closed
