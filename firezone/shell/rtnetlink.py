"""Speaks rtnetlink(7): the few requests about links, addresses, routes and rules that we need.

Each request is answered before the call returns (the kernel does so in microseconds), so there is
nothing to wait for and no state between calls. A library would do, at 20 MB and 0.2 s of every
program's start.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

from firezone.model import IPAddress

IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class MarkRule:
    """Sends all traffic that does *not* carry `mark` through routing table `table`."""

    family: int
    mark: int
    table: int


@dataclass(frozen=True, slots=True)
class MainRule:
    """Asks the main table first, but passes over its default routes."""

    family: int


Rule = MarkRule | MainRule


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel tells of it: netdevice(7)."""

    index: int
    hardware: int
    """ARPHRD_…"""
    flags: int
    """IFF_…"""
    driver: str = ""
    """What makes it, if it is not hardware: "bridge", "tun", "wireguard"…"""
    master: int | None = None
    """The index of the bridge, or the like, that it is a port of."""


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address, and whose it is."""

    link: int
    interface: IPInterface
    flags: int = 0
    """IFA_F_…"""


class RtNetlink:
    """A netlink socket in this network namespace.

    Every method raises OSError as the kernel says it: PermissionError without CAP_NET_ADMIN. What
    changes while it is read is read again; addresses that never hold still are BlockingIOError, of
    routes the last reading counts.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def set_link(self, index: int, *, up: bool, mtu: int) -> None:
        flags = _IFF_UP if up else 0
        header = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, _IFF_UP)
        self._request(_RTM_NEWLINK, 0, header + _attribute(_IFLA_MTU, struct.pack("=I", mtu)))

    def addresses(self, index: int) -> set[IPInterface]:
        """The addresses of an interface."""
        return {a.interface for a in self.link_addresses() if a.link == index}

    def all_addresses(self) -> set[IPAddress]:
        """Those of all interfaces."""
        return {a.interface.ip for a in self.link_addresses()}

    def owners(self) -> dict[IPAddress, int]:
        """Whose interface each address of this host is."""
        return {a.interface.ip: a.link for a in self.link_addresses()}

    def link_addresses(self) -> list[LinkAddress]:
        """Those of all interfaces, and what the kernel says of them."""
        dumped, is_whole = self._dump(_RTM_GETADDR, struct.pack("=BBBBi", 0, 0, 0, 0, 0))
        if not is_whole:
            raise BlockingIOError(errno.EAGAIN, "the addresses change faster than they are read")
        return [address for body in dumped if (address := parse_address(body)) is not None]

    def links(self) -> list[Link]:
        """All interfaces."""
        dumped, _ = self._dump(_RTM_GETLINK, bytes(16))
        return [link for body in dumped if (link := parse_link(body)) is not None]

    def add_address(self, index: int, address: IPInterface) -> None:
        self._change_address(_RTM_NEWADDR, _CREATE | _REPLACE, index, address)

    def remove_address(self, index: int, address: IPInterface) -> None:
        self._change_address(_RTM_DELADDR, 0, index, address)

    def routes(self, index: int, table: int) -> set[IPNetwork]:
        """The destinations that a routing table sends through an interface."""
        found: set[IPNetwork] = set()
        for body in self._dump(_RTM_GETROUTE, bytes(12))[0]:
            family, length = body[0], body[1]
            attributes = _attributes(body[12:])
            if (_u32(attributes, _RTA_OIF), _u32(attributes, _RTA_TABLE)) == (index, table):
                packed = attributes.get(_RTA_DST) or bytes(4 if family == socket.AF_INET else 16)
                found.add(_interface(packed, length).network)
        return found

    def tables(self) -> set[int]:
        """The routing tables that have routes."""
        dumped, _ = self._dump(_RTM_GETROUTE, bytes(12))
        found = {_u32(_attributes(body[12:]), _RTA_TABLE) for body in dumped}
        return {table for table in found if table is not None}

    def add_route(self, index: int, table: int, destination: IPNetwork) -> None:
        self._change_route(_RTM_NEWROUTE, _CREATE | _EXCL, index, table, destination)

    def remove_route(self, index: int, table: int, destination: IPNetwork) -> None:
        self._change_route(_RTM_DELROUTE, 0, index, table, destination)

    def add_rule(self, rule: Rule) -> None:
        self._change_rule(_RTM_NEWRULE, _CREATE | _EXCL, rule)

    def remove_rule(self, rule: Rule) -> None:
        """Raises FileNotFoundError if there is no such rule (left)."""
        self._change_rule(_RTM_DELRULE, 0, rule)

    def _change_address(self, kind: int, flags: int, index: int, address: IPInterface) -> None:
        length = address.network.prefixlen
        header = struct.pack("=BBBBi", _AF[address.version], length, _IFA_F_NODAD, 0, index)
        local = _attribute(_IFA_LOCAL, address.ip.packed)
        self._request(kind, flags, header + local + _attribute(_IFA_ADDRESS, address.ip.packed))

    def _change_route(
        self, kind: int, flags: int, index: int, table: int, destination: IPNetwork
    ) -> None:
        header = struct.pack(
            "=BBBBBBBBI",
            _AF[destination.version],
            destination.prefixlen,
            0,
            0,
            0,
            _RTPROT_STATIC,
            _RT_SCOPE_UNIVERSE,
            _RTN_UNICAST,
            0,
        )
        self._request(
            kind,
            flags,
            header
            + _attribute(_RTA_DST, destination.network_address.packed)
            + _attribute(_RTA_OIF, struct.pack("=i", index))
            + _attribute(_RTA_TABLE, struct.pack("=I", table)),
        )

    def _change_rule(self, kind: int, flags: int, rule: Rule) -> None:
        invert = 0 if isinstance(rule, MainRule) else _FIB_RULE_INVERT
        header = struct.pack(
            "=BBBBBBBBI", _AF[rule.family], 0, 0, 0, 0, 0, 0, _FR_ACT_TO_TBL, invert
        )
        self._request(kind, flags, header + _rule_attributes(rule))

    def _request(self, kind: int, flags: int, body: bytes) -> None:
        self._exchange(kind, flags | _ACK, body)

    def _dump(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        """A table, and whether that is all of it at one time."""
        for _ in range(_DUMP_TRIES):
            found, is_whole = self._exchange(kind, _DUMP, body)
            if is_whole:
                break
        return found, is_whole

    def _exchange(self, kind: int, flags: int, body: bytes) -> tuple[list[bytes], bool]:
        """The answer, and whether nothing changed while the kernel wrote it."""
        self._sequence += 1
        header = struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST, self._sequence, 0)
        self._socket.send(header + body)
        found: list[bytes] = []
        is_whole = True
        while True:
            for answer, flags, sequence, payload in _messages(self._socket.recv(65536)):
                if sequence != self._sequence:
                    continue  # what is left of an answer that broke off with an error
                is_whole = is_whole and not flags & _DUMP_INTR
                if answer == _NLMSG_DONE:
                    return found, is_whole
                if answer == _NLMSG_ERROR:
                    _raise_for(payload)
                    return found, is_whole
                found.append(payload)


class News:
    """Hears of what changes in the kernel's tables, until it is closed: `fileno` becomes readable.
    `groups` are the RTMGRP_ bits of rtnetlink(7). Raises OSError."""

    def __init__(self, groups: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE)
        self._socket.bind((0, groups))

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Forget what was told; ENOBUFS, more than the buffer holds, was news as well."""
        with suppress(OSError):
            while self._socket.recv(65536):
                pass

    def close(self) -> None:
        self._socket.close()


def parse_link(body: bytes) -> Link | None:
    """The interface of an RTM_NEWLINK message; None if it is none."""
    if len(body) < 16:
        return None
    _family, hardware, index, flags, _change = struct.unpack_from("=BxHiII", body)
    attributes = _attributes(body[16:])
    info = _attributes(attributes.get(_IFLA_LINKINFO, b""))
    driver = info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")
    return Link(index, hardware, flags, driver, _u32(attributes, _IFLA_MASTER))


def parse_address(body: bytes) -> LinkAddress | None:
    """The address of an RTM_NEWADDR message; None if it is none."""
    if len(body) < 8:
        return None
    _family, length, flags, _scope, owner = struct.unpack_from("=BBBBi", body)
    attributes = _attributes(body[8:])
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b""
    if len(packed) not in (4, 16) or length > 8 * len(packed):
        return None
    # More flags than the header has room for.
    all_flags = _u32(attributes, _IFA_FLAGS)
    return LinkAddress(owner, _interface(packed, length), flags if all_flags is None else all_flags)


_NETLINK_ROUTE = 0
_AF = {4: socket.AF_INET, 6: socket.AF_INET6}
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP, _EXCL, _REPLACE, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x100, 0x400
_DUMP_INTR = 0x10
_DUMP_TRIES = 5
_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_RTM_NEWRULE, _RTM_DELRULE = 32, 33
_IFF_UP = 1
_IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 4, 10, 18
_IFLA_INFO_KIND = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_TABLE = 1, 4, 15
_RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 4, 0, 1
_FRA_FWMARK, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE, _FRA_FWMASK = 10, 14, 15, 16
_RT_TABLE_MAIN = 254
_FR_ACT_TO_TBL = 1
_FIB_RULE_INVERT = 2


def _rule_attributes(rule: Rule) -> bytes:
    match rule:
        case MarkRule(_, mark, table):
            return (
                _attribute(_FRA_FWMARK, struct.pack("=I", mark))
                + _attribute(_FRA_FWMASK, b"\xff\xff\xff\xff")
                + _attribute(_FRA_TABLE, struct.pack("=I", table))
            )
        case MainRule():
            table_of_host = _attribute(_FRA_TABLE, struct.pack("=I", _RT_TABLE_MAIN))
            return table_of_host + _attribute(_FRA_SUPPRESS_PREFIXLEN, bytes(4))


def _attribute(kind: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return struct.pack("=HH", 4 + len(value), kind) + value + padding


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind] = data[4:length]
        data = data[length + 3 & ~3 :]
    return found


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    while len(data) >= 16:
        length, kind, flags, sequence, _port = struct.unpack_from("=IHHII", data)
        if length < 16:
            break
        yield kind, flags, sequence, data[16:length]
        data = data[length + 3 & ~3 :]


def _raise_for(payload: bytes) -> None:
    code = -struct.unpack_from("=i", payload)[0]
    if code == errno.ESRCH:  # what the kernel says of a route that is not there
        code = errno.ENOENT
    if code:
        raise OSError(code, os.strerror(code))


def _u32(attributes: dict[int, bytes], kind: int) -> int | None:
    value = attributes.get(kind)
    return int.from_bytes(value, "little" if _LITTLE else "big") if value else None


_LITTLE = struct.pack("=H", 1)[0] == 1


def _interface(packed: bytes, length: int) -> IPInterface:
    if len(packed) == 4:
        return IPv4Interface((IPv4Address(packed), length))
    return IPv6Interface((IPv6Address(packed), length))
