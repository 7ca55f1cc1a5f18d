"""Two agents and the network between them: NATs, filters, loss and a clock that jumps."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable

from firezone.durations import MILLISECOND, SECOND
from firezone.ice import (
    Agent,
    Candidate,
    CandidateKind,
    IceState,
    Nominated,
    StateChanged,
    StunTiming,
)
from firezone.model import Endpoint, IceCredentials
from firezone.stun import decode

LATENCY = 10 * MILLISECOND
CONTROLLING_CREDENTIALS = IceCredentials("lefu", "left-password-of-22-ch")
CONTROLLED_CREDENTIALS = IceCredentials("rigu", "right-password-of-22-c")


def endpoint(text: str) -> Endpoint:
    return Endpoint.parse(text)


def host(text: str) -> Candidate:
    return Candidate.host(endpoint(text))


def srflx(text: str, base: str) -> Candidate:
    return Candidate.server_reflexive(endpoint(text), endpoint(base))


def relay(text: str, socket: str | None = None) -> Candidate:
    return Candidate.relayed(endpoint(text), None if socket is None else endpoint(socket))


def make_agent(
    controlling: bool, seed: int = 0, timing: StunTiming = StunTiming.DEFAULT, role: int = 0
) -> Agent:
    """An agent of one side. `role=1` gives it the wrong role: that of the other side."""
    mine, theirs = CONTROLLING_CREDENTIALS, CONTROLLED_CREDENTIALS
    if not controlling:
        mine, theirs = theirs, mine
    return Agent(
        controlling=controlling ^ bool(role),
        local=mine,
        remote=theirs,
        entropy=random.Random(2 * seed + controlling).randbytes,
        now=0,
        timing=timing,
    )


class Wire:
    """The controlling agent `left`, the controlled agent `right`, and what lies between."""

    def __init__(self, left: Agent | None = None, right: Agent | None = None) -> None:
        self.left = left or make_agent(True)
        self.right = right or make_agent(False)
        self.now = 0
        self.nat: dict[Endpoint, Endpoint] = {}
        """Full-cone mappings: base to public address."""
        self.symmetric_nat: dict[Endpoint, str] = {}
        """Bases behind a symmetric NAT, and its public IP address."""
        self.blocked: set[tuple[Endpoint, Endpoint]] = set()
        """Paths, base to base, on which nothing passes."""
        self.delays: dict[tuple[Endpoint, Endpoint], int] = {}
        """What paths, base to base, take beside the usual latency."""
        self.lost: Callable[[], bool] = lambda: False
        self.nominations: dict[Agent, list[Nominated]] = {self.left: [], self.right: []}
        self.states: dict[Agent, list[IceState]] = {self.left: [], self.right: []}
        self.sent: list[tuple[int, Agent, Endpoint, Endpoint, bytes]] = []
        self._queue: list[tuple[int, int, Agent, Endpoint, Endpoint, bytes]] = []
        self._symmetric: dict[tuple[Endpoint, Endpoint], Endpoint] = {}

    def peer(self, agent: Agent) -> Agent:
        return self.right if agent is self.left else self.left

    def add(self, agent: Agent, *candidates: Candidate) -> list[Candidate]:
        """Give candidates to one agent and signal what it adopts to the other."""
        adopted = [c for c in (agent.add_local_candidate(c, self.now) for c in candidates) if c]
        self.signal(self.peer(agent), adopted)
        return adopted

    def signal(self, to: Agent, candidates: Iterable[Candidate]) -> None:
        for candidate in candidates:
            to.add_remote_candidate(Candidate.from_sdp(candidate.to_sdp()), self.now)

    def invalidate(self, agent: Agent, candidate: Candidate) -> None:
        """Take a candidate from its agent and tell the other."""
        assert agent.invalidate_local_candidate(candidate, self.now)
        remote = Candidate.from_sdp(candidate.to_sdp())
        self.peer(agent).invalidate_remote_candidate(remote, self.now)

    def block(self, first: str, second: str) -> None:
        a, b = endpoint(first), endpoint(second)
        self.blocked |= {(a, b), (b, a)}

    def delay(self, first: str, second: str, each_way: int) -> None:
        a, b = endpoint(first), endpoint(second)
        self.delays |= {(a, b): each_way, (b, a): each_way}

    def run(self, seconds: float = 5) -> None:
        """Let that much time pass."""
        end = self.now + round(seconds * SECOND)
        while True:
            self._drain()
            upcoming = self._upcoming()
            if upcoming is None or upcoming > end:
                break
            self.now = max(self.now, upcoming)
            self._step()
        self.now = end

    def path(self, agent: Agent) -> tuple[str, str] | None:
        """What the agent sends on: its base and the peer's address."""
        nominated = agent.nominated
        return nominated and (str(nominated.local.base), str(nominated.remote.address))

    def _upcoming(self) -> int | None:
        timeouts = [a.poll_timeout() for a in (self.left, self.right)]
        moments = [t.deadline for t in timeouts if t] + [q[0] for q in self._queue[:1]]
        return min(moments, default=None)

    def _step(self) -> None:
        while self._queue and self._queue[0][0] <= self.now:
            _, _, agent, local, source, payload = heapq.heappop(self._queue)
            agent.handle_stun(local, source, decode(payload), self.now)
        for agent in (self.left, self.right):
            timeout = agent.poll_timeout()
            if timeout and timeout.deadline <= self.now:
                agent.handle_timeout(self.now)

    def _drain(self) -> None:
        for agent in (self.left, self.right):
            while (event := agent.poll_event()) is not None:
                match event:
                    case Nominated():
                        self.nominations[agent].append(event)
                    case StateChanged(state):
                        self.states[agent].append(state)
            while (transmit := agent.poll_transmit()) is not None:
                at = (transmit.local, transmit.destination)
                self.sent.append((self.now, agent, *at, transmit.payload))
                self._forward(agent, *at, transmit.payload)

    def _forward(self, agent: Agent, base: Endpoint, to: Endpoint, payload: bytes) -> None:
        target = self._base_behind(self.peer(agent), to, base)
        if target is None or (base, target) in self.blocked or self.lost():
            return
        source = self._mapped(base, to)
        due = self.now + LATENCY + self.delays.get((base, target), 0)
        entry = (due, len(self.sent), self.peer(agent), target, source, payload)
        heapq.heappush(self._queue, entry)

    def _mapped(self, base: Endpoint, to: Endpoint) -> Endpoint:
        if base in self.symmetric_nat:
            port = 40_000 + len(self._symmetric)
            mapping = Endpoint.of(self.symmetric_nat[base], port)
            return self._symmetric.setdefault((base, to), mapping)
        return self.nat.get(base, base)

    def _base_behind(self, agent: Agent, address: Endpoint, sender: Endpoint) -> Endpoint | None:
        for (base, permitted), mapping in self._symmetric.items():
            if mapping == address and self._mapped(sender, base) == permitted:
                return base
        for base in _bases(agent):
            if self.nat.get(base, base) == address and base not in self.symmetric_nat:
                return base
        return None


def _bases(agent: Agent) -> list[Endpoint]:
    kinds = (CandidateKind.HOST, CandidateKind.RELAYED)
    return [c.base for c in agent.local_candidates() if c.kind in kinds]
