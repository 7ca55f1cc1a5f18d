"""The tunnel's own interface: what is opened in order, and closed again, whatever fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest

from firezone.errors import FirezoneError
from firezone.roles import ConfigureTun
from firezone.shell import tunnel_interface
from firezone.shell.offload import NONE
from firezone.shell.rtnetlink import IPNetwork
from firezone.shell.tun import Tun
from firezone.shell.tunnel_interface import TunnelInterface

ONE, OTHER = ip_network("10.0.0.0/24"), ip_network("10.0.1.0/24")


class Kernel:
    """Stands for the host: the device, its routes, and what a role prepares."""

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.done: list[str] = []
        self.routes: set[IPNetwork] = set()

    def open_tun(self, name: str, *_: object) -> Tun:
        self.fds.append(os.open(os.devnull, os.O_RDWR))
        return Tun(self.fds[-1], name)

    def routing(self, _name: str) -> Kernel:
        return self

    def set_addresses(self, *_: object) -> None: ...

    def add_routes(self, wanted: Collection[IPNetwork]) -> set[IPNetwork]:
        self.routes |= set(wanted)
        return self.routes - set(wanted)

    def set_routes(self, wanted: Collection[IPNetwork]) -> None:
        self.routes = set(wanted)
        self.done.append("removed")

    def close(self) -> None:
        self.done.append("routes closed")


class Prepared:
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def close(self) -> None:
        self._kernel.done.append("host as before")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(tunnel_interface, "open_tun", made.open_tun)
    monkeypatch.setattr(tunnel_interface, "TunnelRoutes", made.routing)
    monkeypatch.setattr(tunnel_interface, "_REMOVAL_SECONDS", 0.02)
    return made


def opened(prepare: Callable[[str], Prepared] | None = None) -> TunnelInterface:
    return TunnelInterface("tun0", NONE, 1, prepare)


def wanted(*routes: IPNetwork) -> ConfigureTun:
    return ConfigureTun(IPv4Address("100.64.0.1"), IPv6Address("fd00::1"), frozenset(routes))


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_what_came_last_is_undone_first(kernel: Kernel) -> None:
    opened(lambda _name: Prepared(kernel)).close()
    assert kernel.done == ["host as before", "routes closed"]
    assert not is_open(kernel.fds[0])


def test_a_host_that_cannot_be_prepared_is_left_as_it_was(kernel: Kernel) -> None:
    def refuse(name: str) -> Prepared:
        raise FirezoneError(f"no NAT for {name}")

    with pytest.raises(FirezoneError, match="no NAT for tun0"):
        opened(refuse)
    assert kernel.done == ["routes closed"]
    assert not is_open(kernel.fds[0])


def test_networks_come_at_once_and_go_later(kernel: Kernel) -> None:
    async def change() -> None:
        interface = opened()
        interface.configure(wanted(ONE))
        interface.configure(wanted(OTHER))
        assert kernel.routes == {ONE, OTHER}
        await asyncio.sleep(0.05)
        assert kernel.routes == {OTHER}
        interface.close()

    asyncio.run(change())


def test_what_comes_back_meanwhile_stays_all_the_time(kernel: Kernel) -> None:
    async def change() -> None:
        interface = opened()
        interface.configure(wanted(ONE, OTHER))
        interface.configure(wanted(OTHER))
        interface.configure(wanted(ONE, OTHER))
        await asyncio.sleep(0.05)
        assert kernel.done == []
        interface.close()

    asyncio.run(change())


def test_no_route_is_touched_once_it_is_closed(kernel: Kernel) -> None:
    async def change() -> None:
        interface = opened()
        interface.configure(wanted(ONE, OTHER))
        interface.configure(wanted(OTHER))
        interface.close()
        await asyncio.sleep(0.05)
        assert kernel.done == ["routes closed"]

    asyncio.run(change())
