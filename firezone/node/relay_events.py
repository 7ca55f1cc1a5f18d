"""What the relays have to say, and which connections that concerns."""

from __future__ import annotations

from firezone.model import Timeout
from firezone.node.deadlines import Deadlines
from firezone.node.directory import Directory
from firezone.node.local_candidates import LocalCandidates
from firezone.node.relay_choice import RelayChoice
from firezone.node.traffic import Traffic
from firezone.node.transport import RelayEvent, Transport
from firezone.turn import CandidateAdded, CandidateInvalidated, ChannelConfirmed, ChannelLost


class RelayEvents:
    """Passes on candidates and channels, and wakes whom they are for."""

    def __init__(
        self,
        directory: Directory,
        transport: Transport,
        relays: RelayChoice,
        candidates: LocalCandidates,
        traffic: Traffic,
        deadlines: Deadlines,
    ) -> None:
        self._directory = directory
        self._transport = transport
        self._relays = relays
        self._candidates = candidates
        self._traffic = traffic
        self._deadlines = deadlines

    def settle(self, now: int) -> None:
        """Take in all that the relays have to say."""
        self._transport.drain()
        while (event := self._transport.poll_event()) is not None:
            self._handle(event, now)

    def _handle(self, event: RelayEvent, now: int) -> None:
        match event.event:
            case ChannelConfirmed() | ChannelLost() as changed:
                self._handle_channel(changed, now)
                return
        for c in tuple(self._directory.all()):
            match event.event:
                case CandidateAdded() as added:
                    self._candidates.handle_added(c, event.relay, added, now)
                case CandidateInvalidated() as gone:
                    self._candidates.handle_gone(c, gone, now)
            self._deadlines.set(c.id, Timeout(now, "relay event"))

    def _handle_channel(self, event: ChannelConfirmed | ChannelLost, now: int) -> None:
        """Of many clients each has channels of its own, so this touches nobody else."""
        bound = isinstance(event, ChannelConfirmed)
        bases = self._transport.relayed_addresses(event.socket) if bound else []
        for c in tuple(self._directory.all()):
            opened = [base for base in bases if c.agent.way(base, event.peer) is not None]
            for base in opened:
                c.agent.handle_path_opened(base, event.peer, now)
            is_on_way = c.way is not None and c.way.remote.address == event.peer
            if is_on_way:
                self._traffic.apply_path(c, now)
                self._traffic.establish(c, now)
            if opened or is_on_way:
                self._deadlines.set(c.id, Timeout(now, "relay event"))

    def leave_lost(self, now: int) -> None:
        """Have connections use another relay whose own is gone."""
        for c in self._relays.leave_lost(self._directory.all(), now):
            self._deadlines.set(c.id, Timeout(now, "relay lost"))
