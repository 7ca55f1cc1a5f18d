"""UDP sockets over loopback: families, source addresses, ports, errors."""

from __future__ import annotations

import select
import socket

import pytest

from firezone.model import Endpoint, Transmit
from firezone.shell import sockets
from firezone.shell.sockets import Family, UdpSocket, UdpSockets
from firezone.shell.wg_sockets import WgSockets


def _loopback(family: int, port: int, last: int = 1) -> Endpoint:
    return Endpoint.of(f"127.0.0.{last}" if family == 4 else "::1", port)


def _wait(*sockets: UdpSocket) -> None:
    assert select.select(sockets, [], [], 1)[0]


@pytest.mark.parametrize("family", [4, 6])
def test_round_trip_tells_both_ends(family: Family) -> None:
    one, two = UdpSocket(family, 0), UdpSocket(family, 0)
    assert one.send(Transmit(b"hello", _loopback(family, two.port)))
    _wait(two)
    assert two.receive() == (b"hello", _loopback(family, two.port), _loopback(family, one.port))
    assert two.receive() is None
    one.close()
    two.close()


def test_a_datagram_leaves_from_the_source_it_names() -> None:
    one, two = UdpSocket(4, 0), UdpSocket(4, 0)
    source = _loopback(4, one.port, last=7)
    assert one.send(Transmit(b"", _loopback(4, two.port, last=9), source))
    _wait(two)
    assert two.receive() == (b"", _loopback(4, two.port, last=9), source)
    one.close()
    two.close()


def test_a_source_that_is_not_ours_is_counted() -> None:
    one = UdpSocket(4, 0)
    foreign = Endpoint.of("192.0.2.77", one.port)
    assert not one.send(Transmit(b"x", _loopback(4, 9), foreign))
    assert sum(one.counters.values()) == 1
    one.close()


def test_the_port_is_wanted_not_demanded() -> None:
    taken = UdpSocket(4, 0)
    other = UdpSocket(4, taken.port)
    assert other.port not in (0, taken.port)
    taken.close()
    other.close()


def test_the_families_share_a_port() -> None:
    v4 = UdpSocket(4, 0)
    v6 = UdpSocket(6, v4.port)
    assert v6.port == v4.port
    v4.close()
    v6.close()


def test_the_pair_sends_by_family() -> None:
    pair, receiver = UdpSockets(0), UdpSockets(0)
    assert receiver.v4 and receiver.v6
    assert pair.send(Transmit(b"4", _loopback(4, receiver.v4.port)))
    assert pair.send(Transmit(b"6", _loopback(6, receiver.v6.port)))
    for each, expected in ((receiver.v4, b"4"), (receiver.v6, b"6")):
        _wait(each)
        received = each.receive()
        assert received is not None
        assert received[0] == expected
    pair.close()
    receiver.close()


def test_a_host_of_one_family(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int, *arguments: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *arguments)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    pair = UdpSockets(0)
    assert pair.v4 is not None
    assert pair.v6 is None
    assert not pair.send(Transmit(b"x", Endpoint.of("::1", 9)))
    assert pair.counters == {"no socket of that family": 1}
    pair.close()


@pytest.mark.parametrize("allowed", [True, False])
def test_a_mark_that_is_refused_is_told_once(
    allowed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sockets, "set_mark", lambda *_: allowed)
    UdpSockets(0).close()
    for mark in (0, 7):
        WgSockets(0, mark).close()
    told = [r.levelname for r in caplog.records if "refuses to mark" in r.message]
    assert told == ([] if allowed else ["WARNING"] * 2)
