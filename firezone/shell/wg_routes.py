"""Addresses, routes and rules of a WireGuard interface, as wg-quick(8) sets them.

With `Table = auto` each allowed network becomes a route of the main table. A default route would
catch the tunnel's own datagrams, so it goes into a table of its own: a rule sends there what does
not carry the interface's mark, and another one lets the main table's other routes go first. Then
marks are kept with connections, too, so that replies pass where reverse paths are checked strictly,
and packets from outside for the tunnel's addresses are dropped.

All but rules, filters and one kernel parameter vanishes with the TUN device. These are in a
journal, by which the next start undoes what a crash has left.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
import subprocess
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from firezone.errors import FirezoneError
from firezone.shell.rtnetlink import MainRule, MarkRule, RtNetlink, Rule
from firezone.shell.state import RUNTIME_DIRECTORY, Journal
from firezone.wireguard import IPNetwork
from firezone.wireguard.config import IPInterface, Table

MAIN_TABLE = 254
FIRST_TABLE = 51820
"""Where the search for a free table begins. The table's number is the mark, too."""


class RoutesError(FirezoneError):
    """The kernel refused an address or a route."""


class WgRoutes:
    """What an interface changes in the host, from construction to `close`.

    Construct it after `open_tun`: owning the device proves that no live instance uses its rules.
    """

    def __init__(self, interface: str, directory: Path = RUNTIME_DIRECTORY) -> None:
        self._interface = interface
        self._index = socket.if_nametoindex(interface)
        self._netlink = RtNetlink()
        self._journal = Journal(f"wg-{interface}", directory)
        self._undo()

    def choose_mark(self, table: Table, networks: Iterable[IPNetwork]) -> int:
        """The mark and table that a default route needs, 0 if there is none."""
        if table.number != 0 or not any(network.prefixlen == 0 for network in networks):
            return 0
        used = self._netlink.tables()
        return next(number for number in range(FIRST_TABLE, 1 << 32) if number not in used)

    def set_addresses(self, addresses: Iterable[IPInterface], mtu: int) -> None:
        """Give the interface its addresses and bring it up. Raises RoutesError."""
        for address in addresses:
            self._do(f"address {address}", partial(self._netlink.add_address, self._index, address))
        self._do("link", lambda: self._netlink.set_link(self._index, up=True, mtu=mtu))

    def set_routes(
        self,
        table: Table,
        networks: Iterable[IPNetwork],
        mark: int,
        addresses: Iterable[IPInterface],
    ) -> None:
        """Route the networks through the interface. `mark` is that of its sockets."""
        if table.number is None:
            return
        defaults: set[int] = set()
        for network in sorted(set(networks), key=lambda n: (-n.prefixlen, n.version, n)):
            if table.number == 0 and network.prefixlen == 0:
                defaults.add(network.version)
            else:
                self._add_route(network, table.number or MAIN_TABLE)
        if defaults:
            self._route_by_default(defaults, mark, addresses)

    def close(self) -> None:
        """Undo all that closing the TUN device does not."""
        self._undo()
        self._netlink.close()

    def _add_route(self, network: IPNetwork, table: int) -> None:
        self._do(f"route {network}", partial(self._netlink.add_route, self._index, table, network))

    def _route_by_default(
        self, families: set[int], mark: int, addresses: Iterable[IPInterface]
    ) -> None:
        self._journal.write(
            {
                "mark": str(mark),
                "families": "".join(map(str, sorted(families))),
                "src_valid_mark": _read(_SRC_VALID_MARK),
            }
        )
        for family in sorted(families):
            self._add_route(_DEFAULT[family], mark)
            for rule in _rules(family, mark):
                self._do("routing rule", partial(self._netlink.add_rule, rule))
        if 4 in families:
            _write(_SRC_VALID_MARK, "1")
        _filter(_ruleset(self._interface, mark, addresses))

    def _undo(self) -> None:
        journal = self._journal.read()
        if not journal:
            return
        for family in map(int, journal.get("families", "")):
            for rule in _rules(family, int(journal.get("mark", "0"))):
                try:
                    self._netlink.remove_rule(rule)
                except OSError as error:
                    logger.debug("no rule to remove", extra={"error": error.strerror})
        if journal.get("src_valid_mark") == "0":
            _write(_SRC_VALID_MARK, "0")
        _filter(_removal(self._interface))
        self._journal.clear()

    def _do(self, what: str, change: _Change) -> None:
        try:
            change()
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise RoutesError(f"{self._interface}: {what}: {error.strerror}") from None


logger = logging.getLogger(__name__)

_Change = Callable[[], None]
_SRC_VALID_MARK = Path("/proc/sys/net/ipv4/conf/all/src_valid_mark")
_DEFAULT: dict[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


def _rules(family: int, mark: int) -> tuple[Rule, Rule]:
    """The later a rule is added, the sooner it is asked."""
    return MarkRule(family, mark, mark), MainRule(family)


def _ruleset(interface: str, mark: int, addresses: Iterable[IPInterface]) -> str:
    ours = "\n".join(
        f'iifname != "{interface}" {"ip" if a.version == 4 else "ip6"} daddr {a.ip} '
        "fib saddr type != local drop"
        for a in addresses
    )
    return f"""
table inet {_table_name(interface)} {{
    chain preraw {{
        type filter hook prerouting priority -300; policy accept;
        {ours}
    }}
    chain premangle {{
        type filter hook prerouting priority -150; policy accept;
        meta l4proto udp meta mark set ct mark
    }}
    chain postmangle {{
        type filter hook postrouting priority -150; policy accept;
        meta l4proto udp meta mark {mark} ct mark set meta mark
    }}
}}
"""


def _removal(interface: str) -> str:
    name = _table_name(interface)
    return f"table inet {name}\ndelete table inet {name}\n"


def _table_name(interface: str) -> str:
    return "firezone-wg-" + re.sub(r"[^A-Za-z0-9_.-]", "_", interface)


def _filter(rules: str) -> None:
    """Load nftables rules. Without them the default route works where no filter is strict."""
    try:
        done = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True)
        problem = done.stderr.strip() if done.returncode else ""
    except FileNotFoundError:
        problem = "nft is not installed"
    if problem:
        logger.warning("no filter around the default route", extra={"error": problem})


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:  # containers often mount these read-only
        logger.warning("cannot set a kernel parameter", extra={"error": error.strerror})
