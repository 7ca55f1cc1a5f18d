"""One request to the relay with what its answer needs, and the reading of its attributes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from firezone import stun
from firezone.model import Endpoint, Transmit
from firezone.stun import Message
from firezone.turn.relay_commands import FiveTuple

DEFAULT_LIFETIME: Final = 600
"""Seconds (RFC 8656 section 7.2)."""
MAX_LIFETIME: Final = 3600
"""Seconds."""

Value = tuple[stun.Attribute[Any], Any]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request, who sent it, and the key to authenticate the responses with, if there is one.

    `mapped` is the address that the client is told it has. `user` is whose quota counts, once the
    request is authenticated.
    """

    five_tuple: FiveTuple
    request: Message
    key: bytes | None = field(repr=False)
    software: str
    mapped: Endpoint
    user: str = ""

    def success(self, *values: Value) -> Transmit:
        """The success response with these attributes."""
        return self._respond(stun.Class.SUCCESS, (self._named, *values))

    def error(self, code: int, *values: Value) -> Transmit:
        """The error response with these attributes after ERROR-CODE."""
        error = self.request.error(code).attributes
        return self._respond(stun.Class.ERROR, (self._named, *error, *values))

    def terse_error(self, code: int, *values: Value) -> Transmit:
        """The same without SOFTWARE and phrase, for strangers: it may go to somebody else, in whose
        name they asked for it."""
        error = self.request.error(code, "").attributes
        return self._respond(stun.Class.ERROR, (*error, *values))

    def authenticated(self, key: bytes, user: str) -> Exchange:
        """The same of a user who has proved to be one, by that key."""
        return Exchange(self.five_tuple, self.request, key, self.software, self.mapped, user)

    @property
    def _named(self) -> Value:
        return (stun.SOFTWARE, self.software)

    def _respond(self, class_: stun.Class, values: tuple[Value, ...]) -> Transmit:
        request = self.request
        response = Message(class_, request.method, request.transaction_id, values)
        data = response.encode(self.key, fingerprint=request.has_fingerprint)
        return Transmit(data, *self.five_tuple)


def requested_families(request: Message, available: frozenset[int]) -> tuple[int, ...] | int:
    """The families an Allocate gets, IPv4 first, or its error code (RFC 8656 section 7.2).

    An additional family that we lack is left out, not an error.
    """
    requested = request.get(stun.REQUESTED_ADDRESS_FAMILY)
    additional = request.get(stun.ADDITIONAL_ADDRESS_FAMILY)
    if additional is not None:
        if requested is not None or additional != 6:
            return 400
        return tuple(sorted(available))
    family = requested or 4
    return (family,) if family in available else 440


def missing_families(request: Message, granted: tuple[int, ...]) -> list[Value]:
    """ADDRESS-ERROR-CODE for what a request for both families did not get."""
    if request.get(stun.ADDITIONAL_ADDRESS_FAMILY) is None:
        return []
    error = stun.ErrorCode(440, "Address Family not Supported")
    return [
        (stun.ADDRESS_ERROR_CODE, stun.AddressError(family, error))
        for family in (4, 6)
        if family not in granted
    ]


def requested_lifetime(request: Message) -> int:
    """Seconds asked for. Short ones are granted as they are: clients expect their own number."""
    requested = request.get(stun.LIFETIME)
    return DEFAULT_LIFETIME if requested is None else min(requested, MAX_LIFETIME)
