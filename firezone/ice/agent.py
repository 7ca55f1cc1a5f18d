"""The ICE agent (RFC 8445, with trickled candidates as in RFC 8838).

Both sides pair their candidates and check every pair with Binding requests, all at once (Ta = 0).
Nomination is continuous: the controlling agent uses the best pair that works at any moment and says
so with USE-CANDIDATE; the controlled one uses the best pair of those that the peer nominates. Both
go on checking all viable pairs, so when the nominated one is lost the next best takes over in the
same call, and when a better one begins to work, the agents move to it.

Facts that wake it, and what follows:
1. a check is due: send it; a nomination does not wait its turn;
2. a pair's checks are unanswered for too long: it fails, another may be nominated;
3. a request from an unknown address: a peer-reflexive remote candidate and its pair appear, and
   disappear when that pair fails;
4. a candidate comes or goes: pairs are formed or dropped.

Invariants: a pair is one path, our base and the peer's address; only authenticated messages change
anything; the nominated pair is viable; a candidate that was invalidated is never used.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace

from firezone import stun
from firezone.ice.candidate import COMPONENT, Candidate, CandidateKind, is_usable
from firezone.ice.checklist import Checklist, Reaches
from firezone.ice.choice import Choice
from firezone.ice.doubt import is_unanswered
from firezone.ice.events import (
    AgentEvent,
    IceState,
    IceTransmit,
    Nominated,
    PairReport,
    StateChanged,
)
from firezone.ice.messages import Messages
from firezone.ice.pair import Check, CheckState, Pair
from firezone.ice.pool import CandidatePool
from firezone.ice.remotes import Remotes
from firezone.ice.suspicion import Suspicion
from firezone.ice.timing import StunTiming
from firezone.model import Endpoint, Entropy, IceCredentials, Timeout


class Agent:
    """One side of one connection. `counters` says why messages and candidates were dropped.

    `reaches` says whether what we send from a base to an address can get anywhere: pairs that
    cannot work are not formed.
    """

    def __init__(
        self,
        *,
        controlling: bool,
        local: IceCredentials,
        remote: IceCredentials,
        entropy: Entropy,
        now: int,
        timing: StunTiming = StunTiming.DEFAULT,
        reaches: Reaches = lambda base, address: True,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._messages = Messages(local, remote, entropy)
        self._timing = timing
        self._state = IceState.NEW
        self._locals = CandidatePool()
        self._checklist = Checklist(controlling, reaches)
        self._remotes = Remotes(self._checklist)
        self._choice = Choice(self._checklist, now)
        self._deadline: int | None = now
        self._now = now
        self._transmits: deque[IceTransmit] = deque()
        self._events: deque[AgentEvent] = deque()
        self._suspicion = Suspicion(self._checklist, self._choice, self._events, self.counters)

    @property
    def state(self) -> IceState:
        return self._state

    @property
    def controlling(self) -> bool:
        return self._checklist.controlling

    @property
    def nominated(self) -> Nominated | None:
        """The pair in use, None while there is none."""
        return self._choice.nominated

    def local_candidates(self) -> tuple[Candidate, ...]:
        """The live candidates of ours, as signalled to the peer."""
        return tuple(self._locals)

    def remote_candidates(self) -> tuple[Candidate, ...]:
        """The live candidates of the peer, signalled and peer-reflexive ones."""
        return tuple(self._remotes)

    def way(self, base: Endpoint, address: Endpoint) -> Nominated | None:
        """The pair from there to there, unless it is known not to work."""
        pair = self._checklist.pair_at(base, address)
        return Nominated(pair.local, pair.remote) if pair is not None and pair.is_viable else None

    def ways(self) -> list[Nominated]:
        """The pairs that work or still may, the best first."""
        viable = sorted(self._checklist.viable(), key=lambda pair: -pair.priority)
        return [Nominated(pair.local, pair.remote) for pair in viable]

    def pairs(self) -> tuple[PairReport, ...]:
        """All pairs, failed ones too, by falling priority."""
        pairs = sorted(self._checklist, key=lambda pair: -pair.priority)
        return tuple(self._report(pair) for pair in pairs)

    def add_local_candidate(self, candidate: Candidate, now: int) -> Candidate | None:
        """Adopt a candidate: with our ufrag, and a priority that ranks it among the others.

        Returns it for signalling if it is new to the agent or was invalidated before; None if it
        is redundant (RFC 8445 section 5.1.3) or unusable.
        """
        if not is_usable(candidate.address) or not candidate.has_fitting_base:
            self.counters["unusable local candidate"] += 1
            return None
        adopted = self._adopt(replace(candidate, ufrag=self._messages.local.username))
        if adopted is not None:
            self._checklist.form([adopted], self._remotes, now)
            self._settle(now)
        return adopted

    def invalidate_local_candidate(self, candidate: Candidate, now: int) -> bool:
        """Stop using the candidate of this kind, address and base; whether it was live."""
        known = self._locals.invalidate(candidate)
        if known is not None:
            self._drop(known, now)
        return known is not None

    def add_remote_candidate(self, candidate: Candidate, now: int) -> None:
        """Take a signalled candidate; unsuitable ones are counted and dropped.

        Signalling a known one again gives its failed pairs another chance.
        """
        reason = self._unsuitable(candidate)
        if reason is not None:
            self.counters[reason] += 1
            return
        self._learn(_as_remote(candidate), now)
        self._settle(now)

    def invalidate_remote_candidate(self, candidate: Candidate, now: int) -> None:
        """Stop using the peer's candidate of this kind and address, if it is known."""
        known = self._remotes.invalidate(_as_remote(candidate))
        if known is not None:
            self._drop(known, now)

    def accepts(self, message: stun.Message) -> bool:
        """Whether this is an authentic message of our peer to this agent."""
        if message.method != stun.Method.BINDING:
            return False
        match message.class_:
            case stun.Class.REQUEST:
                return self._messages.is_authentic_request(message)
            case stun.Class.SUCCESS | stun.Class.ERROR:
                is_awaited = self.owns_transaction(message.transaction_id)
                return is_awaited and self._messages.is_authentic_response(message)
        return False

    def owns_transaction(self, transaction_id: bytes) -> bool:
        """Whether a check of ours with this transaction id waits for its response."""
        return self._checklist.check_of(transaction_id) is not None

    def handle_stun(
        self, local: Endpoint, source: Endpoint, message: stun.Message, now: int
    ) -> bool:
        """Take a message that came to `local`, a base of ours; False if it is not accepted."""
        if not self.accepts(message):
            self.counters["not accepted"] += 1
            return False
        self._start()
        match message.class_:
            case stun.Class.REQUEST:
                self._handle_request(local, source, message, now)
            case stun.Class.SUCCESS:
                self._handle_success(local, source, message, now)
            case stun.Class.ERROR:
                self._handle_error(message, now)
        self._settle(now)
        return True

    def handle_silence(self, now: int) -> None:
        """Data is sent over the nominated pair, and nothing has come back for a while. See whether
        the pair still works; if it does not, and another does, use that one. The controlled agent
        leaves that to its peer, and follows at once if that nominates another pair."""
        pair = self._choice.pair
        if pair is None:
            return
        if self.controlling:
            self._suspicion.begin(pair, now)
            self._settle(now)
        else:
            pair.is_silent = True

    def retry_direct(self, now: int) -> bool:
        """Give failed pairs that need no relay another chance. False if there are none; or if the
        pair in use is not answered either, for that nothing works any more must not be hidden."""
        pair = self._choice.pair
        if pair is None or is_unanswered(pair, now):
            return False
        failed = [
            pair
            for pair in self._checklist
            if pair.state is CheckState.FAILED and pair.local.is_direct and pair.remote.is_direct
        ]
        for pair in failed:
            pair.revive(now)
        self._settle(now)
        return bool(failed)

    def handle_path_opened(self, base: Endpoint, address: Endpoint, now: int) -> None:
        """What we send from that base to that address gets somewhere from now on; before, it got
        lost. So a check there must not wait for the last one to be given up."""
        pair = self._checklist.pair_at(base, address)
        if pair is not None and pair.state is CheckState.IN_PROGRESS:
            pair.check_again(now)
            self._settle(now)

    def handle_timeout(self, now: int) -> None:
        """Fail and check the pairs that are due. The first call starts the agent."""
        self._start()
        self._suspicion.judge(now)
        for pair in self._suspicion.take_probes(now):
            self._checklist.probed(pair, self._transmit_check(pair), now)
        for pair in self._checklist.exhausted(self._choice.pair, self._timing, now):
            self._checklist.fail(pair, now)
        self._settle(now)
        for pair in self._checklist.due(self._timing, now):
            self._send_check(pair, now)
        self._settle(now)

    def set_timing(self, timing: StunTiming, now: int) -> None:
        """Check at another pace. It holds for the checks that are pending, too."""
        self._timing = timing
        self._settle(now)

    def poll_timeout(self) -> Timeout | None:
        """When to call `handle_timeout`; at once while there is output to poll."""
        if self._transmits or self._events:
            return Timeout(self._now, "ice output")
        if self._deadline is None:
            return None
        return Timeout(self._deadline, "ice check")

    def poll_transmit(self) -> IceTransmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> AgentEvent | None:
        return self._events.popleft() if self._events else None

    # Candidates

    def _adopt(self, candidate: Candidate) -> Candidate | None:
        candidate = self._locals.take_invalidated(candidate) or self._locals.rank(candidate)
        for known in self._locals:
            if (known.address, known.base) == (candidate.address, candidate.base):
                if candidate.priority <= known.priority:
                    return None
                self._locals.replace(known, candidate)
                self._checklist.drop(known)
                return candidate
        if self._locals.is_full:
            self.counters["too many local candidates"] += 1
            return None
        self._locals.add(candidate)
        return candidate

    def _unsuitable(self, candidate: Candidate) -> str | None:
        if candidate.component != COMPONENT:
            return "remote candidate of another component"
        if candidate.ufrag not in (None, self._messages.remote.username):
            return "remote candidate of another session"
        if not is_usable(candidate.address):
            return "unusable remote candidate"
        if self._remotes.is_full and self._remotes.find(_as_remote(candidate)) is None:
            return "too many remote candidates"
        return None

    def _learn(self, candidate: Candidate, now: int) -> None:
        known = self._remotes.find(candidate)
        if known is not None:
            for pair in self._checklist:
                if pair.remote == known:
                    pair.revive(now)
            return
        self._remotes.learn(candidate)
        self._checklist.form(self._locals, [candidate], now)

    def _drop(self, candidate: Candidate, now: int) -> None:
        self._checklist.drop(candidate)
        # Another candidate may have stood back as redundant with this one.
        self._checklist.form(self._locals, self._remotes, now)
        self._settle(now)

    # Requests of the peer (RFC 8445 section 7.3)

    def _handle_request(
        self, local: Endpoint, source: Endpoint, request: stun.Message, now: int
    ) -> None:
        receiving = self._locals.best_at(local, CandidateKind.HOST, CandidateKind.RELAYED)
        if receiving is None:
            self.counters["request to an unknown address"] += 1
            return
        refusal = self._refusal(request)
        if refusal is not None:
            payload = self._messages.sign(refusal)
        else:
            pair = self._pair_of_request(receiving, source, request, now)
            if pair is None:
                return
            self._note_request(pair, request, now)
            payload = self._messages.success(request, source)
        self._transmits.append(IceTransmit(local, source, payload))

    def _refusal(self, request: stun.Message) -> stun.Message | None:
        """The error response that a request deserves, None for a good one."""
        if request.unknown:
            self.counters["request with unknown attributes"] += 1
            return request.error(420).with_(stun.UNKNOWN_ATTRIBUTES, request.unknown)
        if request.malformed is not None or request.get(stun.PRIORITY) is None:
            self.counters["malformed request"] += 1
            return request.error(400)
        match self._messages.wins_conflict(request, controlling=self.controlling):
            case True:
                self.counters["role conflict"] += 1
                return request.error(487)
            case False:
                self._change_role()
        return None

    def _pair_of_request(
        self, local: Candidate, source: Endpoint, request: stun.Message, now: int
    ) -> Pair | None:
        if self.controlling and request.get(stun.USE_CANDIDATE):
            self.counters["nomination by a controlled agent"] += 1
            return None
        remote = self._remotes.best_at(source)
        if remote is None:
            refusal = self._remotes.refusal(source)
            if refusal is not None:
                self.counters[refusal] += 1
                return None
            remote = self._remotes.guess(source, request.get(stun.PRIORITY) or 0)
        if self._checklist.pair_at(local.base, source) is None:
            self._checklist.form([local], [remote], now)
        return self._checklist.pair_at(local.base, source)

    def _note_request(self, pair: Pair, request: stun.Message, now: int) -> None:
        pair.trigger(now)
        pair.requested_at, pair.is_silent = now, False
        if not self.controlling:
            nominates = request.get(stun.USE_CANDIDATE) is not None
            self._choice.handle_request(pair, nominates=nominates, now=now)

    # Our checks (RFC 8445 section 7.2)

    def _send_check(self, pair: Pair, now: int) -> None:
        self._checklist.sent(pair, self._transmit_check(pair), self._timing, now)

    def _transmit_check(self, pair: Pair) -> bytes:
        """Gives the transaction id."""
        transaction_id, payload = self._messages.check(pair, controlling=self.controlling)
        self._transmits.append(IceTransmit(pair.local.base, pair.remote.address, payload))
        return transaction_id

    def _handle_success(
        self, local: Endpoint, source: Endpoint, response: stun.Message, now: int
    ) -> None:
        check = self._check_of(response)
        mapped = response.get(stun.XOR_MAPPED_ADDRESS)
        if mapped is None or response.unknown:
            self.counters["malformed response"] += 1
        elif check.pair.key != (local, source):
            # Not the path that we checked (RFC 8445 section 7.2.5.2.1).
            self.counters["response on another path"] += 1
        else:
            self._checklist.answered(check, self._valid_local(check.pair, mapped), now)

    def _handle_error(self, response: stun.Message, now: int) -> None:
        check = self._check_of(response)
        self._checklist.refused(check)
        error = response.get(stun.ERROR_CODE)
        if error is None or error.code != 487:
            self.counters["check refused"] += 1
        elif check.controlling == self.controlling:
            self.counters["role conflict"] += 1
            self._change_role()
            check.pair.check_again(now)

    def _check_of(self, response: stun.Message) -> Check:
        check = self._checklist.check_of(response.transaction_id)
        assert check is not None, "the response was accepted"
        return check

    def _valid_local(self, pair: Pair, mapped: Endpoint) -> Candidate:
        """As whom the peer sees us. An unknown address is a peer-reflexive candidate, which is not
        signalled nor paired: its base is paired already (RFC 8445 section 7.2.5.3.1)."""
        known = self._locals.best_at(mapped)
        if known is not None:
            return known
        priority = pair.local.peer_reflexive_priority
        return Candidate.peer_reflexive(mapped, pair.local.base, priority)

    def _change_role(self) -> None:
        self._checklist.change_role(not self.controlling)

    # What follows from any change

    def _start(self) -> None:
        if self._state is IceState.NEW:
            self._enter(IceState.CHECKING)

    def _settle(self, now: int) -> None:
        self._now = now
        self._remotes.forget_guesses()
        nominated = self._choice.settle(now)
        if nominated is not None:
            self._events.append(nominated)
        if self._state is not IceState.NEW:
            self._enter(self._derived_state())
        self._deadline = self._next_deadline(now)
        if self._state is IceState.NEW:
            self._deadline = now

    def _next_deadline(self, now: int) -> int | None:
        deadlines = [self._checklist.next_deadline(self._timing)]
        deadlines += [p.distrusted_until for p in self._checklist if p.distrusted_until > now]
        deadlines += self._suspicion.deadlines(now)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _derived_state(self) -> IceState:
        viable = sum(pair.is_viable for pair in self._checklist)
        if self._choice.pair is not None:
            return IceState.CONNECTED if viable > 1 else IceState.COMPLETED
        nothing_to_pair = not (self._locals.was_filled and self._remotes.was_filled)
        return IceState.CHECKING if viable or nothing_to_pair else IceState.DISCONNECTED

    def _enter(self, state: IceState) -> None:
        if state is not self._state:
            self._state = state
            self._events.append(StateChanged(state))

    def _report(self, pair: Pair) -> PairReport:
        return PairReport(
            pair.local,
            pair.remote,
            pair.state,
            pair.priority,
            pair.round_trip,
            pair is self._choice.pair,
            replace(pair.tally),
            pair.is_distrusted,
        )


def _as_remote(candidate: Candidate) -> Candidate:
    """As we may know a peer's candidate: without base, session or sockets."""
    return replace(candidate, base=candidate.address, ufrag=None, socket=None)
