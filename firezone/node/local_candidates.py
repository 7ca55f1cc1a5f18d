"""Our candidates: from the allocations and the host to the agents, and to the peers by signalling.

A host's own addresses come from both: relays see the one that faces the internet, and the host
knows those on other networks, too. One that a relay has seen outlives what the host says.
"""

from __future__ import annotations

from collections.abc import Iterable

from firezone.ice import Candidate, CandidateKind
from firezone.model import Endpoint, RelayId
from firezone.node.candidates import as_candidate, in_signalling_order
from firezone.node.connection import Connection
from firezone.node.events import CandidateGathered, CandidateWithdrawn
from firezone.node.outputs import Outputs
from firezone.node.transport import Transport
from firezone.turn import CandidateAdded, CandidateInvalidated

MAX_HOST_ADDRESSES = 8
"""Of the host's own. A peer pairs each with each of its own."""


class LocalCandidates:
    """Host and reflexive candidates are every connection's, relayed ones its own relay's only."""

    def __init__(self, transport: Transport, outputs: Outputs) -> None:
        self._transport = transport
        self._outputs = outputs
        self._hosts: tuple[Endpoint, ...] = ()

    def seed(self, c: Connection, now: int) -> None:
        """Give the agent all there are."""
        found = [
            as_candidate(candidate)
            for relay, candidate in self._transport.candidates()
            if candidate.kind != "relay" or relay == c.relay
        ]
        found += map(Candidate.host, self._hosts)
        for candidate in in_signalling_order(found):
            self._add(c, candidate, now)

    def set_hosts(
        self, addresses: Iterable[Endpoint], connections: Iterable[Connection], now: int
    ) -> None:
        """The host has these addresses, the best first, of which a few count."""
        old, self._hosts = self._hosts, tuple(dict.fromkeys(addresses))[:MAX_HOST_ADDRESSES]
        seen = {c.address for _, c in self._transport.candidates() if c.kind == "host"}
        gone = [address for address in old if address not in self._hosts and address not in seen]
        for c in connections:
            for address in gone:
                self._withdraw(c, Candidate.host(address), now)
            for address in self._hosts:
                self._add(c, Candidate.host(address), now)

    def reset(self) -> None:
        """The host's addresses are of a socket that is gone."""
        self._hosts = ()

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
        if gone.kind == "relay":
            self._withdraw(c, as_candidate(gone), now)

    def _withdraw(self, c: Connection, candidate: Candidate, now: int) -> None:
        if c.agent.invalidate_local_candidate(candidate, now):
            self._outputs.events.append(CandidateWithdrawn(c.id, candidate))

    def _add(self, c: Connection, candidate: Candidate, now: int) -> None:
        c.has_gathered = True
        adopted = c.agent.add_local_candidate(candidate, now)
        if adopted is not None:
            self._signal(c, adopted)

    def _signal(self, c: Connection, candidate: Candidate) -> None:
        self._outputs.events.append(CandidateGathered(c.id, candidate))
