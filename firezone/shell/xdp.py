"""The relay's tier in the kernel: loads the XDP program, and keeps its routes in step with the
channels that are bound.

The program moves what it knows and leaves the rest to the relay's sockets, which stay open. All of
it hangs on descriptors, so it is detached and gone when the relay ends, in whatever way. Only
kernel parameters stay after a crash: they are noted, and given back by the next relay there.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import socket
import struct
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from firezone.errors import ConfigurationError
from firezone.model import Endpoint
from firezone.shell.bpf import (
    HASH,
    NO_PREALLOC,
    PERCPU_ARRAY,
    Descriptor,
    Map,
    VerifierError,
    XdpLink,
    XdpMode,
    XdpProgram,
)
from firezone.shell.loopback_forwarding import LoopbackForwarding
from firezone.shell.state import RUNTIME_DIRECTORY
from firezone.turn.relay_commands import FiveTuple
from firezone.xdp import Count, Route, Settings, Way, assemble, counts, relay_program, routes
from firezone.xdp.program import COUNTS, LICENCE, ROUTES

MAX_CHANNELS: Final = 65536
"""Others go through user space. The table takes memory as they come: 120 bytes a route and some
overhead, two routes a channel."""

MODES: Final = {"driver": XdpMode.NATIVE, "generic": XdpMode.GENERIC}
_SIOCETHTOOL, _ETHTOOL_GDRVINFO = 0x8946, 3

T = TypeVar("T", bound=Descriptor)
_Channel = tuple[FiveTuple, int]
logger = logging.getLogger("firezone.relay")


@dataclass(frozen=True, slots=True)
class XdpSettings:
    """`mode` is one of MODES, or None for the driver's and, where it has none, the generic one."""

    interface: str
    mode: str | None = None


class XdpTier:
    """At work from the start until `close`. Every other method is cheap, and fails for nobody."""

    def __init__(
        self,
        settings: XdpSettings,
        *,
        listen_port: int,
        ports: range,
        journal_directory: Path = RUNTIME_DIRECTORY,
    ) -> None:
        """Raises ConfigurationError for what cannot be had, naming the reason."""
        self.interface = settings.interface
        self._routes: dict[_Channel, tuple[Route, ...]] = {}
        self._ends: dict[_Channel, tuple[Endpoint, Endpoint]] = {}
        self._across: dict[tuple[Endpoint, Endpoint], tuple[_Channel, Way]] = {}
        self._failures: Counter[str] = Counter()
        self._owned: list[Descriptor] = []
        self._forwarding: LoopbackForwarding | None = None
        index = _index(settings.interface)
        try:
            self._table = self._own(
                Map(
                    HASH,
                    key_size=routes.KEY_SIZE,
                    value_size=routes.VALUE_SIZE,
                    entries=2 * MAX_CHANNELS,
                    flags=NO_PREALLOC,
                )
            )
            self._counts = self._own(
                Map(PERCPU_ARRAY, key_size=4, value_size=counts.SIZE, entries=len(Count))
            )
            self.mode = self._attach(settings.mode, index, listen_port, ports)
            self._forwarding = self._let_routes_be_asked(journal_directory)
        except OSError as error:
            self.close()
            raise _explained(error, settings.interface) from None

    def close(self) -> None:
        """Detach."""
        for each in reversed(self._owned):
            each.close()
        self._owned.clear()
        if self._forwarding is not None:
            self._forwarding.close()
            self._forwarding = None

    def bind(self, five_tuple: FiveTuple, number: int, relayed: Endpoint, peer: Endpoint) -> None:
        """Move the data of a channel. `relayed` is the address that the peer sees.

        Nothing that claims to come from this host itself is taken from the interface, where it can
        only be forged. So a client that came over a stream is left to user space, and a peer that
        is another allocation here is reached by its client, if that has a channel for the way back.
        """
        client, local = five_tuple
        assert local is not None
        if client.address == local.address:
            return
        key, way = (five_tuple, number), Way(local, client, number)
        if peer.address == relayed.address:
            self._bind_across(key, way, (relayed, peer))
        else:
            if key in self._ends:
                self.unbind(*key)
            forward = Route(way, Way(relayed, peer))
            self._set(key, (forward, forward.reverse()))

    def unbind(self, five_tuple: FiveTuple, number: int) -> None:
        """Leave a channel to user space."""
        key = (five_tuple, number)
        ends = self._ends.pop(key, None)
        if ends is not None:
            del self._across[ends]
            if (other := self._across.get(ends[::-1])) is not None:
                self._remove(other[0])
        self._remove(key)

    @property
    def channels(self) -> int:
        """Those that it moves the data of."""
        return len(self._routes)

    @property
    def traffic(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Sent to peers, and to clients: packets and payload bytes. What crosses from one client
        to another counts as both, as in user space."""
        across = self._count(Count.ACROSS)
        to_peers, to_clients = self._count(Count.TO_PEER), self._count(Count.TO_CLIENT)
        return _sum(to_peers, across), _sum(to_clients, across)

    @property
    def counters(self) -> Counter[str]:
        """Datagrams on our ports that were left to user space, by reason."""
        found = {f"xdp_{c.name.lower()}": self._count(c)[0] for c in Count if c not in counts.MOVED}
        return self._failures + Counter(found)

    def _bind_across(self, key: _Channel, way: Way, ends: tuple[Endpoint, Endpoint]) -> None:
        if self._ends.get(key, ends) != ends:
            self.unbind(*key)
        self._ends[key] = ends
        self._across[ends] = (key, way)
        if (other := self._across.get(ends[::-1])) is not None:
            route = Route(way, other[1])
            self._set(key, (route,))
            self._set(other[0], (route.reverse(),))

    def _set(self, key: _Channel, wanted: tuple[Route, ...]) -> None:
        """All of its routes or none."""
        if self._routes.get(key) == wanted:
            return
        self._remove(key)
        self._routes[key] = wanted
        try:
            for route in wanted:
                self._table.update(route.arrival.key(), route.value())
        except OSError as error:
            self._fail(error)
            self._remove(key)

    def _remove(self, key: _Channel) -> None:
        moved = [self._take(route) for route in self._routes.pop(key, ())]
        if moved:
            told = {"client": str(key[0].client), "channel": key[1], "to_peer": moved[0]}
            logger.debug("channel left to user space", extra={**told, "to_client": moved[1:]})

    def _take(self, route: Route) -> tuple[int, int]:
        """Remove a route; the packets and payload bytes that went by it."""
        try:
            value = self._table.pop(route.arrival.key())
        except OSError as error:
            self._fail(error)
            value = None
        packets, volume = (
            (0, 0) if value is None else struct.unpack_from("=QQ", value, routes.PACKETS)
        )
        return packets, volume

    def _count(self, count: Count) -> tuple[int, int]:
        if not self._owned:
            return 0, 0
        return counts.total(self._counts.lookup(count.to_bytes(4, sys.byteorder)) or b"")

    def _fail(self, error: OSError) -> None:
        self._failures[f"xdp_table_{errno.errorcode.get(error.errno or 0, 'unknown')}"] += 1

    def _attach(self, wanted: str | None, index: int, listen_port: int, ports: range) -> XdpMode:
        modes = [MODES[wanted]] if wanted else self._modes()
        maps = {ROUTES: self._table.fd, COUNTS: self._counts.fd}
        for mode in modes:
            settings = Settings(index, listen_port, ports, native=mode is XdpMode.NATIVE)
            program = self._own(XdpProgram(assemble(relay_program(settings), maps), LICENCE))
            try:
                self._own(XdpLink(program, index, mode))
                return mode
            except OSError as error:
                if mode is modes[-1] or error.errno in (errno.EPERM, errno.EBUSY):
                    raise
                text = (
                    "the driver of %s takes no XDP program (%s): the kernel runs it itself, later"
                )
                logger.warning(text, self.interface, error.strerror)
        raise AssertionError

    def _modes(self) -> list[XdpMode]:
        """Those to try where nobody insists on one."""
        if _driver(self.interface) != "veth":
            return [XdpMode.NATIVE, XdpMode.GENERIC]
        text = "%s is a veth: it throws away what its driver is given to send, unless its other end"
        text += " has an XDP program, too; if so, use --xdp-mode driver"
        logger.warning(text, self.interface)
        return [XdpMode.GENERIC]

    def _let_routes_be_asked(self, directory: Path) -> LoopbackForwarding:
        """The program asks for routes as if for what this host sends by itself, which is the
        loopback's; and the kernel answers for interfaces that may forward only. Nothing comes from
        outside by the loopback, so this host does not forward anything for it."""
        try:
            return LoopbackForwarding(directory)
        except OSError as error:
            self.close()
            raise _error(
                f"cannot write {error.filename}: {error.strerror}", "set it to 1 before"
            ) from None

    def _own(self, made: T) -> T:
        self._owned.append(made)
        return made


def _sum(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise _error(
            f"there is no interface {interface!r}", "name one that clients reach"
        ) from None


def _driver(interface: str) -> str:
    """Its name, as ethtool(8) has it; empty if there is none."""
    info = ctypes.create_string_buffer(struct.pack("=I", _ETHTOOL_GDRVINFO), 196)
    request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(info))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        except OSError:
            return ""
    return info.raw[4:36].partition(b"\0")[0].decode()


def _explained(error: OSError, interface: str) -> ConfigurationError:
    if isinstance(error, VerifierError):
        logger.debug("the kernel's verifier", extra={"log": error.log})
    match error.errno:
        case errno.EPERM | errno.EACCES if not isinstance(error, VerifierError):
            return _error(
                "CAP_BPF and CAP_NET_ADMIN are needed, of the host and not of a user namespace",
                "run as root, or leave it out",
            )
        case errno.EBUSY:
            return _error(f"another program is attached to {interface}", "remove that one")
    return _error(
        f"this kernel or {interface} does not take it: {error.strerror}",
        "Linux 5.15 or newer is needed; leave it out, or try --xdp-mode generic",
    )


def _error(problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError("XDP", "--xdp or EBPF_OFFLOADING", problem, remedy)
