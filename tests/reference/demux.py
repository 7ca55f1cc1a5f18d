"""The demultiplexer in plain Python: what a datagram is, without rates."""

import hashlib
import hmac
from collections.abc import Callable
from enum import Enum, auto


class Class(Enum):
    """The fate of a datagram; DATA carries where the message begins."""

    DATA = auto()
    SLOW = auto()
    MALFORMED = auto()
    BAD_MAC1 = auto()
    UNKNOWN_CHANNEL = auto()
    UNKNOWN_FORMAT = auto()


HANDSHAKES = {1: 148, 2: 92}


def mac1(public_key: bytes, message: bytes) -> bytes:
    key = hashlib.blake2s(b"mac1----" + public_key).digest()
    return hashlib.blake2s(message, key=key, digest_size=16).digest()


def mac2(secret: bytes, epoch: int, address: bytes, message: bytes) -> bytes:
    """WireGuard paper, section 5.4.7."""
    place = epoch.to_bytes(8, "little") + address.ljust(16, b"\0")
    cookie = hashlib.blake2s(place, key=secret, digest_size=16).digest()
    return hashlib.blake2s(message, key=cookie, digest_size=16).digest()


def classify(
    datagram: bytes, public_key: bytes, is_open: Callable[[int], bool]
) -> tuple[Class, bytes]:
    """What becomes of a datagram, and the bytes that go on."""
    if datagram and 0x40 <= datagram[0] <= 0x4F:
        inner = datagram[4:]
        if len(datagram) < 4 or int.from_bytes(datagram[2:4], "big") != len(inner):
            return Class.MALFORMED, datagram
        if not is_open(int.from_bytes(datagram[:2], "big")):
            return Class.UNKNOWN_CHANNEL, datagram
        verdict = classify_message(inner, public_key)
        return verdict, inner if verdict is Class.DATA else datagram
    return classify_message(datagram, public_key), datagram


def classify_message(message: bytes, public_key: bytes) -> Class:
    if is_stun(message):
        return Class.SLOW
    match int.from_bytes(message[:4], "little") if len(message) >= 4 else 0:
        case 4:
            return Class.DATA if len(message) >= 32 else Class.MALFORMED
        case 3:
            return Class.SLOW if len(message) == 64 else Class.MALFORMED
        case 1 | 2 as kind:
            if len(message) != HANDSHAKES[kind]:
                return Class.MALFORMED
            expected = mac1(public_key, message[:-32])
            good = hmac.compare_digest(expected, message[-32:-16])
            return Class.SLOW if good else Class.BAD_MAC1
    return Class.UNKNOWN_FORMAT


def is_stun(message: bytes) -> bool:
    """RFC 8489 section 6.3."""
    length = int.from_bytes(message[2:4], "big")
    return (
        len(message) >= 20
        and message[0] < 4
        and message[4:8] == b"\x21\x12\xa4\x42"
        and length % 4 == 0
        and length == len(message) - 20
    )
