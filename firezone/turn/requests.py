"""The requests of a TURN client that wait for their response, and how each is built.

A Binding is resent as it is. An authenticated request gets a new transaction id and the current
nonce with each send, so a late response to an earlier one is a stranger: it could speak of a nonce
that is long replaced.

Relays of Firezone know the user before they challenge, so even the first Allocate is signed, and so
is their answer. Others go by the book (RFC 8489 section 9.2): a first request says nothing of its
user, and a server that does not know the user yet, or his nonce, signs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from firezone import stun
from firezone.model import Endpoint, Entropy, Timeout
from firezone.stun import Message, Method
from firezone.turn.backoff import BUDGET, Backoff
from firezone.turn.events import Credentials

UDP = 17


@dataclass(slots=True)
class Request:
    """One request. `message` bears the transaction id of the latest send, not its credentials."""

    message: Message
    destination: Endpoint
    backoff: Backoff
    nonce: str | None = None
    challenges: int = 0
    """How often it was answered with a nonce to use instead."""

    @property
    def method(self) -> int:
        return self.message.method

    @property
    def is_authenticated(self) -> bool:
        return self.method != Method.BINDING

    @property
    def channel(self) -> tuple[Endpoint, int]:
        """Of a ChannelBind: the peer, and the number asked for."""
        peer = self.message.get(stun.XOR_PEER_ADDRESS)
        number = self.message.get(stun.CHANNEL_NUMBER)
        assert peer is not None
        assert number is not None
        return peer, number

    def round_trip(self, now: int) -> int | None:
        """If this is the moment of its answer. A request that was sent once tells how far the relay
        is; of others one cannot know which send was answered."""
        return None if self.backoff.has_stepped else now - self.backoff.started_at


class Requests:
    """Requests in flight by transaction id."""

    def __init__(self, software: str, entropy: Entropy) -> None:
        self.by_the_book = False
        """Whether the relay wants requests as RFC 8489 and RFC 8656 have them."""
        self._software = software
        self._entropy = entropy
        self._pending: dict[bytes, Request] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[Request]:
        return iter(tuple(self._pending.values()))

    def __contains__(self, request: Request) -> bool:
        return self._pending.get(request.message.transaction_id) is request

    def has(self, method: Method) -> bool:
        """Whether a request of this method is in flight."""
        return any(request.method == method for request in self._pending.values())

    def binding(self) -> Message:
        return self._named(Message.request(Method.BINDING, self._entropy))

    def allocate(self) -> Message:
        return self._named(self._with_transport(Method.ALLOCATE))

    def refresh(self) -> Message:
        if self.by_the_book:
            return self._named(Message.request(Method.REFRESH, self._entropy))
        return self._named(self._with_transport(Method.REFRESH))

    def delete(self) -> Message:
        """A Refresh that ends the allocation."""
        return self.refresh().with_(stun.LIFETIME, 0)

    def channel_bind(self, peer: Endpoint, number: int) -> Message:
        bind = Message.request(Method.CHANNEL_BIND, self._entropy)
        bind = bind.with_(stun.XOR_PEER_ADDRESS, peer).with_(stun.CHANNEL_NUMBER, number)
        return self._named(bind)

    def add(
        self, message: Message, destination: Endpoint, now: int, budget: int = BUDGET
    ) -> Request:
        """Puts a new request in flight. It is not encoded yet: see `encode`."""
        request = Request(message, destination, Backoff(now, budget))
        self._pending[message.transaction_id] = request
        return request

    def encode(self, request: Request, credentials: Credentials | None, nonce: str | None) -> bytes:
        """The bytes of the next send of a request in flight."""
        if credentials is None or not request.is_authenticated:
            return request.message.encode()
        self._renew(request)
        request.nonce = nonce
        if self.by_the_book and nonce is None:
            return request.message.encode()
        signed = request.message.with_(stun.USERNAME, credentials.username)
        signed = signed.with_(stun.REALM, credentials.realm)
        if nonce is not None:
            signed = signed.with_(stun.NONCE, nonce)
        return signed.encode(integrity_key=credentials.key)

    def answered_by(self, response: Message, source: Endpoint) -> Request | None:
        """The request that a response from there would belong to. It stays in flight."""
        request = self._pending.get(response.transaction_id)
        if request is None or request.destination != source or request.method != response.method:
            return None
        is_response = response.class_ in (stun.Class.SUCCESS, stun.Class.ERROR)
        return request if is_response else None

    def remove(self, request: Request) -> None:
        del self._pending[request.message.transaction_id]

    def due(self, now: int) -> Iterator[Request]:
        """Those that must be sent again or given up; what is removed meanwhile is left out."""
        return (r for r in self if r in self and r.backoff.is_due(now))

    def clear(self) -> None:
        self._pending.clear()

    def clear_authenticated(self) -> None:
        """Forgets all but Bindings: their answers speak of an allocation that is gone."""
        kept = {i: r for i, r in self._pending.items() if not r.is_authenticated}
        self._pending = kept

    def timeouts(self) -> Iterator[Timeout]:
        for request in self._pending.values():
            yield Timeout(request.backoff.next_at, "TURN retransmission")

    def _with_transport(self, method: Method) -> Message:
        message = Message.request(method, self._entropy)
        message = message.with_(stun.REQUESTED_TRANSPORT, UDP)
        return message.with_(stun.ADDITIONAL_ADDRESS_FAMILY, 6)

    def _named(self, message: Message) -> Message:
        return message.with_(stun.SOFTWARE, self._software)

    def _renew(self, request: Request) -> None:
        pending = self._pending
        del pending[request.message.transaction_id]
        renewed = self._entropy(len(request.message.transaction_id))
        request.message = replace(request.message, transaction_id=renewed)
        pending[renewed] = request
