"""Which relay a connection uses, and when it takes another one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from firezone.model import RelayId
from firezone.node.connection import Connection
from firezone.node.local_candidates import LocalCandidates
from firezone.node.remote_candidates import RemoteCandidates
from firezone.node.transport import Transport


class RelayChoice:
    """What an old relay gave us stays until that relay is given up."""

    def __init__(
        self, transport: Transport, ours: LocalCandidates, theirs: RemoteCandidates
    ) -> None:
        self._transport = transport
        self._ours = ours
        self._theirs = theirs
        self._left = 0
        """Of the removals of relays, how many all connections have drawn conclusions from."""

    def leave_lost(self, connections: Iterable[Connection], now: int) -> Iterator[Connection]:
        """Move every connection whose relay is gone to another one; gives those that moved. This is
        asked at every turn of any connection, so it costs nothing unless a relay was removed."""
        removals = self._transport.relays.removals
        if removals == self._left:
            return
        for c in connections:
            if c.relay in self._transport.relays:
                continue
            relay = self._transport.relays.draw()
            if relay is None:
                return
            self._use(c, relay, now)
            yield c
        self._left = removals

    def try_other(self, c: Connection, now: int) -> None:
        """No path answers. If it is the relay of all that is gone, another one is a way around it,
        long before we know."""
        relay = self._transport.relays.draw_other(c.relay)
        if relay is not None:
            self._use(c, relay, now)

    def _use(self, c: Connection, relay: RelayId, now: int) -> None:
        c.relay = relay
        self._ours.seed(c, now)
        self._theirs.bind_all(c, now)
