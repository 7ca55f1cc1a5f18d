"""Binding requests on their way, and whose they are."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from firezone.model import Endpoint, Entropy
from firezone.stun import Attribute, Layout, Message, Method

MAIN, SECOND, PROBED, RELAYING = range(4)
"""The sockets of each family."""

_IP_AND_UDP = {4: 28, 6: 48}
_STUN_AND_ATTRIBUTE = 24


FILL = Attribute[bytes](0xFC26, "FILL", Layout.opaque())
"""Makes a request longer. PADDING (RFC 5780 section 7.6) must be understood or refused; this one,
from the unassigned comprehension-optional range, any server ignores (RFC 8489 section 14)."""


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Send this, never fragmented, from that socket of the destination's family."""

    socket: int
    payload: bytes = field(repr=False)
    destination: Endpoint


@dataclass(frozen=True, slots=True)
class Sent:
    """A request on its way. `size` is that of its IP packet."""

    owner: Owner
    socket: int
    destination: Endpoint
    size: int
    sent_at: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, at `local`. `mapped` is None in an error response."""

    local: Endpoint
    mapped: Endpoint | None


class Owner(Protocol):
    """A part of the check that sends requests."""

    def handle_answer(self, sent: Sent, answer: Answer, now: int) -> None: ...

    def handle_arrival(self, sent: Sent) -> None:
        """The request itself came back to us."""

    def handle_unsent(self, sent: Sent, reason: str, now: int) -> None:
        """The host refused to send it."""


class Wire:
    """All requests on their way. Their number is bounded by the check's plan."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._in_flight: dict[bytes, Sent] = {}
        self.outbox: deque[SendProbe] = deque()

    def send(
        self, owner: Owner, socket: int, destination: Endpoint, now: int, size: int = 0
    ) -> None:
        """A Binding request, in an IP packet of `size` bytes if that is not less than it needs."""
        request = Message.request(Method.BINDING, self._entropy)
        overhead = _IP_AND_UDP[destination.family]
        fill = size - overhead - _STUN_AND_ATTRIBUTE
        if fill >= 0:
            request = request.with_(FILL, bytes(fill))
        payload = request.encode()
        sent = Sent(owner, socket, destination, overhead + len(payload), now)
        self._in_flight[request.transaction_id] = sent
        self.outbox.append(SendProbe(socket, payload, destination))

    def put(self, socket: int, payload: bytes, destination: Endpoint) -> None:
        """Something that is no request of ours."""
        self.outbox.append(SendProbe(socket, payload, destination))

    def take(self, transaction_id: bytes) -> Sent | None:
        """The request of that id, which is not on its way any more."""
        return self._in_flight.pop(transaction_id, None)

    def find(self, transaction_id: bytes) -> Sent | None:
        return self._in_flight.get(transaction_id)
