"""From what an allocation found to candidates of ICE, and guesses at what it could not find."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address

from firezone.ice import Candidate, CandidateKind
from firezone.model import Endpoint
from firezone.nat64 import Prefix
from firezone.turn import CandidateAdded, CandidateInvalidated

_MAX_OPTIMISTIC = 2


def as_candidate(found: CandidateAdded | CandidateInvalidated) -> Candidate:
    """The ICE candidate of an address that an allocation found."""
    match found.kind:
        case "host":
            return Candidate.host(found.address)
        case "srflx":
            return Candidate.server_reflexive(found.address, found.base)
        case _:
            return Candidate.relayed(found.address)


def in_signalling_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Unique, best first."""
    unique = dict.fromkeys(candidates)
    return sorted(unique, key=lambda c: c.priority, reverse=True)


def optimistic(known: Iterable[Candidate], new: Candidate) -> Iterator[Candidate]:
    """A peer behind a symmetric NAT with a forwarded port is reached at the NAT's address and its
    own port, though no server ever saw that. IPv4 only, and only a few."""
    known = [*known]
    hosts = _of_kind(known, CandidateKind.HOST)
    reflexive = _of_kind(known, CandidateKind.SERVER_REFLEXIVE)
    if new.kind is CandidateKind.HOST:
        hosts = [new]
    elif new.kind is CandidateKind.SERVER_REFLEXIVE:
        reflexive = [new]
    else:
        return
    seen = {c.address for c in known}
    guesses = (Endpoint(r.address.address, h.address.port) for r in reflexive for h in hosts)
    fresh = [g for g in dict.fromkeys(guesses) if g.family == 4 and g not in seen]
    for guess in fresh[:_MAX_OPTIMISTIC]:
        yield Candidate.server_reflexive(guess, guess)


def translated(candidate: Candidate, nat64: Prefix | None) -> Iterator[Candidate]:
    """As whom the network's NAT64 stands for a peer's IPv4 address."""
    address = candidate.address.address
    if nat64 is not None and isinstance(address, IPv4Address):
        embedded = nat64.embed(address)
        if embedded is not None:
            there = Endpoint(embedded, candidate.address.port)
            yield replace(candidate, address=there, base=there)


def _of_kind(candidates: Iterable[Candidate], kind: CandidateKind) -> list[Candidate]:
    return [c for c in candidates if c.kind is kind]
