"""What a WireGuard interface does when something under it fails, without the device itself."""

import asyncio
import base64
import errno
import socket
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from firezone.commands import WorkerStatus
from firezone.errors import ConfigurationError
from firezone.shell import wg_interface
from firezone.shell.offload import ALL, NONE, Offload
from firezone.shell.wg_interface import Interface, InterfaceError
from firezone.wireguard import Device, DeviceChange, UapiError, parse_config

KEY = base64.b64encode(bytes([1]) * 32).decode()


def interface(lines: str = "") -> Interface:
    return Interface("wg9", parse_config(f"[Interface]\nPrivateKey = {KEY}\n{lines}", "f"))


def test_it_closes_even_if_no_command_can_be_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wg_interface, "_shell", lambda: "/nowhere/sh")
    made = interface("PreDown = true")
    closed: list[bool] = []
    made._opened.callback(lambda: closed.append(True))
    with pytest.raises(FileNotFoundError):
        asyncio.run(made.__aexit__(None, None, None))
    assert closed == [True]


class Sockets:
    """Those of an interface. Its data plane cannot go on with port 2."""

    made: list["Sockets"]

    def __init__(self, port: int, mark: int, workers: int = 1) -> None:
        self.port = port
        self.open = True
        Sockets.made.append(self)

    def fds(self, family: int) -> tuple[int, ...]:
        return (self.port,)

    def close(self) -> None:
        self.open = False


class Plane:
    def set_udp(self, udp4: tuple[int, ...], udp6: tuple[int, ...]) -> None:
        if udp4 == (2,):
            raise OSError(errno.ENOTSOCK, "no socket")


def test_a_port_that_fails_leaves_the_one_before(monkeypatch: pytest.MonkeyPatch):
    Sockets.made = []
    monkeypatch.setattr(wg_interface, "WgSockets", Sockets)
    made = interface()
    made._sockets = before = Sockets(1, 0)  # type: ignore[assignment]
    made._dataplane = Plane()  # type: ignore[assignment]
    with pytest.raises(UapiError) as caught:
        made._configure_sockets(DeviceChange(listen_port=2))
    assert caught.value.number == errno.ENOTSOCK
    assert made._sockets is before
    assert [each.open for each in Sockets.made] == [True, False]
    made._configure_sockets(DeviceChange(listen_port=3))
    assert made._sockets.port == 3
    assert [each.open for each in Sockets.made] == [False, False, True]


def test_a_file_and_its_offloads(tmp_path: Path):
    path = tmp_path / "wg9.conf"
    path.write_text(f"[Interface]\nPrivateKey = {KEY}\n")
    assert Interface.from_file(path)._offloads == ALL
    assert Interface.from_file(path, offloads=NONE)._offloads == NONE


def test_a_taken_port_is_found_in_the_file():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        section = interface(f"ListenPort = {port}")._config.interface
        with pytest.raises(
            ConfigurationError, match=rf"ListenPort \(f:3\): port {port}: .* in use"
        ):
            wg_interface._sockets(section, 0, 1)


def test_a_name_that_nobody_knows_is_found_in_the_file(monkeypatch: pytest.MonkeyPatch):
    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    peer = f"[Peer]\nPublicKey = {KEY}\nEndpoint = vpn.example.com:51820"
    with pytest.raises(InterfaceError) as caught:
        asyncio.run(interface(peer).__aenter__())
    assert str(caught.value) == (
        "[Peer] Endpoint (f:5): 'vpn.example.com': Name or service not known"
    )


def test_a_name_of_a_link_local_address_is_found_in_the_file(monkeypatch: pytest.MonkeyPatch):
    """Without its scope the address would lead nowhere."""
    found = [(socket.AF_INET6, socket.SOCK_DGRAM, 17, "", ("fe80::1%eth0", 51820, 0, 2))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    peer = f"[Peer]\nPublicKey = {KEY}\nEndpoint = printer.local:51820"
    with pytest.raises(InterfaceError, match=r"Endpoint \(f:5\): 'printer.local' is link-local"):
        asyncio.run(interface(peer).__aenter__())


class Busy:
    """The data plane of an interface that has dropped something."""

    def counters(self) -> dict[str, int]:
        return {"bad_tag": 5, "udp_sent_packets": 9, "slow": 9, "replayed": 0}

    def worker_statuses(self) -> tuple[WorkerStatus, ...]:
        return (WorkerStatus(1, 2, 3),)

    def offloads(self) -> frozenset[Offload]:
        return frozenset({Offload.UDP_GRO, Offload.TUN_TSO})


def test_what_was_dropped_is_told(monkeypatch: pytest.MonkeyPatch):
    made = interface()
    made._device.counters["packet for nobody"] = 3
    counted = Counter(bad_mac1=1)
    monkeypatch.setattr(Device, "handshake_counters", counted)
    monkeypatch.setattr(made, "_dataplane", Busy(), raising=False)
    sockets = SimpleNamespace(counters=Counter(EPERM=2))
    monkeypatch.setattr(made, "_sockets", sockets, raising=False)
    service = made.service()
    assert service.workers == (WorkerStatus(1, 2, 3),)
    assert service.offloads == ("tun-tso", "udp-gro")
    assert list(service.drops.items()) == [
        ("data plane: bad tag", 5),
        ("interface: packet for nobody", 3),
        ("socket: EPERM", 2),
        ("handshake: bad_mac1", 1),
    ]
