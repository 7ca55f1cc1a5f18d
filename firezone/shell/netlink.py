"""Routes the tunnel's traffic: the addresses, routes and rules around the TUN interface.

Routes of the tunnel live in a table of their own, so they never mix with the host's. One rule for
each family sends all traffic through that table that does not carry our mark; what the table does
not know falls through to the host's own routes. The tunnel's own datagrams carry the mark and so
never enter the tunnel. Interface, addresses and routes vanish with the TUN device; the rules are
all that a crash can leave behind.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from firezone.errors import FirezoneError
from firezone.shell.rtnetlink import IPInterface, IPNetwork, MarkRule, RtNetlink
from firezone.shell.sockets import MARK
from firezone.shell.tun import MTU

TABLE = 0x2021FD00
"""The routing table of the tunnel."""


class NetlinkError(FirezoneError):
    """The kernel refused to set up the tunnel's routing."""


class TunnelRoutes:
    """What this program changes in the host's routing.

    Construct it after `open_tun`: owning the device proves that no live instance uses these rules.
    Two programs in one network namespace need different interfaces, tables and marks.
    """

    def __init__(self, interface: str, *, table: int = TABLE, mark: int = MARK) -> None:
        self._table = table
        self._mark = mark
        self._interface = interface
        self._index = socket.if_nametoindex(interface)
        self._netlink = RtNetlink()
        self._ruled: set[int] = set()
        self.repair()

    def repair(self) -> None:
        """Remove the rules that a crashed run left."""
        for family in (4, 6):
            rule = MarkRule(family, self._mark, self._table)
            # The kernel takes equal rules again and again, each at a priority of its own.
            for _ in range(64):
                try:
                    self._netlink.remove_rule(rule)
                except OSError:
                    break
        self._ruled.clear()

    def set_addresses(self, ipv4: IPv4Address | None, ipv6: IPv6Address | None) -> None:
        """Give the interface these addresses only, and route through the tunnel.

        One family may fail, as on hosts without IPv6. Raises NetlinkError if both do, or if the
        kernel refuses to change the interface.
        """
        wanted: set[IPInterface] = set()
        if ipv4 is not None:
            wanted.add(IPv4Interface((ipv4, 32)))
        if ipv6 is not None:
            wanted.add(IPv6Interface((ipv6, 128)))
        with self._explained("set up"):
            self._remove_other_addresses(wanted)
            self._netlink.set_link(self._index, up=True, mtu=MTU)
        done = [address for address in wanted if self._add_address(address)]
        if wanted and not done:
            raise NetlinkError(f"the kernel takes no address on {self._interface}")
        for address in done:
            self._add_rule(address.version)

    def set_routes(self, routes: Iterable[IPNetwork]) -> None:
        """Send exactly these networks through the tunnel. Unchanged ones are not touched.

        What the kernel refuses is logged; raises NetlinkError if it does not even tell the routes.
        """
        wanted = set(routes)
        for route in self.add_routes(wanted):
            self._try("remove a route", route, self._netlink.remove_route)

    def add_routes(self, routes: Iterable[IPNetwork]) -> set[IPNetwork]:
        """Send these networks through the tunnel as well; returns the others that are there."""
        wanted = set(routes)
        present = self.routes()
        for route in wanted - present:
            self._try("add a route", route, self._netlink.add_route)
        return present - wanted

    def routes(self) -> set[IPNetwork]:
        """What goes through the tunnel now, as the kernel sees it. Raises NetlinkError."""
        with self._explained("list the routes of"):
            return self._netlink.routes(self._index, self._table)

    def close(self) -> None:
        """Undo everything that closing the TUN device does not."""
        self.repair()
        self._netlink.close()

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot {what} {self._interface}: {error.strerror}"
            raise NetlinkError(reason) from None

    def _remove_other_addresses(self, wanted: set[IPInterface]) -> None:
        for address in self._netlink.addresses(self._index) - wanted:
            if not address.is_link_local:
                with contextlib.suppress(OSError):
                    self._netlink.remove_address(self._index, address)

    def _add_address(self, address: IPInterface) -> bool:
        try:
            self._netlink.add_address(self._index, address)
        except OSError as error:
            logger.warning("no address of this family", extra=_context(address.ip, error))
            return False
        return True

    def _add_rule(self, family: int) -> None:
        if family in self._ruled:
            return
        try:
            self._netlink.add_rule(MarkRule(family, self._mark, self._table))
            self._ruled.add(family)
        except OSError as error:
            logger.warning("no routing rule", extra=_context(f"IPv{family}", error))

    def _try(self, what: str, route: IPNetwork, change: _Change) -> None:
        try:
            change(self._index, self._table, route)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOENT, errno.EOPNOTSUPP):
                logger.warning("cannot %s", what, extra=_context(route, error))


logger = logging.getLogger(__name__)

_Change = Callable[[int, int, IPNetwork], None]


def _context(subject: object, error: OSError) -> dict[str, object]:
    return {"subject": subject, "error": error.strerror}
