"""Peers that a channel is wanted for and cannot be asked for now.

There is no allocation yet, or the relay may not send to them.
"""

from __future__ import annotations

from firezone.durations import MINUTE
from firezone.model import Endpoint

MAX_BUFFERED_BINDS = 100
REFUSED_PEER_REST = 5 * MINUTE
"""A relay that may not send to a peer (403) is not asked again for so long: every check of ICE on
that path would."""
MAX_REFUSED_PEERS = 256


class WantedPeers:
    """Both are bounded: the oldest is forgotten first."""

    def __init__(self) -> None:
        self._buffered: dict[Endpoint, None] = {}
        self._refused: dict[Endpoint, int] = {}
        """And until when."""

    def buffer(self, peer: Endpoint) -> None:
        """Until there is an allocation."""
        if peer in self._buffered:
            return
        if len(self._buffered) >= MAX_BUFFERED_BINDS:
            del self._buffered[next(iter(self._buffered))]
        self._buffered[peer] = None

    def take_buffered(self) -> list[Endpoint]:
        """Those that waited, in their order."""
        waiting, self._buffered = [*self._buffered], {}
        return waiting

    def note_refused(self, peer: Endpoint, now: int) -> None:
        self._refused.pop(peer, None)
        if len(self._refused) >= MAX_REFUSED_PEERS:
            del self._refused[next(iter(self._refused))]
        self._refused[peer] = now + REFUSED_PEER_REST

    def was_refused(self, peer: Endpoint) -> bool:
        """Whether the relay said so, and has not sent to it since."""
        return peer in self._refused

    def is_refused(self, peer: Endpoint, now: int) -> bool:
        """Whether the relay said so lately."""
        return now < self._refused.get(peer, 0)

    def forget_refusal(self, peer: Endpoint) -> None:
        """The relay sends to it after all."""
        self._refused.pop(peer, None)

    def forget_refusals(self) -> None:
        """What one allocation may not, another may."""
        self._refused.clear()
