"""The peers' candidates: from signalling to the agents, with guesses and channels for them."""

from __future__ import annotations

from firezone.ice import Candidate, CandidateKind
from firezone.nat64 import Prefix
from firezone.node.candidates import optimistic, translated
from firezone.node.connection import Connection
from firezone.node.outputs import Outputs
from firezone.node.transport import Transport


class RemoteCandidates:
    """What can be reached through the connection's relay has a channel ready."""

    def __init__(self, transport: Transport, outputs: Outputs) -> None:
        self._transport = transport
        self._outputs = outputs

    def add(self, c: Connection, candidate: Candidate, now: int) -> bool:
        """The peer can be reached there. False if it has named too many such places."""
        if not c.note_remote(candidate):
            self._outputs.counters["too many candidates"] += 1
            return False
        c.touch(now)
        c.agent.add_remote_candidate(candidate, now)
        nat64 = self._transport.relays.nat64
        for guess in (*optimistic(c.remotes, candidate), *translated(candidate, nat64)):
            c.agent.add_remote_candidate(guess, now)
        self._bind(c, candidate, now)
        return True

    def remove(self, c: Connection, candidate: Candidate, now: int) -> None:
        """The peer can no longer be reached there."""
        c.forget_remote(candidate)
        for gone in (candidate, *translated(candidate, self._transport.relays.nat64)):
            c.agent.invalidate_remote_candidate(gone, now)
        c.touch(now)

    def translate(self, c: Connection, prefix: Prefix | None, now: int) -> None:
        """Those with IPv4 are reached there now, too."""
        for remote in tuple(c.remotes):
            for there in translated(remote, prefix):
                c.agent.add_remote_candidate(there, now)

    def bind_all(self, c: Connection, now: int) -> None:
        """The connection has another relay now."""
        for remote in c.remotes:
            self._bind(c, remote, now)

    def _bind(self, c: Connection, candidate: Candidate, now: int) -> None:
        if candidate.kind is not CandidateKind.HOST:
            self._transport.bind(c.relay, candidate.address, now)
