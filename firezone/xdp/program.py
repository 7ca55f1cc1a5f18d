"""The relay's fast path in the kernel: an XDP program that moves the data of bound channels.

    frame ─► Ethernet, IPv4 or IPv6, UDP, on one of our ports? ─► route of its channel?
          ─► the kernel's own route and neighbour for the way out ─► new headers ─► back out

It sees each frame before the kernel does. Only datagrams of channels that user space has bound
leave by it; every other frame goes on into the kernel as it came, STUN above all. It drops nothing,
and changes nothing before it is sure to send.

- Headers are written anew from the route and what the old ones hold: TOS or traffic class, and so
  ECN, stay, the hop limit is one less. Checksums change by what changes, so that damage done before
  us is seen after us. No checksum (zero) stays none over IPv4; a computed zero is sent as 0xFFFF.
- The next hop is asked of the kernel for each datagram, as for one that this host sends by itself:
  that is what the loopback as incoming interface means. So routes, neighbours and MTUs are never
  out of date.
- So what that says is our link address has to be the frame's destination: else it is for another
  host, which the kernel knows to leave alone.
- A sender on the same machine may leave the UDP checksum to a device: then the sum of the
  pseudo-header stands in its place (CHECKSUM_PARTIAL). In the driver, as of a veth pair, the
  program finishes it. Where the kernel has a buffer already, that remembers an unfinished sum by
  its place, which moves, and may hold several datagrams to be split later: those are user space's,
  as are datagrams without a checksum, of which nothing tells.

R6 is the context, R7 the frame, R8 the route, R9 the length of the UDP datagram as it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from itertools import product
from typing import Final

from firezone.xdp import routes
from firezone.xdp.assembler import (
    DW,
    EXIT,
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    R8,
    R9,
    R10,
    B,
    H,
    Helper,
    Line,
    Register,
    W,
    add,
    add_to_memory,
    and_,
    call,
    jump,
    jump_if,
    label,
    load,
    load_map,
    move,
    store,
    subtract,
    swap_16,
)
from firezone.xdp.checksum import finish_checksum, udp_checksum
from firezone.xdp.counts import MOVED, Count
from firezone.xdp.headers import keep_headers, write_ethernet, write_ip, write_udp
from firezone.xdp.layout import (
    ADDRESSES_V4,
    ADDRESSES_V6,
    DATA,
    DATA_END,
    ETHER_TYPE,
    ETHER_TYPES,
    FIB,
    FIB_INTERFACE,
    FIB_LENGTH,
    FIB_LOCAL,
    FIB_OUR_MAC,
    FIB_PORTS,
    FIB_PROTOCOL,
    FIB_REMOTE,
    FRAGMENT,
    HOP_LIMIT,
    INDEX,
    KEY,
    KEY_CHANNEL,
    KEY_PORTS,
    L3,
    L4,
    NEXT_HEADER,
    PAYLOAD_LENGTH,
    PROTOCOL,
    TOTAL_LENGTH,
    TTL,
    Case,
    Settings,
    in_frame,
    network_16,
)

LICENCE: Final = "Dual BSD/GPL"
"""Of what this file emits. The kernel lends bpf_fib_lookup to GPL-compatible programs only."""
ROUTES, COUNTS = "routes", "counts"
"""The maps, by name: a hash of `routes` keys to values, an array per CPU of packets and bytes."""


class Verdict(IntEnum):
    """What becomes of a frame."""

    ABORTED = 0
    PASS = 2
    TX = 3


def relay_program(settings: Settings) -> list[Line]:
    """The whole program, for `assemble`."""
    return [
        *_start(),
        *_parse_v4(),
        *_classify(4, settings),
        *_parse_v6(),
        *_classify(6, settings),
        *(line for case in _CASES for line in _forward(case, settings)),
        *_send(),
        *_leave(),
    ]


_LOOPBACK = 1
_FAMILY = {4: 2, 6: 10}  # AF_INET, AF_INET6
_FIB_REASONS = {7: Count.NO_NEIGHBOUR, 8: Count.TOO_LARGE}
_ENDS = ((True, False), (False, True), (True, True))
_CASES = [Case(*versions, *ends) for versions in product((4, 6), (4, 6)) for ends in _ENDS]


def _start() -> Iterator[Line]:
    yield move(R6, R1)
    yield load(W, R7, R6, DATA)
    yield from in_frame(R1, L4[4] + 8, "pass")
    for at in range(KEY, 0, 8):
        yield store(DW, R10, at, 0)
    yield load(H, R1, R7, ETHER_TYPE)
    yield jump_if(R1, "==", network_16(ETHER_TYPES[6]), "v6")
    yield jump_if(R1, "!=", network_16(ETHER_TYPES[4]), "pass")


def _parse_v4() -> Iterator[Line]:
    """No options and no fragments: those are the kernel's."""
    yield load(B, R1, R7, L3)
    yield jump_if(R1, "!=", 0x45, "pass")
    yield load(H, R1, R7, FRAGMENT)
    yield jump_if(R1, "&", network_16(0x3FFF), "pass")
    yield load(B, R1, R7, PROTOCOL)
    yield jump_if(R1, "!=", routes.UDP, "pass")
    for at in (KEY, KEY + 16):
        yield store(H, R10, at + 10, -1)
        yield load(W, R1, R7, ADDRESSES_V4 + (at - KEY) // 4)
        yield store(W, R10, at + 12, R1)
    yield load(H, R9, R7, TOTAL_LENGTH)
    yield swap_16(R9)
    yield subtract(R9, routes.IP_HEADER[4])


def _parse_v6() -> Iterator[Line]:
    """UDP comes right after the header, or it is the kernel's."""
    yield label("v6")
    yield from in_frame(R1, L4[6] + 8, "pass")
    yield load(B, R1, R7, L3)
    yield and_(R1, 0xF0)
    yield jump_if(R1, "!=", 0x60, "pass")
    yield load(B, R1, R7, NEXT_HEADER)
    yield jump_if(R1, "!=", routes.UDP, "pass")
    for at in range(0, 32, 8):
        yield load(DW, R1, R7, ADDRESSES_V6 + at)
        yield store(DW, R10, KEY + at, R1)
    yield load(H, R9, R7, PAYLOAD_LENGTH)
    yield swap_16(R9)


def _classify(version: int, settings: Settings) -> Iterator[Line]:
    """On one of our ports? Then find the route and go on in the case that it makes."""
    udp, client = L4[version], f"{version} from peer"
    yield load(W, R1, R7, udp)
    yield store(W, R10, KEY_PORTS, R1)
    yield load(H, R1, R7, udp + 2)
    yield swap_16(R1)
    yield jump_if(R1, "!=", settings.listen_port, client)
    yield from in_frame(R2, udp + 12, "pass")
    yield load(B, R1, R7, udp + 8)
    yield and_(R1, 0xC0)
    yield jump_if(R1, "!=", 0x40, "pass")
    yield from _check_length(udp)
    yield load(H, R1, R7, udp + 8)
    yield store(H, R10, KEY_CHANNEL, R1)
    yield load(H, R1, R7, udp + 10)
    yield swap_16(R1)
    yield add(R1, 12)
    yield jump_if(R1, "!=", R9, Count.MALFORMED.name)
    yield from _find_route()
    yield load(H, R1, R8, routes.CHANNEL)
    yield jump_if(R1, "!=", 0, f"v{version} across")
    yield from _branch(version, True, False)
    yield label(f"v{version} across")
    yield from _branch(version, True, True)
    yield label(client)
    yield jump_if(R1, "<", settings.ports[0], "pass")
    yield jump_if(R1, ">", settings.ports[-1], "pass")
    yield from _check_length(udp)
    yield from _find_route()
    yield from _branch(version, False, True)


def _check_length(udp: int) -> Iterator[Line]:
    """The IP header, the UDP header and the frame agree; the frame may hold padding."""
    yield load(H, R1, R7, udp + 4)
    yield swap_16(R1)
    yield jump_if(R1, "!=", R9, Count.MALFORMED.name)
    yield jump_if(R9, "<", 8, Count.MALFORMED.name)
    yield move(R1, R7)
    yield add(R1, R9)
    yield add(R1, udp)
    yield load(W, R2, R6, DATA_END)
    yield jump_if(R1, ">", R2, Count.MALFORMED.name)


def _find_route() -> Iterator[Line]:
    yield load_map(R1, ROUTES)
    yield move(R2, R10)
    yield add(R2, KEY)
    yield call(Helper.MAP_LOOKUP_ELEM)
    yield jump_if(R0, "==", 0, Count.NO_ROUTE.name)
    yield move(R8, R0)


def _branch(version: int, from_client: bool, to_client: bool) -> Iterator[Line]:
    """The hop limit, and then the case."""
    yield load(B, R1, R7, TTL if version == 4 else HOP_LIMIT)
    yield jump_if(R1, "<=", 1, Count.HOP_LIMIT.name)
    yield load(B, R1, R8, routes.VERSION)
    yield jump_if(R1, "==", 6, Case(version, 6, from_client, to_client).name)
    yield jump(Case(version, 4, from_client, to_client).name)


def _forward(case: Case, settings: Settings) -> Iterator[Line]:
    """All that can fail, and then the new headers."""
    yield label(case.name)
    yield from udp_checksum(case, settings)
    yield from _ask_next_hop(case, settings)
    yield from keep_headers(case)
    yield move(R1, R6)
    yield move(R2, case.shift)
    yield call(Helper.XDP_ADJUST_HEAD)
    yield jump_if(R0, "!=", 0, Count.NO_ROOM.name)
    yield load(W, R7, R6, DATA)
    yield from in_frame(R1, case.header_end, "abort")
    yield from write_ethernet(case)
    yield from write_ip(case)
    yield from write_udp(case)
    yield from _count_route(case)
    if settings.native:
        yield from finish_checksum(case)


def _ask_next_hop(case: Case, settings: Settings) -> Iterator[Line]:
    version, local, remote = case.departs, routes.LOCAL, routes.REMOTE
    for at in range(FIB, FIB + 64, 8):
        yield store(DW, R10, at, 0)
    yield store(B, R10, FIB, _FAMILY[version])
    yield store(B, R10, FIB_PROTOCOL, routes.UDP)
    for at in (0, 2):
        yield load(H, R1, R8, routes.LOCAL_PORT + at)
        yield store(H, R10, FIB_PORTS + at, R1)
    yield move(R1, R9)
    yield add(R1, case.growth + routes.IP_HEADER[version])
    yield store(H, R10, FIB_LENGTH, R1)
    yield store(W, R10, FIB_INTERFACE, _LOOPBACK)
    for at, field in ((FIB_LOCAL, local), (FIB_REMOTE, remote)):
        if version == 4:
            yield load(W, R1, R8, field + 12)
            yield store(W, R10, at, R1)
        else:
            for step in (0, 8):
                yield load(DW, R1, R8, field + step)
                yield store(DW, R10, at + step, R1)
    yield move(R1, R6)
    yield move(R2, R10)
    yield add(R2, FIB)
    yield move(R3, 64)
    yield move(R4, 0)
    yield call(Helper.FIB_LOOKUP)
    for code, reason in _FIB_REASONS.items():
        yield jump_if(R0, "==", code, reason.name)
    yield jump_if(R0, "!=", 0, Count.NOT_FORWARDED.name)
    yield load(W, R1, R10, FIB_INTERFACE)
    yield jump_if(R1, "!=", settings.interface, Count.OTHER_INTERFACE.name)
    for size, at in ((W, 0), (H, 4)):  # what is for another host here, a switch may send to all
        yield load(size, R1, R7, at)
        yield load(size, R2, R10, FIB_OUR_MAC + at)
        yield jump_if(R1, "!=", R2, Count.OTHER_HOST.name)


def _count_route(case: Case) -> Iterator[Line]:
    yield move(R1, 1)
    yield add_to_memory(R8, routes.PACKETS, R1)
    yield subtract(R9, case.overhead)
    yield add_to_memory(R8, routes.BYTES, R9)
    yield store(W, R10, INDEX, case.count)
    yield jump("send")


def _send() -> Iterator[Line]:
    yield label("send")
    yield from _find_count("sent")
    yield from _add_to(R0, 0, 1)
    yield load(DW, R1, R0, 8)
    yield add(R1, R9)
    yield store(DW, R0, 8, R1)
    yield label("sent")
    yield move(R0, Verdict.TX)
    yield EXIT


def _leave() -> Iterator[Line]:
    for reason in Count:
        if reason not in MOVED:
            yield label(reason.name)
            yield store(W, R10, INDEX, reason)
            yield jump("count")
    yield label("count")
    yield from _find_count("pass")
    yield from _add_to(R0, 0, 1)
    yield label("pass")
    yield move(R0, Verdict.PASS)
    yield EXIT
    yield label("abort")
    yield move(R0, Verdict.ABORTED)
    yield EXIT


def _find_count(otherwise: str) -> Iterator[Line]:
    yield load_map(R1, COUNTS)
    yield move(R2, R10)
    yield add(R2, INDEX)
    yield call(Helper.MAP_LOOKUP_ELEM)
    yield jump_if(R0, "==", 0, otherwise)


def _add_to(base: Register, offset: int, amount: int) -> Iterator[Line]:
    yield load(DW, R1, base, offset)
    yield add(R1, amount)
    yield store(DW, base, offset, R1)
