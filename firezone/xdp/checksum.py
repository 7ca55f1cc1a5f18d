"""The UDP checksum of what the program sends."""

from __future__ import annotations

from collections.abc import Iterator

from firezone.xdp import routes
from firezone.xdp.assembler import (
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
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
    jump,
    jump_if,
    label,
    load,
    move,
    move_32,
    shift_left,
    shift_right,
    store,
    subtract,
    swap_16,
    xor,
)
from firezone.xdp.counts import Count
from firezone.xdp.layout import DATA, DATA_END, L4, UDP_SUM, Case, Settings, channel_length, fold

# The longest datagram whose checksum is finished, as frames fill a page at most, and the bytes that
# are added in one round.
_LONGEST, _STRIDE = 4096, 64


def udp_checksum(case: Case, settings: Settings) -> Iterator[Line]:
    """The new one, kept until it is written."""
    udp, known, done = L4[case.arrives], f"{case.name} sum", f"{case.name} summed"
    unfinished = f"{case.name} finish" if settings.native else Count.UNFINISHED_CHECKSUM.name
    yield load(H, R1, R7, udp + 6)
    yield jump_if(R1, "!=", 0, known)
    if case.arrives == 6 or case.departs == 6:
        yield jump(Count.MALFORMED.name)
    else:
        yield jump(done if settings.native else Count.UNFINISHED_CHECKSUM.name)
    yield label(known)
    yield load(H, R2, R8, routes.PSEUDO)
    yield load(H, R3, R7, udp + 4)
    yield add(R2, R3)
    yield from fold(R2, R3)
    yield jump_if(R1, "==", R2, unfinished)
    yield xor(R1, 0xFFFF)
    yield label(f"{case.name} finished")
    yield load(H, R2, R8, routes.UDP_DELTA)
    yield add(R1, R2)
    if case.from_client != case.to_client:
        yield from channel_length(R2, case)
        if case.from_client:
            yield xor(R2, 0xFFFF)
        yield add(R1, R2)
    yield from fold(R1, R2)
    yield xor(R1, 0xFFFF)
    yield jump_if(R1, "!=", 0, done)
    yield move(R1, 0xFFFF)
    yield label(done)
    yield store(H, R10, UDP_SUM, R1)


def finish_checksum(case: Case) -> Iterator[Line]:
    """R1 = the sum of the whole datagram as it came, with that of the pseudo-header in it."""
    udp, loop, tail = L4[case.arrives], f"{case.name} add", f"{case.name} rest"
    yield label(f"{case.name} finish")
    yield jump_if(R9, ">", _LONGEST, Count.UNFINISHED_CHECKSUM.name)
    yield load(W, R4, R6, DATA_END)
    yield move(R1, 0)
    yield move(R2, R7)
    yield add(R2, udp)
    yield move(R3, R9)
    yield label(loop)
    yield jump_if(R3, "<", _STRIDE, tail)
    yield from _add_words(_STRIDE)
    yield subtract(R3, _STRIDE)
    yield jump(loop)
    # What follows is the same to the verifier from whichever round it is reached, as nothing there
    # knows how much of the frame was seen, or looked at R9. Else it would follow each by itself.
    yield label(tail)
    yield load(W, R7, R6, DATA)
    yield move(R5, R7)
    yield add(R5, udp + 8)
    yield jump_if(R5, ">", R4, Count.MALFORMED.name)
    yield move(R3, R9)
    yield and_(R3, _STRIDE - 1)
    yield move(R2, R9)
    yield and_(R2, -_STRIDE)
    yield add(R2, R7)
    yield add(R2, udp)
    for step in (32, 16, 8, 4, 2, 1):
        present, absent = f"{case.name} {step} more", f"{case.name} not {step} more"
        yield jump_if(R3, "&", step, present)
        yield jump(absent)
        yield label(present)
        yield from _add_words(step)
        yield label(absent)
    yield move(R2, R1)
    yield shift_right(R2, 32)
    yield move_32(R1, R1)
    yield add(R1, R2)
    yield from fold(R1, R2)
    yield from fold(R1, R2)
    yield jump(f"{case.name} finished")


def _add_words(count: int) -> Iterator[Line]:
    """Add that many bytes at R2 to R1, and step over them. R4 is the frame's end."""
    yield move(R5, R2)
    yield add(R5, count)
    yield jump_if(R5, ">", R4, Count.MALFORMED.name)
    if count == 1:
        yield load(B, R5, R2)
        yield shift_left(R5, 8)
        yield swap_16(R5)
        yield add(R1, R5)
    for at in range(0, count - 1, 4):
        yield load(H if count == 2 else W, R5, R2, at)
        yield add(R1, R5)
    yield add(R2, count)
