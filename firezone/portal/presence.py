"""Which relays are online, and what clients and gateways are told of that.

A relay that goes away and is back within 3 s with the same stamp secret was never gone. With
another secret it has restarted: credentials for it are dead, so its users hear of it at once.
"""

from __future__ import annotations

from firezone.durations import SECOND
from firezone.model import Entropy
from firezone.portal import views
from firezone.portal.balance import RELAYS_PER_PEER, choose_relays
from firezone.portal.sessions import (
    ClientSession,
    GatewaySession,
    PeerSession,
    RelaySession,
    Switchboard,
)

LEAVE_DEBOUNCE = 3 * SECOND
GATEWAY_CREDENTIAL_SECONDS = 90 * 24 * 3600


class RelayPresence:
    """Keeps every client and gateway supplied with up to two relays."""

    def __init__(self, board: Switchboard, entropy: Entropy) -> None:
        self._board = board
        self._entropy = entropy
        self._departed: dict[str, int] = {}

    def has_relay(self) -> bool:
        """Whether one is online, or has not been away for long enough to be gone."""
        return bool(self._departed) or any(True for _ in self._board.joined(RelaySession))

    def handle_joined(self, relay: RelaySession, unix_now: int) -> None:
        """A relay is online: peers that know it with another secret, or too few, are told."""
        self._departed.pop(relay.id, None)
        for peer in self._peers():
            known = peer.relays.get(relay.id)
            if known is not None and known != relay.stamp_secret:
                self._announce(peer, [relay.id], unix_now)
            elif known is None and len(peer.relays) < RELAYS_PER_PEER:
                self._announce(peer, [], unix_now)

    def handle_left(self, relay: RelaySession, now: int) -> None:
        """Its connection ended."""
        if relay.is_joined and self._board.find(RelaySession, relay.id) is None:
            self._departed[relay.id] = now + LEAVE_DEBOUNCE

    def handle_timeout(self, unix_now: int, now: int) -> None:
        """Tell the users of relays that did not come back."""
        gone = [id for id, deadline in self._departed.items() if deadline <= now]
        for id in gone:
            del self._departed[id]
            for peer in self._peers():
                if id in peer.relays:
                    self._announce(peer, [id], unix_now)

    def poll_deadline(self) -> int | None:
        return min(self._departed.values(), default=None)

    def supply(self, peer: PeerSession, unix_now: int) -> list[views.Json]:
        """Relays for a peer that joins, as it sees them."""
        peer.relays.clear()
        return self._top_up(peer, unix_now)

    def _announce(
        self, peer: ClientSession | GatewaySession, gone: list[str], unix_now: int
    ) -> None:
        for id in gone:
            del peer.relays[id]
        connected = self._top_up(peer, unix_now)
        self._board.push(
            peer, "relays_presence", {"disconnected_ids": gone, "connected": connected}
        )

    def _top_up(self, peer: PeerSession, unix_now: int) -> list[views.Json]:
        """Those that are new to the peer, with its credentials."""
        online = {relay.id: relay for relay in self._board.joined(RelaySession)}
        kept = [online[id] for id in peer.relays if id in online]
        # One within its debounce still counts as known: it may well come back.
        missing = len(peer.relays) - len(kept)
        chosen = choose_relays(list(online.values()), kept, self._entropy)
        new = [relay for relay in chosen if relay.id not in peer.relays]
        entries: list[views.Json] = []
        for relay in new[: RELAYS_PER_PEER - len(kept) - missing]:
            peer.relays[relay.id] = relay.stamp_secret
            entries += self._view(relay, peer, unix_now)
        return entries

    def _view(self, relay: RelaySession, peer: PeerSession, unix_now: int) -> list[views.Json]:
        admission = peer.admission
        expires_at = unix_now + GATEWAY_CREDENTIAL_SECONDS
        if isinstance(peer, ClientSession):
            assert admission.token.expires_at is not None, "a client's token ends"
            expires_at = admission.token.expires_at
        return views.relay(relay.admission, admission.public_key, relay.stamp_secret, expires_at)

    def _peers(self) -> list[ClientSession | GatewaySession]:
        return [*self._board.joined(ClientSession), *self._board.joined(GatewaySession)]
