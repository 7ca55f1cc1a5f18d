"""The STUN messages of one agent: how it makes them, and which of the peer's are authentic.

Checks bear the credentials of both (RFC 8445 section 7.1.2) and are signed with the receiver's
password; a response is signed with that of who sends it.
"""

from __future__ import annotations

from firezone import stun
from firezone.ice.pair import Nomination, Pair
from firezone.model import Endpoint, Entropy, IceCredentials


class Messages:
    """`local` and `remote` are what the signaller gave to both ends."""

    def __init__(self, local: IceCredentials, remote: IceCredentials, entropy: Entropy) -> None:
        self.local = local
        self.remote = remote
        self._entropy = entropy
        self._tie_breaker = int.from_bytes(entropy(8))

    def is_authentic_request(self, message: stun.Message) -> bool:
        """Whether the peer made it, for us."""
        username = f"{self.local.username}:{self.remote.username}"
        return message.get(stun.USERNAME) == username and message.verify_integrity(
            stun.short_term_key(self.local.password)
        )

    def is_authentic_response(self, message: stun.Message) -> bool:
        """Whether the peer made it; that it answers something of ours is another question."""
        return message.verify_integrity(stun.short_term_key(self.remote.password))

    def check(self, pair: Pair, *, controlling: bool) -> tuple[bytes, bytes]:
        """A request to send over this pair, in the role that we claim: its transaction id, and the
        bytes."""
        role = stun.ICE_CONTROLLING if controlling else stun.ICE_CONTROLLED
        request = (
            stun.Message.request(stun.Method.BINDING, self._entropy)
            .with_(stun.USERNAME, f"{self.remote.username}:{self.local.username}")
            .with_(stun.PRIORITY, pair.local.peer_reflexive_priority)
            .with_(role, self._tie_breaker)
        )
        if pair.nomination is not Nomination.NONE:
            request = request.with_(stun.USE_CANDIDATE, True)
        key = stun.short_term_key(self.remote.password)
        return request.transaction_id, request.encode(integrity_key=key, fingerprint=True)

    def success(self, request: stun.Message, source: Endpoint) -> bytes:
        """The answer to a check that came from there."""
        return self.sign(request.success().with_(stun.XOR_MAPPED_ADDRESS, source))

    def sign(self, response: stun.Message) -> bytes:
        """A response as it is sent."""
        key = stun.short_term_key(self.local.password)
        return response.encode(integrity_key=key, fingerprint=True)

    def wins_conflict(self, request: stun.Message, *, controlling: bool) -> bool | None:
        """Where the peer claims the role that we have: whether it has to change it, or else we do
        (RFC 8445 section 7.3.1.1). None where it does not."""
        same_role = stun.ICE_CONTROLLING if controlling else stun.ICE_CONTROLLED
        theirs = request.get(same_role)
        if theirs is None:
            return None
        # The larger tie-breaker controls; of equal ones it is the receiver's.
        return controlling == (self._tie_breaker >= theirs)
