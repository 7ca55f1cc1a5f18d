"""Notices that this host moved to another network, or lost the one it spoke through.

The kernel tells of every link, address and route that comes or goes (rtnetlink(7)); once it has
been quiet for a moment, or was not for a second, the question is whether we still speak through the
interface and from the address as before. An address that comes along, or that takes over from one
which stays (RFC 8981), is no move. Nor is having no network at all: that is sat out, and what comes
after it is compared with what was before. Losing one family while the other stays is told apart.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from ipaddress import ip_address

from firezone.model import IPAddress
from firezone.shell.rtnetlink import News, RtNetlink
from firezone.shell.sockets import set_mark

QUIET_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 1.0
RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)

Sources = dict[int, tuple[int, IPAddress]]
"""By family: the interface and the address that we speak through to the internet."""


class NetworkWatch:
    """Calls `on_move`, or `on_family_lost`, on the running loop, until it is closed.

    Before both, and also at first and when a family comes along, it calls `on_families` with those
    that lead to the internet. After them, and after any other change, it calls `on_change`. Raises
    OSError.
    """

    def __init__(
        self,
        on_move: Callable[[], None],
        on_family_lost: Callable[[], None],
        on_families: Callable[[Collection[int]], None],
        on_change: Callable[[], None],
    ) -> None:
        self._on_move = on_move
        self._on_family_lost = on_family_lost
        self._on_families = on_families
        self._on_change = on_change
        self._netlink = RtNetlink()
        self._before = outward_sources(self._netlink.owners())
        self._timer: asyncio.TimerHandle | None = None
        self._look_by: float | None = None
        self._is_blind = False
        self._loop = asyncio.get_running_loop()
        self._news = News(_GROUPS)
        self._loop.add_reader(self._news, self._handle_news)
        on_families(self._before.keys())

    def close(self) -> None:
        self._loop.remove_reader(self._news)
        self._news.close()
        self._netlink.close()
        if self._timer is not None:
            self._timer.cancel()

    def _handle_news(self) -> None:
        self._news.drain()
        now = self._loop.time()
        if self._look_by is None:
            self._look_by = now + LONGEST_WAIT_SECONDS
        self._look_at(min(now + QUIET_SECONDS, self._look_by))

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._look_by = None
        try:
            owners = self._netlink.owners()
            after = outward_sources(owners)
        except OSError as error:  # no file descriptor left, no memory: that passes
            self._handle_blindness(error)
            return
        self._is_blind = False
        if after:
            self._compare(after, owners)
        self._on_change()

    def _handle_blindness(self, error: OSError) -> None:
        if not self._is_blind:
            _log.warning("cannot see which network this is; trying on", extra={"error": str(error)})
        self._is_blind = True
        self._look_at(self._loop.time() + RETRY_SECONDS)

    def _compare(self, after: Sources, owners: Mapping[IPAddress, int]) -> None:
        before, self._before = self._before, after
        moved = has_moved(before, after, owners)
        if moved or before.keys() != after.keys():
            self._on_families(after.keys())
        if moved:
            self._on_move()
        elif before.keys() - after.keys():
            self._on_family_lost()


def has_moved(before: Sources, after: Sources, owners: Mapping[IPAddress, int]) -> bool:
    """Whether a family that we still speak is spoken from elsewhere, or none of them is left."""
    kept = before.keys() & after.keys()
    if not kept:
        return True
    for family in kept:
        interface, address = before[family]
        if after[family][0] != interface or owners.get(address) != interface:
            return True
    return False


def outward_families() -> Collection[int]:
    """The families that lead to the internet, past the tunnel. Raises OSError."""
    netlink = RtNetlink()
    try:
        return outward_sources(netlink.owners()).keys()
    finally:
        netlink.close()


def outward_sources(owners: Mapping[IPAddress, int]) -> Sources:
    """How the kernel would send to the internet, past the tunnel. Sends nothing."""
    found: Sources = {}
    for family, (kind, far) in _FAR.items():
        with socket.socket(kind, socket.SOCK_DGRAM) as s, suppress(OSError):
            set_mark(s)
            s.connect((far, 9))
            source = ip_address(s.getsockname()[0])
            if source in owners:
                found[family] = (owners[source], source)
    return found


_FAR = {4: (socket.AF_INET, "192.0.2.1"), 6: (socket.AF_INET6, "2001:db8::1")}
"""Addresses for documentation (RFC 5737, RFC 3849): nobody has a route of its own to them."""

# RTMGRP_LINK, and RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
