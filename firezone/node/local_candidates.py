"""Our candidates: from the allocations to the agents, and to the peers by signalling."""

from __future__ import annotations

from firezone.ice import Candidate, CandidateKind
from firezone.model import RelayId
from firezone.node.candidates import as_candidate, in_signalling_order
from firezone.node.connection import Connection
from firezone.node.events import CandidateGathered, CandidateWithdrawn
from firezone.node.outputs import Outputs
from firezone.node.transport import Transport
from firezone.turn import CandidateAdded, CandidateInvalidated


class LocalCandidates:
    """Host and reflexive candidates are every connection's, relayed ones its own relay's only."""

    def __init__(self, transport: Transport, outputs: Outputs) -> None:
        self._transport = transport
        self._outputs = outputs

    def seed(self, c: Connection, now: int) -> None:
        """Give the agent all there are."""
        found = [
            as_candidate(candidate)
            for relay, candidate in self._transport.candidates()
            if candidate.kind != "relay" or relay == c.relay
        ]
        for candidate in in_signalling_order(found):
            self._add(c, candidate, now)

    def signal_again(self, c: Connection, *, relayed: bool) -> None:
        """The peer may have lost them with its state. It also gives its failed pairs of a candidate
        that it hears of once more another chance."""
        for candidate in in_signalling_order(c.agent.local_candidates()):
            if relayed or candidate.kind is not CandidateKind.RELAYED:
                self._signal(c, candidate)

    def handle_added(self, c: Connection, relay: RelayId, added: CandidateAdded, now: int) -> None:
        """The allocation on this relay found one."""
        if added.kind != "relay" or relay == c.relay:
            self._add(c, as_candidate(added), now)
            c.touch(now)

    def handle_gone(self, c: Connection, gone: CandidateInvalidated, now: int) -> None:
        """Only what a relay gave us can be taken away."""
        candidate = as_candidate(gone)
        if gone.kind == "relay" and c.agent.invalidate_local_candidate(candidate, now):
            self._outputs.events.append(CandidateWithdrawn(c.id, candidate))

    def _add(self, c: Connection, candidate: Candidate, now: int) -> None:
        adopted = c.agent.add_local_candidate(candidate, now)
        if adopted is not None:
            self._signal(c, adopted)

    def _signal(self, c: Connection, candidate: Candidate) -> None:
        self._outputs.events.append(CandidateGathered(c.id, candidate))
