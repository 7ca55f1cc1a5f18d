"""Filters by which the kernel brings each packet to the worker that has it.

A socket's filter reads the receiver index of transport data, also behind a ChannelData header, as
what comes through one relay comes from one address. All else (handshakes, STUN) goes to the first
worker. It is classic BPF, which needs no rights (SO_ATTACH_REUSEPORT_CBPF, Linux 4.5).

The filter of a TUN device spreads flows, each always into the same queue, so that its packets stay
in order. It is eBPF, which needs CAP_BPF. Without it the kernel chooses: it, too, keeps a flow in a
queue, but moves it to the one where packets of the other direction come from.

`firezone/_ext/steering.pxd` computes the same for what does not come through the kernel.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import socket
import struct
from collections.abc import Iterable

_SO_ATTACH_REUSEPORT_CBPF = 51
_TUNSETSTEERINGEBPF = 0x800454E0
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_BPF_PROG_LOAD = 5
_BPF_PROG_TYPE_SOCKET_FILTER = 1
_ATTRIBUTES = 128  # bytes; the kernel takes any size of which it knows the rest to be zero

_SPREAD = 0x9E3779B1


def steer_sockets(member: socket.socket, workers: int) -> None:
    """Tell a group of sockets of one port who gets what. `member` is any of them.

    They are numbered in the order of their binding. Raises OSError where the kernel refuses.
    """
    program = socket_program(workers)
    filters = ctypes.create_string_buffer(program, len(program))
    packed = struct.pack("@HP", len(program) // 8, ctypes.addressof(filters))
    member.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, packed)


def steer_queues(tun_fd: int, workers: int) -> bool:
    """Tell a TUN device which of its queues gets what. False where the kernel refuses."""
    program = _load(queue_program(workers))
    if program < 0:
        return False
    try:
        fcntl.ioctl(tun_fd, _TUNSETSTEERINGEBPF, struct.pack("@i", program))
    except OSError:
        return False
    finally:
        os.close(program)
    return True


def socket_program(workers: int) -> bytes:
    """Classic BPF over a datagram's payload: the number of its worker.

    A load beyond the end returns 0, the first worker.
    """
    return b"".join(
        struct.pack("@HBBI", *each)
        for each in (
            (_LOAD_BYTE, 0, 0, 0),
            (_JUMP_IF_EQUAL, 3, 0, _DATA),
            (_AND, 0, 0, 0xF0),
            (_JUMP_IF_EQUAL, 4, 0, _CHANNEL),
            (_RETURN, 0, 0, 0),
            # Transport data: the lowest byte of the tunnel id is the second one of the index.
            (_LOAD_BYTE, 0, 0, 5),
            (_MODULO, 0, 0, workers),
            (_RETURN_IT, 0, 0, 0),
            # ChannelData: perhaps the same behind four bytes.
            (_LOAD_BYTE, 0, 0, 4),
            (_JUMP_IF_EQUAL, 1, 0, _DATA),
            (_RETURN, 0, 0, 0),
            (_LOAD_BYTE, 0, 0, 9),
            (_MODULO, 0, 0, workers),
            (_RETURN_IT, 0, 0, 0),
        )
    )


def queue_program(workers: int) -> bytes:
    """eBPF over an IP packet: the number of its worker. r7 is the hash, r8 the first byte."""
    version_4: list[_Instruction | str] = [
        *_mix_words(12, 16),
        (_LOAD_PACKET_HALF, 0, 0, 0, 6),
        (_AND_IT, 0, 0, 0, 0x3FFF),  # more fragments, or an offset
        (_JUMP_IF, 0, 0, "whole 4", 0),
        (_SET, 0, 0, 0, _FRAGMENT_HEADER),
        *_MIX,
        (_JUMP, 0, 0, "end", 0),
        "whole 4",
        *_mix_byte(9),
        (_JUMP_UNLESS, 8, 0, "end", 0x45),  # options stand before the ports
        (_JUMP_IF, 0, 0, "ports 4", _TCP),
        (_JUMP_UNLESS, 0, 0, "end", _UDP),
        "ports 4",
        *_mix_words(20),
        (_JUMP, 0, 0, "end", 0),
    ]
    version_6: list[_Instruction | str] = [
        *_mix_words(*range(8, 40, 4)),
        *_mix_byte(6),
        (_JUMP_IF, 0, 0, "ports 6", _TCP),
        (_JUMP_UNLESS, 0, 0, "end", _UDP),
        "ports 6",
        *_mix_words(40),
    ]
    return _assemble(
        [
            (_MOVE, 6, 1, 0, 0),  # loads want the packet there
            (_SET, 7, 0, 0, 0),
            (_LOAD_PACKET_BYTE, 0, 0, 0, 0),
            (_MOVE, 8, 0, 0, 0),
            (_SHIFT_RIGHT, 0, 0, 0, 4),
            (_JUMP_IF, 0, 0, "version 6", 6),
            (_JUMP_UNLESS, 0, 0, "end", 4),
            *version_4,
            "version 6",
            *version_6,
            "end",
            (_MOVE, 0, 7, 0, 0),
            (_SHIFT_RIGHT, 0, 0, 0, 16),
            *_MIX,
            (_SHIFT_RIGHT, 7, 0, 0, 16),
            (_REMAINDER, 7, 0, 0, workers),
            (_MOVE, 0, 7, 0, 0),
            (_EXIT, 0, 0, 0, 0),
        ]
    )


# Classic BPF.
_LOAD_BYTE, _JUMP_IF_EQUAL, _AND, _MODULO, _RETURN, _RETURN_IT = 0x30, 0x15, 0x54, 0x94, 0x06, 0x16
_DATA, _CHANNEL = 4, 0x40

# eBPF: operation, destination, source, offset or label, number. Arithmetic is that of 32 bits.
_MOVE, _SET, _EXIT = 0xBF, 0xB4, 0x95
_LOAD_PACKET_BYTE, _LOAD_PACKET_HALF, _LOAD_PACKET_WORD = 0x30, 0x28, 0x20
_XOR, _MULTIPLY, _AND_IT, _SHIFT_RIGHT, _REMAINDER = 0xAC, 0x24, 0x54, 0x74, 0x94
_JUMP, _JUMP_IF, _JUMP_UNLESS = 0x05, 0x15, 0x55
_TCP, _UDP, _FRAGMENT_HEADER = 6, 17, 44

_Instruction = tuple[int, int, int, int | str, int]

_MIX: list[_Instruction] = [(_XOR, 7, 0, 0, 0), (_MULTIPLY, 7, 0, 0, _SPREAD)]


def _mix_words(*places: int) -> list[_Instruction]:
    return [each for place in places for each in _mix(_LOAD_PACKET_WORD, place)]


def _mix_byte(place: int) -> list[_Instruction]:
    return _mix(_LOAD_PACKET_BYTE, place)


def _mix(load: int, place: int) -> list[_Instruction]:
    return [(load, 0, 0, 0, place), *_MIX]


def _assemble(lines: Iterable[_Instruction | str]) -> bytes:
    """A label stands for the instruction behind it."""
    labels: dict[str, int] = {}
    instructions: list[_Instruction] = []
    for line in lines:
        if isinstance(line, str):
            labels[line] = len(instructions)
        else:
            instructions.append(line)
    code = b""
    for at, (operation, destination, source, offset, number) in enumerate(instructions):
        distance = labels[offset] - at - 1 if isinstance(offset, str) else offset
        code += struct.pack("@BBhI", operation, destination | source << 4, distance, number)
    return code


def _load(program: bytes) -> int:
    """A descriptor of the program, or -1."""
    number = _SYS_BPF.get(platform.machine())
    if number is None:
        return -1
    code = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "@IIQQ",
        _BPF_PROG_TYPE_SOCKET_FILTER,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_),
    ).ljust(_ATTRIBUTES, b"\0")
    given = ctypes.create_string_buffer(attributes, _ATTRIBUTES)
    loaded: int = ctypes.CDLL(None).syscall(number, _BPF_PROG_LOAD, given, _ATTRIBUTES)
    return loaded
