"""A small assembler of eBPF (RFC 9669): instructions as objects, labels, maps by name.

    code = assemble([load(W, R0, R1), jump_if(R0, "==", 0, "end"), move(R0, 1), label("end"), EXIT])

`assemble` puts distances in the place of labels, and each instruction encodes to eight bytes, or
sixteen where it holds a 64-bit value. Loads and stores are of the machine's own byte order; what
comes from a packet and goes into one needs no swapping, unless it is compared or added to.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from firezone.errors import LocalError


class Register(IntEnum):
    """R1 to R5 are arguments and do not survive a call, R6 to R9 do; R10 is the frame's end."""

    R0 = 0
    R1 = 1
    R2 = 2
    R3 = 3
    R4 = 4
    R5 = 5
    R6 = 6
    R7 = 7
    R8 = 8
    R9 = 9
    R10 = 10


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register


class Size(IntEnum):
    """Of what is loaded or stored."""

    B = 0x10
    H = 0x08
    W = 0x00
    DW = 0x18


B, H, W, DW = Size


class Helper(IntEnum):
    """The kernel's functions, bpf-helpers(7)."""

    MAP_LOOKUP_ELEM = 1
    XDP_ADJUST_HEAD = 44
    FIB_LOOKUP = 69


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction. `target` is the label it jumps to, `map` the map whose address it loads."""

    opcode: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    immediate: int = 0
    target: str | None = None
    map: str | None = None

    @property
    def length(self) -> int:
        """In units of eight bytes."""
        return 2 if self.opcode == _LOAD_64 else 1

    def encode(self) -> bytes:
        """As the kernel takes it."""
        low = self.src << 4 | self.dst if _LITTLE else self.dst << 4 | self.src
        immediate = self.immediate & 0xFFFFFFFF
        first = struct.pack("=BBhI", self.opcode, low, self.offset, immediate)
        if self.length == 1:
            return first
        return first + struct.pack("=BBhI", 0, 0, 0, self.immediate >> 32 & 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Label:
    """A place in the program; takes no room."""

    name: str


Line = Instruction | Label
Value = Register | int
"""What an instruction works with: a register, or a number of 32 bits with a sign."""


def label(name: str) -> Label:
    return Label(name)


def move(dst: Register, value: Value) -> Instruction:
    return _alu(0xB0, dst, value)


def add(dst: Register, value: Value) -> Instruction:
    return _alu(0x00, dst, value)


def subtract(dst: Register, value: Value) -> Instruction:
    return _alu(0x10, dst, value)


def and_(dst: Register, value: Value) -> Instruction:
    return _alu(0x50, dst, value)


def or_(dst: Register, value: Value) -> Instruction:
    return _alu(0x40, dst, value)


def xor(dst: Register, value: Value) -> Instruction:
    return _alu(0xA0, dst, value)


def shift_left(dst: Register, value: Value) -> Instruction:
    return _alu(0x60, dst, value)


def shift_right(dst: Register, value: Value) -> Instruction:
    return _alu(0x70, dst, value)


def move_32(dst: Register, src: Register) -> Instruction:
    """Also clears the upper half."""
    return Instruction(0xBC, dst, src)


def swap_16(dst: Register) -> Instruction:
    """Between the network's order of the low 16 bits and ours; clears the rest."""
    return Instruction(0xDC, dst, immediate=16)


def load(size: Size, dst: Register, base: Register, offset: int = 0) -> Instruction:
    """dst = what stands at base + offset."""
    return Instruction(0x61 | size, dst, base, offset)


def store(size: Size, base: Register, offset: int, value: Value) -> Instruction:
    """Put a value at base + offset."""
    if isinstance(value, Register):
        return Instruction(0x63 | size, base, value, offset)
    return Instruction(0x62 | size, base, offset=offset, immediate=_checked(value))


def add_to_memory(base: Register, offset: int, value: Register) -> Instruction:
    """Add to the 64 bits at base + offset, in one step for all CPUs."""
    return Instruction(0xDB, base, value, offset)


def jump(target: str) -> Instruction:
    return Instruction(0x05, target=target)


def jump_if(left: Register, comparison: str, right: Value, target: str) -> Instruction:
    """Comparisons of 64 bits without a sign; `&` jumps if there is a bit common to both."""
    opcode = _COMPARISONS[comparison]
    if isinstance(right, Register):
        return Instruction(opcode | 0x08, left, right, target=target)
    return Instruction(opcode, left, immediate=_checked(right), target=target)


def call(helper: Helper) -> Instruction:
    """R0 = helper(R1, ..., R5)."""
    return Instruction(0x85, immediate=helper)


def load_map(dst: Register, name: str) -> Instruction:
    """dst = the address of a map, for a helper."""
    return Instruction(_LOAD_64, dst, src=1, map=name)


EXIT: Final = Instruction(0x95)
"""Return R0."""

MAX_INSTRUCTIONS: Final = 4096
"""What kernels take from everybody."""


def assemble(lines: Iterable[Line], maps: Mapping[str, int] | None = None) -> bytes:
    """Machine code. `maps` are the descriptors of the maps that are named in it.

    Raises LocalError for a label or map that is missing, or a label that is there twice.
    """
    lines = [*lines]
    places = _places(lines)
    code = bytearray()
    for line in lines:
        if isinstance(line, Instruction):
            code += _resolved(line, len(code) // 8, places, maps or {}).encode()
    if len(code) > 8 * MAX_INSTRUCTIONS:
        raise LocalError(f"{len(code) // 8} instructions are more than {MAX_INSTRUCTIONS}")
    return bytes(code)


def _places(lines: Iterable[Line]) -> dict[str, int]:
    places: dict[str, int] = {}
    at = 0
    for line in lines:
        if isinstance(line, Instruction):
            at += line.length
        elif line.name in places:
            raise LocalError(f"the label {line.name!r} is there twice")
        else:
            places[line.name] = at
    return places


def _resolved(
    line: Instruction, at: int, places: Mapping[str, int], maps: Mapping[str, int]
) -> Instruction:
    offset, immediate = line.offset, line.immediate
    if line.target is not None:
        if line.target not in places:
            raise LocalError(f"there is no label {line.target!r}")
        offset = places[line.target] - at - 1
    if line.map is not None:
        if line.map not in maps:
            raise LocalError(f"there is no map {line.map!r}")
        immediate = maps[line.map]
    return Instruction(line.opcode, line.dst, line.src, offset, immediate)


_LITTLE = sys.byteorder == "little"
_LOAD_64 = 0x18
_COMPARISONS = {"==": 0x15, "!=": 0x55, ">": 0x25, ">=": 0x35, "<": 0xA5, "<=": 0xB5, "&": 0x45}


def _alu(operation: int, dst: Register, value: Value) -> Instruction:
    if isinstance(value, Register):
        return Instruction(0x0F | operation, dst, value)
    return Instruction(0x07 | operation, dst, immediate=_checked(value))


def _checked(value: int) -> int:
    if not -(1 << 31) <= value < 1 << 31:
        raise LocalError(f"{value} has no room in an instruction")
    return value
