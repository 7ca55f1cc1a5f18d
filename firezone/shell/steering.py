"""Filters by which the kernel brings each packet to the worker that has it.

A socket's filter reads the receiver index of transport data. All else goes to the first worker:
handshakes, STUN, and what comes through relays, as the kernel may have merged datagrams of several
peers there. If each peer's own worker got some of those from the kernel and others from whoever got
the merged ones, a flow's packets would come out of order. It is classic BPF, which needs no rights
(SO_ATTACH_REUSEPORT_CBPF, Linux 4.5).

The filter of a TUN device spreads flows, each always into the same queue, so that its packets stay
in order. It is eBPF, which needs CAP_BPF. Without it the kernel chooses: it, too, keeps a flow in a
queue, but moves it to the one where packets of the other direction come from.

`firezone/_ext/steering.pxd` computes the same for what does not come through the kernel.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

from firezone.shell.bpf import SocketFilter
from firezone.xdp.assembler import (
    EXIT,
    R0,
    R1,
    R6,
    R7,
    R8,
    B,
    H,
    Instruction,
    Line,
    Register,
    Size,
    W,
    and_,
    assemble,
    jump,
    jump_if,
    label,
    move,
    shift_right,
    xor,
)

_SO_ATTACH_REUSEPORT_CBPF = 51
_TUNSETSTEERINGEBPF = 0x800454E0
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
    try:
        program = SocketFilter(queue_program(workers), "Apache-2.0")
    except OSError:
        return False
    try:
        fcntl.ioctl(tun_fd, _TUNSETSTEERINGEBPF, struct.pack("@i", program.fd))
    except OSError:
        return False
    finally:
        program.close()
    return True


def socket_program(workers: int) -> bytes:
    """Classic BPF over a datagram's payload: the number of its worker.

    A load beyond the end returns 0, the first worker.
    """
    return b"".join(
        struct.pack("@HBBI", *each)
        for each in (
            (_LOAD_BYTE, 0, 0, 0),
            (_JUMP_IF_EQUAL, 1, 0, _DATA),
            (_RETURN, 0, 0, 0),
            # The lowest byte of the tunnel id is the second one of the index.
            (_LOAD_BYTE, 0, 0, 5),
            (_MODULO, 0, 0, workers),
            (_RETURN_IT, 0, 0, 0),
        )
    )


def queue_program(workers: int) -> bytes:
    """eBPF over an IP packet: the number of its worker. R7 is the hash, R8 the first byte."""
    return assemble(
        [
            move(R6, R1),  # loads from the packet want it there
            move(R7, 0),
            _load_packet(B, 0),
            move(R8, R0),
            shift_right(R0, 4),
            jump_if(R0, "==", 6, "version 6"),
            jump_if(R0, "!=", 4, "end"),
            *_hash_of_version_4(),
            label("version 6"),
            *_hash_of_version_6(),
            label("end"),
            move(R0, R7),
            shift_right(R0, 16),
            *_MIX,
            shift_right(R7, 16),
            _remainder(R7, workers),
            move(R0, R7),
            EXIT,
        ]
    )


def _hash_of_version_4() -> list[Line]:
    return [
        *_mix_words(12, 16),
        _load_packet(H, 6),
        and_(R0, 0x3FFF),  # more fragments, or an offset
        jump_if(R0, "==", 0, "whole 4"),
        move(R0, _FRAGMENT_HEADER),
        *_MIX,
        jump("end"),
        label("whole 4"),
        *_mix_byte(9),
        jump_if(R8, "!=", 0x45, "end"),  # options stand before the ports
        jump_if(R0, "==", _TCP, "ports 4"),
        jump_if(R0, "!=", _UDP, "end"),
        label("ports 4"),
        *_mix_words(20),
        jump("end"),
    ]


def _hash_of_version_6() -> list[Line]:
    return [
        *_mix_words(*range(8, 40, 4)),
        *_mix_byte(6),
        jump_if(R0, "==", _TCP, "ports 6"),
        jump_if(R0, "!=", _UDP, "end"),
        label("ports 6"),
        *_mix_words(40),
    ]


def _mix_words(*places: int) -> list[Instruction]:
    return [each for place in places for each in (_load_packet(W, place), *_MIX)]


def _mix_byte(place: int) -> list[Instruction]:
    return [_load_packet(B, place), *_MIX]


def _load_packet(size: Size, place: int) -> Instruction:
    """R0 = what stands there, in our order. Beyond the end it returns 0, the first worker."""
    return Instruction(0x20 | size, immediate=place)


def _remainder(dst: Register, number: int) -> Instruction:
    return Instruction(0x94, dst, immediate=number)


# R7 = (R7 xor R0) * _SPREAD, of 32 bits.
_MIX = (xor(R7, R0), Instruction(0x24, R7, immediate=_SPREAD))
_TCP, _UDP, _FRAGMENT_HEADER = 6, 17, 44

# Classic BPF.
_LOAD_BYTE, _JUMP_IF_EQUAL, _MODULO, _RETURN, _RETURN_IT = 0x30, 0x15, 0x94, 0x06, 0x16
_DATA = 4
