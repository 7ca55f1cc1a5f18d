"""Channels of the relay (RFC 8656 section 12): who gets one, and when it is taken away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from firezone import stun
from firezone.model import Endpoint
from firezone.turn.channel_data import MAX_CHANNEL, MIN_CHANNEL
from firezone.turn.relay_commands import BindChannel, UnbindChannel
from firezone.turn.relay_exchange import Exchange
from firezone.turn.relay_outbox import Outbox
from firezone.turn.relay_permissions import Permissions
from firezone.turn.relay_table import Allocation, Channel, RelayTable

MAX_CHANNELS: Final = 4096
"""Per allocation."""
CHANNEL_NUMBERS: Final = range(MIN_CHANNEL, MAX_CHANNEL + 1)
"""Clients draw from all of it."""


class Channels:
    """Binds channels as clients ask for them, and tells the shell."""

    def __init__(
        self, table: RelayTable, outbox: Outbox, permissions: Permissions, *, per_user: int | None
    ) -> None:
        self._table = table
        self._outbox = outbox
        self._permissions = permissions
        self._per_user = per_user

    def handle_channel_bind(
        self, exchange: Exchange, allocation: Allocation | None, now: int
    ) -> None:
        """An authenticated request."""
        request = exchange.request
        number, peer = request.get(stun.CHANNEL_NUMBER), request.get(stun.XOR_PEER_ADDRESS)
        if allocation is None:
            self._outbox.refuse(exchange, 437)
        elif number is None or number not in CHANNEL_NUMBERS or peer is None or peer.port == 0:
            self._outbox.refuse(exchange, 400)
        elif (code := self._judge(allocation, number, peer)) is not None:
            self._outbox.refuse(exchange, code)
        else:
            self._bind(exchange, allocation, number, peer, now)

    def revoke_forbidden(self, channels: Iterable[Channel], now: int) -> None:
        """Unbind those whose peers may have none any more."""
        for channel in channels:
            if channel.is_bound and not self._permissions.peers.allows(channel.peer):
                self._outbox.count("channel_revoked")
                channel.bound_until = now
                self.unbind(channel)

    def unbind(self, channel: Channel) -> None:
        """It carries nothing from now on, though its number stays with its peer for a while."""
        self._table.unbind(channel)
        self.say_unbound([channel])

    def say_unbound(self, channels: Iterable[Channel]) -> None:
        """Tell the shell of channels that are out of the table."""
        for channel in channels:
            owner = channel.allocation
            self._outbox.put(
                UnbindChannel(owner.five_tuple, channel.number, owner.port, channel.peer)
            )

    def _judge(self, allocation: Allocation, number: int, peer: Endpoint) -> int | None:
        """The error code for a peer that may have none, or for one channel too many."""
        code = self._permissions.judge_channel(allocation, peer)
        if code is not None or number in allocation.channels:
            return code
        if len(allocation.channels) >= MAX_CHANNELS:
            return 508
        present, limit = self._table.channels_of[allocation.user], self._per_user
        return 486 if limit is not None and present >= limit else None

    def _bind(
        self, exchange: Exchange, allocation: Allocation, number: int, peer: Endpoint, now: int
    ) -> None:
        channel = self._table.bind(allocation, number, peer, now)
        if channel is None:
            self._outbox.refuse(exchange, 400)
            return
        self._outbox.put(BindChannel(allocation.five_tuple, number, allocation.port, peer))
        self._permissions.install(allocation, peer.address, now)
        self._outbox.succeed(exchange)
