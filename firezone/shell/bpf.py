"""Speaks bpf(2): maps, programs, test runs, and links that attach a program to an interface.

What is made here belongs to descriptors: once they are closed, and so when the process ends in
whatever way, programs are detached and maps are gone. Nothing is left to clean up.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

HASH, PERCPU_ARRAY = 1, 6
"""Types of maps."""
ANY: Final = 0
NO_PREALLOC: Final = 1
"""A map that takes memory as its entries come."""


class XdpMode(IntEnum):
    """Where in its way through the kernel a packet meets the program."""

    GENERIC = 1 << 1
    """In any device's packets, once the kernel has made a buffer of its own for them."""
    NATIVE = 1 << 2
    """In the driver, before."""


class VerifierError(OSError):
    """The kernel refuses a program; `log` is what its verifier says."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(code, os.strerror(code))
        self.log = log


@dataclass(frozen=True, slots=True)
class TestRun:
    """What became of a packet."""

    verdict: int
    packet: bytes


class Descriptor:
    """Owns one descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Map(Descriptor):
    """Fixed-size keys to fixed-size values. Methods raise OSError, as the kernel has it."""

    def __init__(
        self, kind: int, *, key_size: int, value_size: int, entries: int, flags: int = 0
    ) -> None:
        attributes = struct.pack(
            "=5I2I16s", kind, key_size, value_size, entries, flags, 0, 0, _NAME
        )
        super().__init__(bpf(_MAP_CREATE, attributes))
        copies = _possible_cpus() if kind == PERCPU_ARRAY else 1
        self._value_size = copies * (value_size if copies == 1 else value_size + 7 & ~7)

    def update(self, key: bytes, value: bytes) -> None:
        """Put an entry there, or replace it."""
        bpf(_MAP_UPDATE, *self._element(key, value))

    def lookup(self, key: bytes) -> bytes | None:
        """The value, for maps with one per CPU all of them in a row; None if there is no entry."""
        return self._find(_MAP_LOOKUP, key)

    def pop(self, key: bytes) -> bytes | None:
        """Take an entry away; what it was, None if there was none."""
        return self._find(_MAP_LOOKUP_AND_DELETE, key)

    def _find(self, command: int, key: bytes) -> bytes | None:
        value = ctypes.create_string_buffer(self._value_size)
        try:
            bpf(command, *self._element(key, value))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return value.raw

    def _element(self, key: bytes, value: object) -> tuple[bytes, object, object]:
        kept = ctypes.create_string_buffer(key, len(key))
        if isinstance(value, bytes):
            value = ctypes.create_string_buffer(value, len(value))
        addresses = (ctypes.addressof(kept), ctypes.addressof(value))  # type: ignore[arg-type]
        return struct.pack("=IxxxxQQQ", self.fd, *addresses, ANY), kept, value


class XdpProgram(Descriptor):
    """A program for packets, as the kernel has taken it."""

    def __init__(self, code: bytes, licence: str) -> None:
        """Raises VerifierError, PermissionError or another OSError."""
        try:
            fd = _load(code, licence, log_size=0)
        except OSError as error:
            if error.errno == errno.EPERM:
                raise
            fd = _load(code, licence, log_size=_LOG_SIZE)
        super().__init__(fd)

    def test_run(self, packet: bytes) -> TestRun:
        """Run it on a packet, as if it had come by the loopback."""
        given = ctypes.create_string_buffer(packet, len(packet))
        result = ctypes.create_string_buffer(len(packet) + 256)
        attributes = bytearray(
            struct.pack(
                "=4I2Q4I2Q3I",
                *(self.fd, 0, len(packet), len(result)),
                *(ctypes.addressof(given), ctypes.addressof(result)),
                *(1, 0, 0, 0, 0, 0, 0, 0, 0),
            )
        )
        bpf(_PROG_TEST_RUN, attributes)
        _, verdict, _, length = struct.unpack_from("=4I", attributes)
        return TestRun(verdict, result.raw[:length])


class SocketFilter(Descriptor):
    """A program for the packets of a socket or a TUN device, as the kernel has taken it."""

    def __init__(self, code: bytes, licence: str) -> None:
        """Raises OSError: PermissionError without CAP_BPF."""
        super().__init__(_load(code, licence, 0, _PROG_TYPE_SOCKET_FILTER, 0))


class XdpLink(Descriptor):
    """A program at work on an interface, until it is closed. Raises OSError."""

    def __init__(self, program: XdpProgram, interface: int, mode: XdpMode) -> None:
        super().__init__(
            bpf(_LINK_CREATE, struct.pack("=4I", program.fd, interface, _BPF_XDP, mode))
        )


def bpf(command: int, attributes: bytes | bytearray, *kept: object) -> int:
    """One call, bpf(2); what it returns. `kept` is what the attributes point to. A bytearray gets
    what the kernel writes into them. Raises OSError."""
    number = _CALL.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) on {platform.machine()} is not known here")
    buffer = ctypes.create_string_buffer(bytes(attributes), len(attributes))
    result: int = _libc.syscall(
        ctypes.c_long(number), command, ctypes.byref(buffer), ctypes.c_uint(len(buffer))
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if isinstance(attributes, bytearray):
        attributes[:] = buffer.raw
    return result


_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _PROG_LOAD, _PROG_TEST_RUN = 0, 1, 2, 5, 10
_MAP_LOOKUP_AND_DELETE, _LINK_CREATE = 21, 28
_PROG_TYPE_SOCKET_FILTER, _PROG_TYPE_XDP = 1, 6
_BPF_XDP = 37
_LOG_SIZE = 1 << 20
_NAME = b"firezone"
_CALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_libc = ctypes.CDLL(None, use_errno=True)


def _load(
    code: bytes, licence: str, log_size: int, kind: int = _PROG_TYPE_XDP, attach: int = _BPF_XDP
) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    granted = ctypes.create_string_buffer(licence.encode())
    log = ctypes.create_string_buffer(max(log_size, 1))
    attributes = struct.pack(
        "=2I2Q2IQ2I16s2I",
        *(kind, len(code) // 8),
        *(ctypes.addressof(instructions), ctypes.addressof(granted)),
        *(1 if log_size else 0, log_size, ctypes.addressof(log) if log_size else 0),
        *(0, 0, _NAME, 0, attach),
    )
    try:
        return bpf(_PROG_LOAD, attributes, instructions, granted, log)
    except OSError as error:
        if not log_size:
            raise
        raise VerifierError(error.errno or 0, log.value.decode(errors="replace")) from None


def _possible_cpus() -> int:
    with open("/sys/devices/system/cpu/possible") as file:
        return sum(_length(part) for part in file.read().strip().split(","))


def _length(part: str) -> int:
    first, _, last = part.partition("-")
    return int(last or first) - int(first) + 1
