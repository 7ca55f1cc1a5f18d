"""The peer's candidates: signalled ones, and those that only its checks have told of.

A request from an unknown address makes a peer-reflexive candidate (RFC 8445 section 7.3.1.3), which
may turn out to be one that is signalled later. What is learned of it changes its pairs, too.
"""

from __future__ import annotations

from firezone.ice.candidate import Candidate, CandidateKind, is_usable
from firezone.ice.checklist import Checklist
from firezone.ice.pool import CandidatePool
from firezone.model import Endpoint


class Remotes(CandidatePool):
    """The pool of the peer's candidates, beside the pairs that are made of them."""

    def __init__(self, checklist: Checklist) -> None:
        super().__init__()
        self._checklist = checklist

    def learn(self, candidate: Candidate) -> None:
        """The peer has signalled it. What we knew as peer-reflexive there was this one."""
        guess = self.best_at(candidate.address, CandidateKind.PEER_REFLEXIVE)
        self.take_invalidated(candidate)
        if guess is not None:
            self._correct(guess, candidate)
        else:
            self.add(candidate)
        if candidate.kind is CandidateKind.RELAYED:
            self._reconsider_guesses(candidate)

    def refusal(self, source: Endpoint) -> str | None:
        """Why a request from an address that we do not know is not answered."""
        if self.is_invalidated(source):
            return "request from an invalidated candidate"
        if self.is_full or not is_usable(source):
            return "request from an unacceptable address"
        return None

    def guess(self, source: Endpoint, priority: int) -> Candidate:
        """Take an address that nobody has signalled for what it likely is.

        A NAT in front of us may show a relayed address under another port: connection tracking
        chooses one where two flows would look alike. It must not pass for a way around the relay.
        """
        guess = Candidate.peer_reflexive(source, source, priority)
        relayed = self.best_on_host(source, CandidateKind.RELAYED)
        guess = guess if relayed is None else guess.behind(relayed)
        self.add(guess)
        return guess

    def forget_guesses(self) -> None:
        """A peer-reflexive candidate lives as long as a pair of it, so that an address a peer once
        had, or made up, does not stay for ever."""
        for pair in list(self._checklist):
            if not pair.is_viable and pair.remote.kind is CandidateKind.PEER_REFLEXIVE:
                self._checklist.remove(pair)
        paired = {pair.remote.address for pair in self._checklist}
        for remote in tuple(self):
            if remote.kind is CandidateKind.PEER_REFLEXIVE and remote.address not in paired:
                self.remove(remote)

    def _reconsider_guesses(self, relayed: Candidate) -> None:
        """Peer-reflexive candidates on the host of a relay that the peer turns out to use."""
        host = relayed.address.address
        guesses = [c for c in self if c.kind is CandidateKind.PEER_REFLEXIVE]
        for guess in guesses:
            if guess.is_direct and guess.address.address == host:
                self._correct(guess, guess.behind(relayed))

    def _correct(self, guess: Candidate, found: Candidate) -> None:
        self.replace(guess, found)
        self._checklist.replace_remote(guess, found)
