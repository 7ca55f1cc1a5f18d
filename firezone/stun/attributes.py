"""STUN attributes: what each is called and how its value stands on the wire.

Values are plain: text is `str`, an address an `Endpoint`, a family 4 or 6, a number an `int`, a
bare flag `True`. RFC 8489 section 14 defines them unless another document is named below. Texts,
numbers and bytes are read and written by compiled code (`ext/stun.pyx`), the others by what stands
here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from firezone._ext.stun import Attribute, Layout, check_value
from firezone.errors import LocalError
from firezone.model import Endpoint, unpack_address

MAGIC_COOKIE = 0x2112A442

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """Value of ERROR-CODE: 300 to 699 and a phrase for people."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AddressError:
    """Value of ADDRESS-ERROR-CODE: why there is no relayed address of this family (4 or 6)."""

    family: int
    error: ErrorCode


# How values stand on the wire: pairs of `decode` and `encode`.

_FAMILIES = {1: 4, 2: 6}
_FAMILY_CODES = {4: 1, 6: 2}
_ADDRESS_SIZES = {4: 8, 6: 20}
_MAX_TEXT_BYTES = 763


@lru_cache(maxsize=4096)
def _decode_address(value: bytes) -> Endpoint:
    """Remembered, because many clients have the same few peers."""
    family = _FAMILIES.get(value[1]) if len(value) >= 4 else None
    _require(family is not None and len(value) == _ADDRESS_SIZES[family])
    return Endpoint(unpack_address(value[4:]), int.from_bytes(value[2:4]))


def _encode_address(endpoint: Endpoint) -> bytes:
    header = struct.pack(">xBH", _FAMILY_CODES[endpoint.family], endpoint.port)
    return header + endpoint.address.packed


def _decode_family(value: bytes) -> int:
    _require(len(value) == 4 and value[0] in _FAMILIES)
    return _FAMILIES[value[0]]


def _encode_family(family: int) -> bytes:
    _require(family in _FAMILY_CODES)
    return struct.pack(">Bxxx", _FAMILY_CODES[family])


def _decode_flag(value: bytes) -> bool:
    _require(not value)
    return True


def _encode_flag(value: bool) -> bytes:
    _require(value)
    return b""


def _decode_even_port(value: bytes) -> bool:
    _require(len(value) == 1)
    return bool(value[0] & 0x80)


def _encode_even_port(reserve_next: bool) -> bytes:
    return b"\x80" if reserve_next else b"\x00"


def _decode_error(value: bytes) -> ErrorCode:
    _require(4 <= len(value) <= 4 + _MAX_TEXT_BYTES)
    hundreds, rest = value[2] & 7, value[3]
    _require(3 <= hundreds <= 6 and rest <= 99)
    return ErrorCode(hundreds * 100 + rest, value[4:].decode())


def _encode_error(error: ErrorCode) -> bytes:
    reason = error.reason.encode()
    _require(300 <= error.code <= 699 and len(reason) <= _MAX_TEXT_BYTES)
    return struct.pack(">xxBB", *divmod(error.code, 100)) + reason


def _decode_address_error(value: bytes) -> AddressError:
    error = _decode_error(value)
    _require(value[0] in _FAMILIES)
    return AddressError(_FAMILIES[value[0]], error)


def _encode_address_error(value: AddressError) -> bytes:
    _require(value.family in _FAMILY_CODES)
    return bytes([_FAMILY_CODES[value.family]]) + _encode_error(value.error)[1:]


def _decode_codes(value: bytes) -> tuple[int, ...]:
    _require(len(value) % 2 == 0)
    return struct.unpack(f">{len(value) // 2}H", value)


def _encode_codes(codes: tuple[int, ...]) -> bytes:
    _require(all(0 <= code <= 0xFFFF for code in codes))
    return struct.pack(f">{len(codes)}H", *codes)


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("value out of range")


_ADDRESS = Layout.coded(_decode_address, _encode_address)
_XOR_ADDRESS = Layout.coded(_decode_address, _encode_address, masked=True)
_FAMILY = Layout.coded(_decode_family, _encode_family)
_FLAG = Layout.coded(_decode_flag, _encode_flag)
_SHORT_TEXT = Layout.text(characters=127, size=_MAX_TEXT_BYTES)

MAPPED_ADDRESS = Attribute[Endpoint](0x0001, "MAPPED-ADDRESS", _ADDRESS)
USERNAME = Attribute[str](0x0006, "USERNAME", Layout.text(characters=512, size=512))
MESSAGE_INTEGRITY = Attribute[bytes](0x0008, "MESSAGE-INTEGRITY", Layout.opaque(20))
ERROR_CODE = Attribute[ErrorCode](0x0009, "ERROR-CODE", Layout.coded(_decode_error, _encode_error))
UNKNOWN_ATTRIBUTES = Attribute[tuple[int, ...]](
    0x000A, "UNKNOWN-ATTRIBUTES", Layout.coded(_decode_codes, _encode_codes)
)
REALM = Attribute[str](0x0014, "REALM", _SHORT_TEXT)
NONCE = Attribute[str](0x0015, "NONCE", _SHORT_TEXT)
XOR_MAPPED_ADDRESS = Attribute[Endpoint](0x0020, "XOR-MAPPED-ADDRESS", _XOR_ADDRESS)
SOFTWARE = Attribute[str](0x8022, "SOFTWARE", _SHORT_TEXT)
ALTERNATE_SERVER = Attribute[Endpoint](0x8023, "ALTERNATE-SERVER", _ADDRESS)
FINGERPRINT = Attribute[int](0x8028, "FINGERPRINT", Layout.number(4))

# RFC 8656 section 18 (TURN)
CHANNEL_NUMBER = Attribute[int](0x000C, "CHANNEL-NUMBER", Layout.number(2, reserved=2))
LIFETIME = Attribute[int](0x000D, "LIFETIME", Layout.number(4))
"""Seconds."""
XOR_PEER_ADDRESS = Attribute[Endpoint](0x0012, "XOR-PEER-ADDRESS", _XOR_ADDRESS, repeatable=True)
DATA = Attribute[bytes](0x0013, "DATA", Layout.opaque())
XOR_RELAYED_ADDRESS = Attribute[Endpoint](
    0x0016, "XOR-RELAYED-ADDRESS", _XOR_ADDRESS, repeatable=True
)
REQUESTED_ADDRESS_FAMILY = Attribute[int](0x0017, "REQUESTED-ADDRESS-FAMILY", _FAMILY)
EVEN_PORT = Attribute[bool](0x0018, "EVEN-PORT", Layout.coded(_decode_even_port, _encode_even_port))
"""True: reserve the next higher port, too."""
REQUESTED_TRANSPORT = Attribute[int](0x0019, "REQUESTED-TRANSPORT", Layout.number(1, reserved=3))
"""An IP protocol number; 17 is UDP."""
DONT_FRAGMENT = Attribute[bool](0x001A, "DONT-FRAGMENT", _FLAG)
RESERVATION_TOKEN = Attribute[bytes](0x0022, "RESERVATION-TOKEN", Layout.opaque(8))
ADDITIONAL_ADDRESS_FAMILY = Attribute[int](0x8000, "ADDITIONAL-ADDRESS-FAMILY", _FAMILY)
ADDRESS_ERROR_CODE = Attribute[AddressError](
    0x8001,
    "ADDRESS-ERROR-CODE",
    Layout.coded(_decode_address_error, _encode_address_error),
    repeatable=True,
)

# RFC 8445 section 16.1 (ICE)
PRIORITY = Attribute[int](0x0024, "PRIORITY", Layout.number(4))
USE_CANDIDATE = Attribute[bool](0x0025, "USE-CANDIDATE", _FLAG)
ICE_CONTROLLED = Attribute[int](0x8029, "ICE-CONTROLLED", Layout.number(8))
"""The tie-breaker."""
ICE_CONTROLLING = Attribute[int](0x802A, "ICE-CONTROLLING", Layout.number(8))
"""The tie-breaker."""

KNOWN: dict[int, Attribute[Any]] = {
    attribute.code: attribute for attribute in list(vars().values()) if type(attribute) is Attribute
}
"""Every attribute above by its code."""


def require_fit(attribute: Attribute[T], value: T) -> None:
    """Raises LocalError for a value that the attribute cannot have."""
    try:
        check_value(attribute, value)
    except ValueError as error:
        raise LocalError(str(error)) from None
