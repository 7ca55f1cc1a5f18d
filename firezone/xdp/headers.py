"""Writes the headers of what the program sends."""

from __future__ import annotations

from collections.abc import Iterator

from firezone.xdp import routes
from firezone.xdp.assembler import (
    DW,
    R1,
    R2,
    R7,
    R8,
    R9,
    R10,
    B,
    H,
    Line,
    W,
    add,
    and_,
    load,
    move,
    or_,
    shift_left,
    shift_right,
    store,
    subtract,
    swap_16,
    xor,
)
from firezone.xdp.layout import (
    ADDRESSES_V4,
    ADDRESSES_V6,
    ETHER_TYPE,
    FIB_NEXT_MAC,
    FIB_OUR_MAC,
    FRAGMENT,
    HOP_LIMIT,
    IP_SUM,
    KEPT,
    KEPT_TTL,
    L3,
    L4,
    NEXT_HEADER,
    PAYLOAD_LENGTH,
    PROTOCOL,
    TOTAL_LENGTH,
    TTL,
    UDP_SUM,
    Case,
    channel_length,
    ether_type,
    fold,
    length_field,
    network_16,
)


def keep_headers(case: Case) -> Iterator[Line]:
    yield load(DW, R1, R7, L3)
    yield store(DW, R10, KEPT, R1)
    if case.arrives == 4:
        yield load(W, R1, R7, TTL)
        yield store(W, R10, KEPT_TTL, R1)


def write_ethernet(case: Case) -> Iterator[Line]:
    places = [(H, 0, FIB_NEXT_MAC), (W, 2, FIB_NEXT_MAC + 2)]
    places += [(W, 6, FIB_OUR_MAC), (H, 10, FIB_OUR_MAC + 4)]
    for size, at, kept in places:
        yield load(size, R1, R10, kept)
        yield store(size, R7, at, R1)
    yield store(H, R7, ETHER_TYPE, ether_type(case.departs))


def write_ip(case: Case) -> Iterator[Line]:
    match case.arrives, case.departs:
        case 4, 4:
            yield from _write_v4_from_v4(case)
        case 6, 6:
            yield from _write_v6_from_v6()
        case 6, 4:
            yield from _write_v4_from_v6(case)
        case 4, 6:
            yield from _write_v6_from_v4()
    if case.departs == 4:
        for at, field in ((0, routes.LOCAL), (4, routes.REMOTE)):
            yield load(W, R1, R8, field + 12)
            yield store(W, R7, ADDRESSES_V4 + at, R1)
    else:
        yield from length_field(R1, case.growth)
        yield store(H, R7, PAYLOAD_LENGTH, R1)
        for at in range(0, 32, 8):
            yield load(DW, R1, R8, routes.LOCAL + at)
            yield store(DW, R7, ADDRESSES_V6 + at, R1)


def _write_v4_from_v4(case: Case) -> Iterator[Line]:
    """The identification stays, too."""
    yield load(DW, R1, R10, KEPT)
    yield store(DW, R7, L3, R1)
    yield load(W, R1, R10, KEPT_TTL)
    yield store(W, R7, TTL, R1)
    yield load(B, R1, R7, TTL)
    yield subtract(R1, 1)
    yield store(B, R7, TTL, R1)
    yield load(H, R1, R7, IP_SUM)
    yield xor(R1, 0xFFFF)
    yield load(H, R2, R8, routes.IP_DELTA)
    yield add(R1, R2)
    yield from fold(R1, R2)
    yield xor(R1, 0xFFFF)
    yield store(H, R7, IP_SUM, R1)
    yield from length_field(R1, case.growth + routes.IP_HEADER[4])
    yield store(H, R7, TOTAL_LENGTH, R1)


def _write_v6_from_v6() -> Iterator[Line]:
    yield load(DW, R1, R10, KEPT)
    yield store(DW, R7, L3, R1)
    yield load(B, R1, R7, HOP_LIMIT)
    yield subtract(R1, 1)
    yield store(B, R7, HOP_LIMIT, R1)


def _write_v4_from_v6(case: Case) -> Iterator[Line]:
    """Nothing that could be fragmented, so no identification (RFC 6864)."""
    yield load(H, R1, R10, KEPT)
    yield swap_16(R1)
    yield shift_right(R1, 4)
    yield and_(R1, 0xFF)
    yield move(R2, R1)
    yield or_(R1, 0x4500)
    yield swap_16(R1)
    yield store(H, R7, L3, R1)
    yield move(R1, R9)
    yield add(R1, case.growth + routes.IP_HEADER[4])
    yield add(R2, R1)
    yield swap_16(R1)
    yield store(H, R7, TOTAL_LENGTH, R1)
    yield store(H, R7, FRAGMENT - 2, 0)
    yield store(H, R7, FRAGMENT, network_16(0x4000))
    yield load(B, R1, R10, KEPT + 7)
    yield subtract(R1, 1)
    yield store(B, R7, TTL, R1)
    yield store(B, R7, PROTOCOL, routes.UDP)
    yield shift_left(R1, 8)
    yield add(R2, R1)
    yield from fold(R2, R1)
    yield swap_16(R2)
    yield load(H, R1, R8, routes.IP_DELTA)
    yield add(R1, R2)
    yield from fold(R1, R2)
    yield xor(R1, 0xFFFF)
    yield store(H, R7, IP_SUM, R1)


def _write_v6_from_v4() -> Iterator[Line]:
    """Without a flow label, as there was none."""
    yield load(B, R1, R10, KEPT + 1)
    yield shift_left(R1, 4)
    yield or_(R1, 0x6000)
    yield swap_16(R1)
    yield store(H, R7, L3, R1)
    yield store(H, R7, L3 + 2, 0)
    yield store(B, R7, NEXT_HEADER, routes.UDP)
    yield load(B, R1, R10, KEPT_TTL)
    yield subtract(R1, 1)
    yield store(B, R7, HOP_LIMIT, R1)


def write_udp(case: Case) -> Iterator[Line]:
    udp = L4[case.departs]
    yield load(W, R1, R8, routes.LOCAL_PORT)
    yield store(W, R7, udp, R1)
    yield from length_field(R1, case.growth)
    yield store(H, R7, udp + 4, R1)
    yield load(H, R1, R10, UDP_SUM)
    yield store(H, R7, udp + 6, R1)
    if case.to_client:
        yield load(H, R1, R8, routes.CHANNEL)
        yield store(H, R7, udp + 8, R1)
        yield from channel_length(R1, case)
        yield store(H, R7, udp + 10, R1)
