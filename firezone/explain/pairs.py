"""Why a candidate pair is in use, or is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from firezone.durations import MILLISECOND
from firezone.explain.values import (
    CandidateStatus,
    PairStatus,
    milliseconds_or_none,
    seconds,
)
from firezone.ice import Agent, Candidate, CandidateKind, CheckState, Nominated, PairReport
from firezone.ice.preference import are_rivals, is_faster
from firezone.model import Endpoint

NOT_SENT = "our relay does not send there (403), so no check left it"


def pair_statuses(
    agent: Agent,
    now: int,
    preliminary: Nominated | None = None,
    refuses: Callable[[Endpoint, Endpoint], bool] = lambda local, peer: False,
) -> tuple[PairStatus, ...]:
    """All pairs, the best first. `preliminary` is the one in use while none is nominated; `refuses`
    says whether a relay of ours does not send from that address to that peer."""
    pairs = agent.pairs()
    chosen = next((pair for pair in pairs if pair.nominated), None)
    return tuple(
        PairStatus(
            local=str(pair.local),
            remote=str(pair.remote),
            state=pair.state.name.lower().replace("_", "-"),
            priority=pair.priority,
            sent=pair.tally.sent,
            answered=pair.tally.answered,
            round_trip_ms=milliseconds_or_none(pair.round_trip),
            nominated=pair.nominated,
            verdict=(
                "in use since the handshake, until a pair is nominated"
                if Nominated(pair.local, pair.remote) == preliminary
                else NOT_SENT
                if not pair.tally.answered and refuses(pair.local.base, pair.remote.address)
                else verdict(pair, chosen, agent.controlling, now)
            ),
        )
        for pair in pairs
    )


def verdict(pair: PairReport, chosen: PairReport | None, controlling: bool, now: int) -> str:
    """One phrase. `chosen` is the nominated pair, `controlling` whether our side nominates."""
    tally = pair.tally
    if pair.nominated:
        quiet = f", no answer to the last {_checks(tally.unanswered)}"
        return "in use" + (quiet if tally.unanswered > 1 else "")
    if pair.distrusted and pair.state is CheckState.SUCCEEDED:
        return f"distrusted: fell silent, no answer to the last {_checks(tally.unanswered)}"
    match pair.state:
        case CheckState.WAITING:
            return "waiting for its first check"
        case CheckState.IN_PROGRESS:
            return f"no answer to {_checks(tally.sent)} yet"
        case CheckState.FAILED:
            when = (
                "" if tally.failed_at is None else f", {seconds(now - tally.failed_at):.0f} s ago"
            )
            if tally.answered:
                return f"failed after {_checks(tally.unanswered)} without answer{when}"
            return f"no answer to {_checks(tally.sent)}, given up{when}"
    if chosen is not None and controlling and _lost_by_speed(pair, chosen):
        slower = (pair.round_trip or 0) - (chosen.round_trip or 0)
        return f"works; its round trip is {slower / MILLISECOND:.0f} ms longer"
    if chosen is not None and pair.priority < chosen.priority:
        return "works; lower priority"
    if controlling:
        return "works; about to be nominated"
    return "works; not nominated by the peer"


def _lost_by_speed(pair: PairReport, chosen: PairReport) -> bool:
    return (
        pair.priority > chosen.priority
        and are_rivals(pair, chosen)
        and is_faster(chosen, pair, share=2)
    )


def candidate_statuses(agent: Agent) -> tuple[CandidateStatus, ...]:
    """Ours, then the peer's, each the best first."""
    ours = sorted(agent.local_candidates(), key=lambda c: -c.priority)
    theirs = sorted(agent.remote_candidates(), key=lambda c: -c.priority)
    paired = {pair.local.base for pair in agent.pairs()}
    tried = {pair.remote.address for pair in agent.pairs()}
    local = (_status("local", c, _note("the peer", c, theirs, c.base in paired)) for c in ours)
    remote = (_status("remote", c, _note("we", c, ours, c.address in tried)) for c in theirs)
    return (*local, *remote)


def _status(side: str, candidate: Candidate, note: str) -> CandidateStatus:
    base = None if candidate.base == candidate.address else str(candidate.base)
    address = str(candidate.address)
    return CandidateStatus(side, candidate.kind.value, address, base, candidate.priority, note)


def _note(who: str, candidate: Candidate, others: Iterable[Candidate], is_paired: bool) -> str:
    """What there is to say of a candidate besides its pairs; `others` are those of `who`."""
    if not is_paired:
        if any(other.family == candidate.family for other in others):
            return "in no pair"
        have = "has" if who == "the peer" else "have"
        return f"in no pair: {who} {have} no IPv{candidate.family} address"
    if candidate.kind is CandidateKind.SERVER_REFLEXIVE and candidate.base != candidate.address:
        return f"sent from {candidate.base}"
    return ""


def _checks(count: int) -> str:
    return "1 check" if count == 1 else f"{count} checks"
