from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, final

_T = TypeVar("_T")

@final
class Layout(Generic[_T]):
    """How the values of an attribute stand on the wire."""

    @staticmethod
    def text(characters: int, size: int) -> Layout[str]:
        """UTF-8 (RFC 3629) of at most so many characters, and bytes."""

    @staticmethod
    def number(size: int, reserved: int = 0) -> Layout[int]:
        """An unsigned number of 1 to 8 bytes, then reserved ones: zero from us, else ignored."""

    @staticmethod
    def opaque(size: int = -1) -> Layout[bytes]:
        """Bytes as they are, so many, or any number."""

    @staticmethod
    def coded(
        decode: Callable[[bytes], _T], encode: Callable[[_T], bytes], masked: bool = False
    ) -> Layout[_T]:
        """By functions that raise ValueError for what cannot be. A `masked` one is XORed with the
        cookie and the transaction id from its third byte on (RFC 8489 section 14.2)."""

@final
class Attribute(Generic[_T]):
    """An attribute whose values are of one type. A `repeatable` one may stand several times in a
    message; of any other only the first instance counts."""

    def __new__(
        cls, code: int, name: str, layout: Layout[_T], repeatable: bool = False
    ) -> Attribute[_T]: ...
    @property
    def code(self) -> int:
        """0 to 0xFFFF."""

    @property
    def name(self) -> str:
        """As the standards call it."""

    @property
    def repeatable(self) -> bool: ...

MAX_UNKNOWN: Final[int]
"""How many unknown attributes a message remembers: enough to answer 420, little to abuse."""

def decode(
    data: bytes, known: dict[int, Attribute[Any]]
) -> (
    str
    | tuple[
        int,
        int,
        bytes,
        tuple[tuple[Attribute[Any], Any], ...],
        tuple[int, ...],
        int | None,
        int | None,
        int | None,
    ]
):
    """Read one datagram; `known` are attributes by code.

    Class, method, transaction id; the attributes in wire order, but for MESSAGE-INTEGRITY and
    FINGERPRINT; the codes of unknown ones that have to be understood; the code of the first one
    whose value is wrong; where MESSAGE-INTEGRITY and FINGERPRINT begin. For what is not STUN a
    short key that says why.
    """

def encode(
    class_: int,
    method: int,
    transaction_id: bytes,
    attributes: tuple[tuple[Attribute[Any], Any], ...],
    key: bytes | None = None,
    fingerprint: bool = False,
) -> bytes:
    """The bytes of a message, with MESSAGE-INTEGRITY under a key and FINGERPRINT if wanted.

    Raises ValueError for a value that does not fit its attribute or the message.
    """

def first(attributes: tuple[tuple[Attribute[Any], Any], ...], wanted: Attribute[_T]) -> _T | None:
    """The value of that attribute, of several the first one, None without it."""

def check_value(attribute: Attribute[_T], value: _T) -> None:
    """Raises ValueError for a value that does not fit its attribute."""

def message_integrity(prefix: bytes, key: bytes) -> bytes:
    """HMAC-SHA1 of a message whose bytes before MESSAGE-INTEGRITY are `prefix`, its length counting
    that. ValueError for what cannot be a message."""

def verify_integrity(data: bytes, at: int, key: bytes) -> bool:
    """Whether a message has the right MESSAGE-INTEGRITY at `at`, as `decode` told; in constant
    time. ValueError if there is no room for it."""

def verify_fingerprint(data: bytes, at: int) -> bool:
    """Whether a message has the right FINGERPRINT at `at`. ValueError without room for it."""

def fingerprint(prefix: bytes) -> int:
    """FINGERPRINT of a message whose bytes before that attribute are `prefix`. ValueError for what
    cannot be a message."""
