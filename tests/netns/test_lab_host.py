"""What the programs change in a host: its TUN device, routes, rules and forwarding."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network
from pathlib import Path

import pytest

from firezone.errors import ConfigurationError
from firezone.model import Endpoint, Transmit
from firezone.shell.gateway_nat import GatewayNat
from firezone.shell.netlink import TunnelRoutes
from firezone.shell.rtnetlink import RtNetlink
from firezone.shell.sockets import UdpSocket
from firezone.shell.tun import open_tun

NAME = "fztest0"
V4, V6 = IPv4Address("100.64.0.5"), IPv6Address("fd00:2021:1111::5")
ROUTES = {ip_network(text) for text in ("0.0.0.0/0", "10.0.0.0/8", "::/0", "fd20::/64")}


def test_addresses_routes_and_rules_come_and_go(fresh_netns: ThreadPoolExecutor) -> None:
    def scenario() -> None:
        untouched = _system()
        tun = open_tun(NAME)
        tunnel = TunnelRoutes(NAME)
        tunnel.set_addresses(V4, V6)
        tunnel.set_routes(ROUTES)
        assert tunnel.routes() == ROUTES
        assert "100.64.0.5/32" in _sh(f"ip addr show {NAME}")
        assert "mtu 1280" in _sh(f"ip link show {NAME}")
        for family in (4, 6):
            rule = "not from all fwmark 0xfd002021 lookup 539098368"
            assert rule in _sh(f"ip -{family} rule")
        assert f"dev {NAME}" in _sh("ip route get 198.51.100.1")
        assert "unreachable" in _sh("ip route get 198.51.100.1 mark 0xfd002021 2>&1")
        tunnel.close()
        tun.close()
        assert _system() == untouched

    fresh_netns.submit(scenario).result()


def test_changes_are_made_as_a_difference(fresh_netns: ThreadPoolExecutor) -> None:
    def scenario() -> None:
        tun = open_tun(NAME)
        tunnel = TunnelRoutes(NAME)
        tunnel.set_addresses(V4, V6)
        tunnel.set_routes(ROUTES)
        changed = {ip_network("10.0.0.0/8"), ip_network("172.16.0.0/12")}
        tunnel.set_routes(changed)
        tunnel.set_routes(changed)
        assert tunnel.routes() == changed
        tunnel.set_addresses(IPv4Address("100.64.0.6"), V6)
        addresses = _sh(f"ip addr show {NAME}")
        assert "100.64.0.6/32" in addresses
        assert "100.64.0.5" not in addresses
        assert _sh("ip rule").count("fwmark") == 1
        tunnel.close()
        tun.close()

    fresh_netns.submit(scenario).result()


def test_rules_of_a_crashed_run_are_removed(fresh_netns: ThreadPoolExecutor) -> None:
    def scenario() -> None:
        untouched = _system()
        tun = open_tun(NAME)
        TunnelRoutes(NAME).set_addresses(V4, V6)
        tun.close()  # as the kernel does for a process that dies
        assert "fwmark" in _sh("ip rule")
        tun = open_tun(NAME)
        tunnel = TunnelRoutes(NAME)
        assert "fwmark" not in _sh("ip rule") + _sh("ip -6 rule")
        tunnel.close()
        tun.close()
        assert _system() == untouched

    fresh_netns.submit(scenario).result()


def test_two_instances_with_tables_of_their_own(fresh_netns: ThreadPoolExecutor) -> None:
    def scenario() -> None:
        tuns = [open_tun("fztest0"), open_tun("fztest1")]
        one = TunnelRoutes("fztest0", table=1000, mark=1)
        two = TunnelRoutes("fztest1", table=1001, mark=2)
        for tunnel in (one, two):
            tunnel.set_addresses(V4, V6)
            tunnel.set_routes([ip_network("10.0.0.0/8")])
        one.close()
        assert "fwmark 0x2 lookup 1001" in _sh("ip rule")
        assert two.routes() == {ip_network("10.0.0.0/8")}
        two.close()
        for tun in tuns:
            tun.close()

    fresh_netns.submit(scenario).result()


def test_the_interface_is_exclusive(fresh_netns: ThreadPoolExecutor) -> None:
    def scenario() -> None:
        tun = open_tun(NAME)
        with pytest.raises(ConfigurationError, match="in use by another instance"):
            open_tun(NAME)
        tun.close()
        open_tun(NAME).close()

    fresh_netns.submit(scenario).result()


def test_packets_pass_the_device(fresh_netns: ThreadPoolExecutor) -> None:
    def scenario() -> None:
        tun = open_tun(NAME)
        tunnel = TunnelRoutes(NAME)
        tunnel.set_addresses(V4, None)
        tunnel.set_routes([ip_network("10.0.0.0/8")])
        socket = UdpSocket(4, 0, mark=0)
        assert socket.send(Transmit(b"ping", Endpoint.of("10.1.2.3", 9)))
        packets = []
        while True:
            try:
                packets.append(os.read(tun.fd, 2048))
            except BlockingIOError:
                break
        assert [p for p in packets if p.endswith(b"ping") and p[12:16] == V4.packed]
        marked = UdpSocket(4, 0)
        assert not marked.send(Transmit(b"ping", Endpoint.of("10.1.2.3", 9)))
        assert marked.counters["ENETUNREACH"] == 1
        socket.close()
        marked.close()
        tunnel.close()
        tun.close()

    fresh_netns.submit(scenario).result()


def test_rtnetlink_lists_what_ip_made(fresh_netns: ThreadPoolExecutor) -> None:
    def scenario() -> None:
        _sh("ip link add fzdummy type veth peer name fzpeer")
        _sh("ip addr add 192.0.2.1/24 dev fzdummy; ip addr add 2001:db8::1/64 dev fzdummy")
        netlink = RtNetlink()
        index = _index("fzdummy")
        assert netlink.addresses(index) == {
            ip_interface("192.0.2.1/24"),
            ip_interface("2001:db8::1/64"),
        }
        everywhere = {"127.0.0.1", "::1", "192.0.2.1", "2001:db8::1"}
        assert set(map(str, netlink.all_addresses())) == everywhere
        with pytest.raises(FileNotFoundError):
            netlink.remove_route(index, 77, ip_network("10.0.0.0/8"))
        netlink.close()

    fresh_netns.submit(scenario).result()


@pytest.mark.parametrize("crash", [False, True])
def test_forwarding_is_set_up_and_undone(
    fresh_netns: ThreadPoolExecutor, tmp_path: Path, crash: bool
) -> None:
    def scenario() -> None:
        foreign = "{ type filter hook forward priority 0; policy drop; }"
        _sh(f"nft 'add table ip other; add chain ip other FORWARD {foreign}'")
        untouched = _system()
        tun = open_tun(NAME)
        nat = GatewayNat(NAME, tmp_path)
        assert _sh("cat /proc/sys/net/ipv4/ip_forward") == "1\n"
        ruleset = _sh("nft list ruleset")
        assert "ip saddr 100.64.0.0/11 masquerade" in ruleset
        assert "ip6 saddr fd00:2021:1111::/107 masquerade" in ruleset
        assert ruleset.count("accept comment") == 2
        if crash:  # the next run finds it all there
            nat = GatewayNat(NAME, tmp_path)
            assert _sh("nft list ruleset") == ruleset
        nat.close()
        tun.close()
        assert _system() == untouched
        assert not list(tmp_path.iterdir())

    fresh_netns.submit(scenario).result()


def _system() -> str:
    commands = ("ip -o link", "ip addr", "ip rule", "ip -6 rule", "ip route show table all")
    forwarding = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"
    return "".join(map(_sh, (*commands, "nft list ruleset", forwarding)))


def _sh(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout


def _index(name: str) -> int:
    return int(_sh(f"ip -o link show {name}").partition(":")[0])
