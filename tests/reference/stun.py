"""STUN messages in plain Python, as the kernel reads and writes them."""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

from firezone.model import Endpoint
from firezone.stun import AddressError, ErrorCode

COOKIE = 0x2112A442
INTEGRITY, FINGERPRINT = 0x0008, 0x8028
FAMILIES, SIZES = {1: 4, 2: 6}, {4: 8, 6: 20}

Read = Callable[[bytes, bytes], Any]
Write = Callable[[Any, bytes], bytes]
Values = tuple[tuple[int, Any], ...]


def require(condition: bool) -> None:
    if not condition:
        raise ValueError


def masked(value: bytes, transaction_id: bytes) -> bytes:
    mask = struct.pack(">xxHI", COOKIE >> 16, COOKIE) + transaction_id
    return bytes(a ^ b for a, b in zip(value, mask, strict=False)) + value[20:]


def read_address(value: bytes, _: bytes) -> Endpoint:
    require(len(value) >= 4 and len(value) == SIZES.get(FAMILIES.get(value[1], 0)))
    return Endpoint(ip_address(value[4:]), int.from_bytes(value[2:4]))


def write_address(value: Endpoint, _: bytes) -> bytes:
    packed = value.address.packed
    return bytes([0, value.family // 2 - 1]) + value.port.to_bytes(2) + packed


def read_masked(value: bytes, transaction_id: bytes) -> Endpoint:
    return read_address(masked(value, transaction_id), b"")


def write_masked(value: Endpoint, transaction_id: bytes) -> bytes:
    return masked(write_address(value, b""), transaction_id)


def text(characters: int, size: int) -> tuple[Read, Write]:
    def fits(value: str, raw: bytes) -> None:
        require(len(value) <= characters and len(raw) <= size)

    def read(raw: bytes, _: bytes) -> str:
        value = raw.decode()
        fits(value, raw)
        return value

    def write(value: str, _: bytes) -> bytes:
        fits(value, value.encode())
        return value.encode()

    return read, write


def number(size: int, reserved: int = 0) -> tuple[Read, Write]:
    def read(raw: bytes, _: bytes) -> int:
        require(len(raw) == size + reserved)
        return int.from_bytes(raw[:size])

    def write(value: int, _: bytes) -> bytes:
        return value.to_bytes(size) + bytes(reserved)

    return read, write


def opaque(size: int | None = None) -> tuple[Read, Write]:
    def same(value: bytes, _: bytes) -> bytes:
        require(size is None or len(value) == size)
        return value

    return same, same


def read_family(raw: bytes, _: bytes) -> int:
    require(len(raw) == 4 and raw[0] in FAMILIES)
    return FAMILIES[raw[0]]


def read_flag(raw: bytes, _: bytes) -> bool:
    require(raw == b"")
    return True


def write_flag(value: bool, _: bytes) -> bytes:
    require(value)
    return b""


def read_even_port(raw: bytes, _: bytes) -> bool:
    require(len(raw) == 1)
    return raw[0] >= 0x80


def read_error(raw: bytes, _: bytes) -> ErrorCode:
    require(4 <= len(raw) <= 767)
    hundreds, rest = raw[2] & 7, raw[3]
    require(3 <= hundreds <= 6 and rest < 100)
    return ErrorCode(hundreds * 100 + rest, raw[4:].decode())


def write_error(value: ErrorCode, _: bytes) -> bytes:
    reason = value.reason.encode()
    require(300 <= value.code < 700 and len(reason) <= 763)
    return bytes([0, 0, value.code // 100, value.code % 100]) + reason


def read_address_error(raw: bytes, _: bytes) -> AddressError:
    error = read_error(raw, b"")
    require(raw[0] in FAMILIES)
    return AddressError(FAMILIES[raw[0]], error)


def write_address_error(value: AddressError, _: bytes) -> bytes:
    require(value.family in SIZES)
    return bytes([value.family // 2 - 1]) + write_error(value.error, b"")[1:]


def read_codes(raw: bytes, _: bytes) -> tuple[int, ...]:
    require(len(raw) % 2 == 0)
    return tuple(int.from_bytes(raw[at : at + 2]) for at in range(0, len(raw), 2))


def write_family(value: int, _: bytes) -> bytes:
    require(value in SIZES)
    return bytes([value // 2 - 1, 0, 0, 0])


ADDRESS, MASKED = (read_address, write_address), (read_masked, write_masked)
FAMILY, FLAG = (read_family, write_family), (read_flag, write_flag)
CODES = (read_codes, lambda codes, _: b"".join(code.to_bytes(2) for code in codes))
EVEN_PORT = (read_even_port, lambda value, _: bytes([0x80 * value]))
SHORT = text(127, 763)

LAYOUTS: dict[int, tuple[Read, Write]] = {
    0x0001: ADDRESS,
    0x0006: text(512, 512),
    0x0008: opaque(20),
    0x0009: (read_error, write_error),
    0x000A: CODES,
    0x000C: number(2, 2),
    0x000D: number(4),
    0x0012: MASKED,
    0x0013: opaque(),
    0x0014: SHORT,
    0x0015: SHORT,
    0x0016: MASKED,
    0x0017: FAMILY,
    0x0018: EVEN_PORT,
    0x0019: number(1, 3),
    0x001A: FLAG,
    0x0020: MASKED,
    0x0022: opaque(8),
    0x0024: number(4),
    0x0025: FLAG,
    0x8000: FAMILY,
    0x8001: (read_address_error, write_address_error),
    0x8022: SHORT,
    0x8023: ADDRESS,
    0x8028: number(4),
    0x8029: number(8),
    0x802A: number(8),
}
REPEATABLE = {0x0012, 0x0016, 0x8001}


class Malformed(Exception):
    pass


def decode(data: bytes) -> Any:
    """What `firezone._ext.stun.decode` returns, with codes for attributes."""
    reason = not_stun(data)
    if reason is not None:
        return reason
    type_, transaction_id = int.from_bytes(data[:2]), data[8:20]
    class_ = (type_ >> 8 & 1) << 1 | type_ >> 4 & 1
    method = type_ & 15 | (type_ >> 5 & 7) << 4 | (type_ >> 9 & 1) << 7
    try:
        return class_, method, transaction_id, *attributes(data, transaction_id)
    except Malformed:
        return "attribute_overruns"


def not_stun(data: bytes) -> str | None:
    if len(data) < 20:
        return "too_short"
    type_, length, cookie = struct.unpack_from(">HHI", data)
    if type_ > 0x03FF:
        return "not_stun"
    if cookie != COOKIE:
        return "wrong_cookie"
    return "wrong_length" if length % 4 or len(data) != 20 + length else None


def attributes(data: bytes, transaction_id: bytes) -> Any:
    values: list[tuple[int, Any]] = []
    seen: set[int] = set()
    unknown: list[int] = []
    malformed = integrity_at = None
    for code, at, raw in split(data):
        if integrity_at is not None and code != FINGERPRINT:
            continue
        if code in seen and code not in REPEATABLE:
            continue
        seen.add(code)
        if code not in LAYOUTS:
            unknown += [code] if code < 0x8000 and len(unknown) < 32 else []
            continue
        try:
            value = LAYOUTS[code][0](raw, transaction_id)
        except ValueError:
            malformed = code if malformed is None else malformed
            continue
        if code == FINGERPRINT:
            return tuple(values), tuple(unknown), malformed, integrity_at, at
        if code == INTEGRITY:
            integrity_at = at
        else:
            values.append((code, value))
    return tuple(values), tuple(unknown), malformed, integrity_at, None


def split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 20
    while at < len(data):
        code, length = struct.unpack_from(">HH", data, at)
        if at + 4 + length > len(data):
            raise Malformed
        yield code, at, data[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4


def encode(
    class_: int,
    method: int,
    transaction_id: bytes,
    values: Values,
    key: bytes | None = None,
    fingerprinted: bool = False,
) -> bytes:
    """What `firezone._ext.stun.encode` returns. Raises ValueError or OverflowError for values that
    do not fit."""
    type_ = method & 15 | (method >> 4 & 7) << 5 | (method >> 7 & 31) << 9
    type_ |= (class_ >> 1) << 8 | (class_ & 1) << 4
    out = struct.pack(">HHI", type_, 0, COOKIE) + transaction_id
    out += b"".join(attribute(c, LAYOUTS[c][1](value, transaction_id)) for c, value in values)
    if key is not None:
        out += attribute(INTEGRITY, integrity(out, key))
    if fingerprinted:
        out += attribute(FINGERPRINT, fingerprint(out).to_bytes(4))
    return out[:2] + (len(out) - 20).to_bytes(2) + out[4:]


def attribute(code: int, value: bytes) -> bytes:
    return code.to_bytes(2) + len(value).to_bytes(2) + value + bytes(-len(value) % 4)


def integrity(prefix: bytes, key: bytes) -> bytes:
    return hmac.new(key, counting(prefix, 24), hashlib.sha1).digest()


def fingerprint(prefix: bytes) -> int:
    return zlib.crc32(counting(prefix, 8)) ^ 0x5354554E


def counting(prefix: bytes, more: int) -> bytes:
    return prefix[:2] + (len(prefix) - 20 + more).to_bytes(2) + prefix[4:]
