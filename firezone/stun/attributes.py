"""STUN attributes: what each is called and how its value stands on the wire.

Values are plain: text is `str`, an address an `Endpoint`, a family 4 or 6, a number an `int`, a
bare flag `True`. RFC 8489 section 14 defines them unless another document is named below.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Generic, TypeVar

from firezone.errors import LocalError
from firezone.model import Endpoint, IPAddress

MAGIC_COOKIE = 0x2112A442
ATTRIBUTE_HEADER = 4
INTEGRITY_SIZE = 20
FINGERPRINT_SIZE = 4

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Attribute(Generic[T]):
    """An attribute whose values are of type T.

    `decode(value, transaction_id)` raises ValueError for a value that the attribute cannot have;
    `encode(value, transaction_id)` for one that does not fit. A `repeatable` one may stand several
    times in a message; of any other only the first instance counts.
    """

    code: int
    name: str
    decode: Callable[[bytes, bytes], T]
    encode: Callable[[T, bytes], bytes]
    repeatable: bool = False

    def __repr__(self) -> str:
        return self.name


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


def is_comprehension_required(code: int) -> bool:
    """Whether a receiver that does not know this attribute must refuse the message."""
    return code < 0x8000


# How values stand on the wire: pairs of `decode` and `encode`.

_FAMILIES = {1: 4, 2: 6}
_FAMILY_CODES = {4: 1, 6: 2}
_MAX_TEXT_BYTES = 763
_XOR_PREFIX = struct.pack(">xxHI", MAGIC_COOKIE >> 16, MAGIC_COOKIE)


def _decode_address(value: bytes, _transaction_id: bytes = b"") -> Endpoint:
    _require(len(value) >= 4)
    address: IPAddress
    match _FAMILIES.get(value[1]), len(value):
        case 4, 8:
            address = IPv4Address(value[4:])
        case 6, 20:
            address = IPv6Address(value[4:])
        case _:
            raise ValueError("address family or length")
    return Endpoint(address, int.from_bytes(value[2:4]))


def _encode_address(endpoint: Endpoint, _transaction_id: bytes = b"") -> bytes:
    header = struct.pack(">xBH", _FAMILY_CODES[endpoint.family], endpoint.port)
    return header + endpoint.address.packed


def _decode_xor_address(value: bytes, transaction_id: bytes) -> Endpoint:
    return _decode_address(_xor(value, transaction_id))


def _encode_xor_address(endpoint: Endpoint, transaction_id: bytes) -> bytes:
    return _xor(_encode_address(endpoint), transaction_id)


def _xor(value: bytes, transaction_id: bytes) -> bytes:
    """Masks port and address with the cookie and the transaction id (section 14.2)."""
    size = min(len(value), 20)
    mask = (_XOR_PREFIX + transaction_id)[:size]
    masked = int.from_bytes(value[:size]) ^ int.from_bytes(mask)
    return masked.to_bytes(size) + value[size:]


def _text(max_characters: int, max_bytes: int) -> Any:
    def decode(value: bytes, _transaction_id: bytes) -> str:
        _require(len(value) <= max_bytes)
        text = value.decode()
        _require(len(text) <= max_characters)
        return text

    def encode(text: str, _transaction_id: bytes) -> bytes:
        value = text.encode()
        _require(len(value) <= max_bytes and len(text) <= max_characters)
        return value

    return decode, encode


def _number(size: int, trailing: int = 0) -> Any:
    """An unsigned number of `size` bytes, then `trailing` reserved ones, which are ignored."""

    def decode(value: bytes, _transaction_id: bytes) -> int:
        _require(len(value) == size + trailing)
        return int.from_bytes(value[:size])

    def encode(number: int, _transaction_id: bytes) -> bytes:
        _require(0 <= number < 1 << 8 * size)
        return number.to_bytes(size) + bytes(trailing)

    return decode, encode


def _opaque(size: int | None = None) -> Any:
    def checked(value: bytes, _transaction_id: bytes) -> bytes:
        _require(size is None or len(value) == size)
        return value

    return checked, checked


def _decode_family(value: bytes, _transaction_id: bytes) -> int:
    _require(len(value) == 4 and value[0] in _FAMILIES)
    return _FAMILIES[value[0]]


def _encode_family(family: int, _transaction_id: bytes) -> bytes:
    _require(family in _FAMILY_CODES)
    return struct.pack(">Bxxx", _FAMILY_CODES[family])


def _decode_flag(value: bytes, _transaction_id: bytes) -> bool:
    _require(not value)
    return True


def _encode_flag(value: bool, _transaction_id: bytes) -> bytes:
    _require(value)
    return b""


def _decode_even_port(value: bytes, _transaction_id: bytes) -> bool:
    _require(len(value) == 1)
    return bool(value[0] & 0x80)


def _encode_even_port(reserve_next: bool, _transaction_id: bytes) -> bytes:
    return b"\x80" if reserve_next else b"\x00"


def _decode_error(value: bytes, _transaction_id: bytes = b"") -> ErrorCode:
    _require(4 <= len(value) <= 4 + _MAX_TEXT_BYTES)
    hundreds, rest = value[2] & 7, value[3]
    _require(3 <= hundreds <= 6 and rest <= 99)
    return ErrorCode(hundreds * 100 + rest, value[4:].decode())


def _encode_error(error: ErrorCode, _transaction_id: bytes = b"") -> bytes:
    reason = error.reason.encode()
    _require(300 <= error.code <= 699 and len(reason) <= _MAX_TEXT_BYTES)
    return struct.pack(">xxBB", *divmod(error.code, 100)) + reason


def _decode_address_error(value: bytes, _transaction_id: bytes) -> AddressError:
    error = _decode_error(value)
    _require(value[0] in _FAMILIES)
    return AddressError(_FAMILIES[value[0]], error)


def _encode_address_error(value: AddressError, _transaction_id: bytes) -> bytes:
    _require(value.family in _FAMILY_CODES)
    return bytes([_FAMILY_CODES[value.family]]) + _encode_error(value.error)[1:]


def _decode_codes(value: bytes, _transaction_id: bytes) -> tuple[int, ...]:
    _require(len(value) % 2 == 0)
    return struct.unpack(f">{len(value) // 2}H", value)


def _encode_codes(codes: tuple[int, ...], _transaction_id: bytes) -> bytes:
    _require(all(0 <= code <= 0xFFFF for code in codes))
    return struct.pack(f">{len(codes)}H", *codes)


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("value out of range")


_ADDRESS = (_decode_address, _encode_address)
_XOR_ADDRESS = (_decode_xor_address, _encode_xor_address)
_FAMILY = (_decode_family, _encode_family)
_FLAG = (_decode_flag, _encode_flag)
_SHORT_TEXT = _text(max_characters=127, max_bytes=_MAX_TEXT_BYTES)

MAPPED_ADDRESS = Attribute[Endpoint](0x0001, "MAPPED-ADDRESS", *_ADDRESS)
USERNAME = Attribute[str](0x0006, "USERNAME", *_text(max_characters=512, max_bytes=512))
MESSAGE_INTEGRITY = Attribute[bytes](0x0008, "MESSAGE-INTEGRITY", *_opaque(INTEGRITY_SIZE))
ERROR_CODE = Attribute[ErrorCode](0x0009, "ERROR-CODE", _decode_error, _encode_error)
UNKNOWN_ATTRIBUTES = Attribute[tuple[int, ...]](
    0x000A, "UNKNOWN-ATTRIBUTES", _decode_codes, _encode_codes
)
REALM = Attribute[str](0x0014, "REALM", *_SHORT_TEXT)
NONCE = Attribute[str](0x0015, "NONCE", *_SHORT_TEXT)
XOR_MAPPED_ADDRESS = Attribute[Endpoint](0x0020, "XOR-MAPPED-ADDRESS", *_XOR_ADDRESS)
SOFTWARE = Attribute[str](0x8022, "SOFTWARE", *_SHORT_TEXT)
ALTERNATE_SERVER = Attribute[Endpoint](0x8023, "ALTERNATE-SERVER", *_ADDRESS)
FINGERPRINT = Attribute[int](0x8028, "FINGERPRINT", *_number(FINGERPRINT_SIZE))

# RFC 8656 section 18 (TURN)
CHANNEL_NUMBER = Attribute[int](0x000C, "CHANNEL-NUMBER", *_number(2, trailing=2))
LIFETIME = Attribute[int](0x000D, "LIFETIME", *_number(4))
"""Seconds."""
XOR_PEER_ADDRESS = Attribute[Endpoint](0x0012, "XOR-PEER-ADDRESS", *_XOR_ADDRESS, repeatable=True)
DATA = Attribute[bytes](0x0013, "DATA", *_opaque())
XOR_RELAYED_ADDRESS = Attribute[Endpoint](
    0x0016, "XOR-RELAYED-ADDRESS", *_XOR_ADDRESS, repeatable=True
)
REQUESTED_ADDRESS_FAMILY = Attribute[int](0x0017, "REQUESTED-ADDRESS-FAMILY", *_FAMILY)
EVEN_PORT = Attribute[bool](0x0018, "EVEN-PORT", _decode_even_port, _encode_even_port)
"""True: reserve the next higher port, too."""
REQUESTED_TRANSPORT = Attribute[int](0x0019, "REQUESTED-TRANSPORT", *_number(1, trailing=3))
"""An IP protocol number; 17 is UDP."""
DONT_FRAGMENT = Attribute[bool](0x001A, "DONT-FRAGMENT", *_FLAG)
RESERVATION_TOKEN = Attribute[bytes](0x0022, "RESERVATION-TOKEN", *_opaque(8))
ADDITIONAL_ADDRESS_FAMILY = Attribute[int](0x8000, "ADDITIONAL-ADDRESS-FAMILY", *_FAMILY)
ADDRESS_ERROR_CODE = Attribute[AddressError](
    0x8001, "ADDRESS-ERROR-CODE", _decode_address_error, _encode_address_error, repeatable=True
)

# RFC 8445 section 16.1 (ICE)
PRIORITY = Attribute[int](0x0024, "PRIORITY", *_number(4))
USE_CANDIDATE = Attribute[bool](0x0025, "USE-CANDIDATE", *_FLAG)
ICE_CONTROLLED = Attribute[int](0x8029, "ICE-CONTROLLED", *_number(8))
"""The tie-breaker."""
ICE_CONTROLLING = Attribute[int](0x802A, "ICE-CONTROLLING", *_number(8))
"""The tie-breaker."""

KNOWN: dict[int, Attribute[Any]] = {
    attribute.code: attribute for attribute in list(vars().values()) if type(attribute) is Attribute
}
"""Every attribute above by its code."""


def encode_attribute(attribute: Attribute[T], value: T, transaction_id: bytes) -> bytes:
    """Header, value and zero padding. Raises LocalError for a value that does not fit."""
    try:
        encoded = attribute.encode(value, transaction_id)
        header = struct.pack(">HH", attribute.code, len(encoded))
    except (ValueError, struct.error):
        raise LocalError(f"value does not fit {attribute.name}") from None
    return header + encoded + bytes(-len(encoded) % 4)
