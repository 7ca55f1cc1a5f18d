"""The assembler: encodings as other assemblers have them (llvm-objdump -d), labels and maps."""

from __future__ import annotations

import sys

import pytest

from firezone.errors import LocalError
from firezone.xdp.assembler import (
    DW,
    EXIT,
    MAX_INSTRUCTIONS,
    R0,
    R1,
    R2,
    R3,
    R6,
    R7,
    R8,
    R10,
    B,
    H,
    Helper,
    Line,
    W,
    add,
    add_to_memory,
    and_,
    assemble,
    call,
    jump,
    jump_if,
    label,
    load,
    load_map,
    move,
    move_32,
    or_,
    shift_left,
    shift_right,
    store,
    subtract,
    swap_16,
    xor,
)

pytestmark = pytest.mark.skipif(sys.byteorder == "big", reason="bytes of little-endian machines")

KNOWN = [
    (move(R0, 0), "b700000000000000"),  # r0 = 0
    (move(R6, R1), "bf16000000000000"),  # r6 = r1
    (move(R2, -40), "b7020000d8ffffff"),  # r2 = -40
    (move_32(R3, R2), "bc23000000000000"),  # w3 = w2
    (add(R2, -40), "07020000d8ffffff"),  # r2 += -40
    (add(R2, R3), "0f32000000000000"),  # r2 += r3
    (subtract(R2, 1), "1702000001000000"),  # r2 -= 1
    (and_(R1, 0xFFFF), "57010000ffff0000"),  # r1 &= 65535
    (or_(R1, R2), "4f21000000000000"),  # r1 |= r2
    (xor(R1, 0xFFFF), "a7010000ffff0000"),  # r1 ^= 65535
    (shift_left(R1, 8), "6701000008000000"),  # r1 <<= 8
    (shift_right(R1, R2), "7f21000000000000"),  # r1 >>= r2
    (swap_16(R1), "dc01000010000000"),  # r1 = be16 r1
    (load(W, R7, R6, 4), "6167040000000000"),  # r7 = *(u32 *)(r6 + 4)
    (load(B, R1, R7), "7171000000000000"),  # r1 = *(u8 *)(r7 + 0)
    (load(H, R1, R7, 12), "69710c0000000000"),  # r1 = *(u16 *)(r7 + 12)
    (load(DW, R1, R10, -8), "79a1f8ff00000000"),  # r1 = *(u64 *)(r10 - 8)
    (store(DW, R10, -8, R1), "7b1af8ff00000000"),  # *(u64 *)(r10 - 8) = r1
    (store(W, R10, -4, 5), "620afcff05000000"),  # *(u32 *)(r10 - 4) = 5
    (store(H, R7, 12, 8), "6a070c0008000000"),  # *(u16 *)(r7 + 12) = 8
    (store(B, R7, 1, R2), "7327010000000000"),  # *(u8 *)(r7 + 1) = r2
    (add_to_memory(R8, 48, R1), "db18300000000000"),  # lock *(u64 *)(r8 + 48) += r1
    (call(Helper.MAP_LOOKUP_ELEM), "8500000001000000"),  # call 1
    (EXIT, "9500000000000000"),
]


@pytest.mark.parametrize(("line", "code"), KNOWN, ids=lambda x: x if isinstance(x, str) else "")
def test_encoding(line: Line, code: str) -> None:
    assert assemble([line]).hex() == code


@pytest.mark.parametrize(
    ("comparison", "opcode"),
    [("==", 0x15), ("!=", 0x55), (">", 0x25), (">=", 0x35), ("<", 0xA5), ("<=", 0xB5), ("&", 0x45)],
)
def test_comparisons(comparison: str, opcode: int) -> None:
    lines = [jump_if(R1, comparison, 7, "end"), jump_if(R1, comparison, R2, "end"), label("end")]
    assert assemble(lines) == bytes([opcode, 1, 1, 0, 7, 0, 0, 0, opcode | 8, 0x21, *bytes(6)])


def test_jumps_go_over_what_is_between() -> None:
    """A map's address takes the room of two."""
    lines = [label("start"), jump("end"), load_map(R1, "m"), EXIT, label("end"), jump("start")]
    assert assemble(lines, {"m": 9}).hex(" ", 8) == (
        "0500030000000000 1811000009000000 0000000000000000 9500000000000000 0500fbff00000000"
    )


@pytest.mark.parametrize(
    "lines",
    [
        [jump("nowhere")],
        [load_map(R1, "absent")],
        [label("twice"), label("twice")],
        [EXIT] * (MAX_INSTRUCTIONS + 1),
    ],
)
def test_mistakes(lines: list[Line]) -> None:
    with pytest.raises(LocalError):
        assemble(lines)


@pytest.mark.parametrize("value", [1 << 31, -(1 << 31) - 1])
def test_numbers_without_room(value: int) -> None:
    with pytest.raises(LocalError):
        move(R0, value)
