"""Finds out how a NAT or firewall filters, with the help of relays: see filtering.py.

Socket PROBED sends to one server only, which tells its outer address. Relays send to that:

    allocations on the relays ──► outer address of PROBED ──► channels to it
      ──► near and far relay send, three times ──► control ──► done

*Near* is the relay that PROBED asked, sending from its relayed address: that host, another port.
*Far* is one of another host. Allocations are made from another socket, so that PROBED sends nothing
there. A socket may get nothing because nothing was sent, so what got in needs no proof, but silence
does: the *control*. PROBED sends to the relayed address, the relay answers to where that came from,
and that any NAT lets in. Where that came from also tells how the NAT maps, even with one relay: its
relayed address is another port of the host that PROBED asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from firezone import stun
from firezone.durations import MILLISECOND, SECOND
from firezone.model import Endpoint, Entropy
from firezone.netcheck.filtering import Filtering, filtering_of
from firezone.netcheck.mapping import Mapping, mapping_of
from firezone.netcheck.relayed import PeerData, Relayed
from firezone.netcheck.wire import PROBED, Answer, Sent, Wire
from firezone.stun import DecodeError, Message, Method

TRIES = 3
CONTROL_TRIES = 6
"""Each goes there and back again, and to the relay and back besides."""
RETRY = 200 * MILLISECOND
PATIENCE = 5 * SECOND
"""For what the relays' own protocol repeats: a few losses are made good meanwhile."""


class _Way:
    """From a relay's host to PROBED."""

    def __init__(self, relay: Relayed, relayed: Endpoint, entropy: Entropy) -> None:
        self.relay = relay
        self.relayed = relayed
        self.got_in = False
        self.answered = False
        """Whether the control has succeeded."""
        self.probe = Message.indication(Method.BINDING, entropy)
        self.opener = Message.indication(Method.BINDING, entropy)
        self.answer = Message.indication(Method.BINDING, entropy)

    @property
    def verdict(self) -> bool | None:
        """Whether it is open to who was not asked; None is unknown."""
        return True if self.got_in else False if self.answered else None


@dataclass(frozen=True, slots=True)
class _Phase:
    """`begin` runs up to `tries` times until `is_over`; then goes on whatever has come of it."""

    begin: Callable[[int], None]
    is_over: Callable[[], bool]
    go_on: Callable[[int], None]
    tries: int
    patience: int
    """After the last try."""


class FilterTest:
    """The test of one family. `note` says why `result` is less than it could be."""

    def __init__(
        self, wire: Wire, family: int, relays: Sequence[Relayed], entropy: Entropy, now: int
    ) -> None:
        self.deadline: int | None = now
        self.note: str | None = None
        self._wire = wire
        self._entropy = entropy
        self._family = family
        self._relays = relays
        self._server: Endpoint | None = None
        self._mapped: Endpoint | None = None
        self._local: Endpoint | None = None
        self._seen: dict[Endpoint, Endpoint] = {}
        """As whom PROBED came to the server, and to relayed addresses."""
        self._near: _Way | None = None
        self._far: _Way | None = None
        self._patience = SECOND
        self._error = "no answer"
        self._tries = 0
        self._is_opened = False
        """Whether PROBED has sent to the relayed addresses: then probes prove nothing any more."""
        self._enter(_Phase(_only_wait, self._is_decided, self._choose, 1, PATIENCE), now)

    @property
    def result(self) -> Filtering:
        near, far = self._near, self._far
        return filtering_of(near.verdict if near else None, far.verdict if far else None)

    @property
    def mapping(self) -> Mapping:
        """How the NAT maps, as far as the control has shown it."""
        return Mapping.UNKNOWN if self._local is None else mapping_of(self._local, self._seen)

    def handle_timeout(self, now: int) -> None:
        if self.deadline is not None and now >= self.deadline:
            self._advance(now)

    def proceed(self, now: int) -> None:
        """Something has come: see whether the phase is over."""
        if self.deadline is not None and self._phase.is_over():
            self._phase.go_on(now)

    def handle_answer(self, sent: Sent, answer: Answer, now: int) -> None:
        """A server tells PROBED its outer address."""
        self._mapped = self._mapped or answer.mapped
        self._local = answer.local
        if answer.mapped is not None:
            self._seen.setdefault(sent.destination, answer.mapped)
        self._patience = max(self._patience, 3 * (now - sent.sent_at))
        self.proceed(now)

    def handle_arrival(self, sent: Sent) -> None:
        """Nobody sends us our own requests."""

    def handle_unsent(self, sent: Sent, reason: str, now: int) -> None:
        self._error = reason

    def handle_indication(self, transaction_id: bytes, source: Endpoint, now: int) -> bool:
        """What PROBED has received. Whether it is one of ours."""
        for way in self._ways():
            if source != way.relayed:
                continue
            if transaction_id == way.probe.transaction_id:
                way.got_in |= not self._is_opened
            elif transaction_id == way.answer.transaction_id:
                way.answered = True
            else:
                continue
            self.proceed(now)
            return True
        return False

    def handle_peer_data(self, relay: Relayed, data: PeerData, now: int) -> None:
        """What a relay got for us: the opener is answered to where it came from."""
        try:
            transaction_id = stun.decode(data.payload).transaction_id
        except DecodeError:
            return
        for way in self._ways():
            if way.relay is relay and transaction_id == way.opener.transaction_id:
                self._seen.setdefault(way.relayed, data.peer)
                relay.send(data.peer, way.answer.encode(), now)

    # The phases.

    def _enter(self, phase: _Phase, now: int) -> None:
        self._phase, self._tries = phase, 0
        self._advance(now)

    def _advance(self, now: int) -> None:
        phase = self._phase
        if phase.is_over() or self._tries == phase.tries:
            phase.go_on(now)
            return
        self._tries += 1
        self.deadline = now + (RETRY if self._tries < phase.tries else phase.patience)
        phase.begin(now)

    def _end(self, note: str | None) -> None:
        self.note = note
        self.deadline = None

    def _is_decided(self) -> bool:
        return all(relay.is_decided for relay in self._relays)

    def _choose(self, now: int) -> None:
        """Which relay is asked for our outer address, and which ones send to it."""
        family = self._family
        able = [r for r in self._relays if r.address(family) is not None]
        asked = sorted((r for r in able if r.server(family) is not None), key=self._is_elsewhere)
        if not asked:
            self._end(self._why_none())
            return
        self._server = asked[0].server(family)
        for relay in able:
            self._take(relay)
        phase = _Phase(self._ask, lambda: self._mapped is not None, self._bind, TRIES, SECOND)
        self._enter(phase, now)

    def _is_elsewhere(self, relay: Relayed) -> bool:
        """Whether it relays from another address than it listens at."""
        server, address = relay.server(self._family), relay.address(self._family)
        return server is None or address is None or server.address != address.address

    def _take(self, relay: Relayed) -> None:
        relayed = relay.address(self._family)
        assert relayed is not None and self._server is not None
        if relayed.address == self._server.address:
            self._near = self._near or _Way(relay, relayed, self._entropy)
        else:
            self._far = self._far or _Way(relay, relayed, self._entropy)

    def _why_none(self) -> str:
        for relay in self._relays:
            if not relay.has_allocation:
                return f"relay {relay.name}: {relay.problem}"
        return f"no relay has an IPv{self._family} address"

    def _ask(self, now: int) -> None:
        if self._server is not None:
            self._wire.send(self, PROBED, self._server, now)

    def _bind(self, now: int) -> None:
        if self._mapped is None:
            self._end(f"{self._server}: {self._error}")
            return
        self._enter(_Phase(self._ask_for_channels, self._is_bound, self._send, 1, PATIENCE), now)

    def _ask_for_channels(self, now: int) -> None:
        for way in self._ways():
            way.relay.bind(self._outer, now)

    def _is_bound(self) -> bool:
        return all(way.relay.is_answered(self._outer) for way in self._ways())

    def _send(self, now: int) -> None:
        phase = _Phase(self._probe, self._has_all, self._control, TRIES, self._patience)
        self._enter(phase, now)

    def _has_all(self) -> bool:
        """Whether nothing is to be learnt any more: who lets in the far one lets in the near."""
        if self._far is not None and self._far.got_in:
            return True
        return self._far is None and self._near is not None and self._near.got_in

    def _probe(self, now: int) -> None:
        for way in self._silent():
            if way.relay.is_bound(self._outer):
                way.relay.send(self._outer, way.probe.encode(), now)

    def _control(self, now: int) -> None:
        if self._has_all():
            self._conclude(now)
            return
        phase = _Phase(self._open, self._is_told, self._conclude, CONTROL_TRIES, self._patience)
        self._enter(phase, now)

    def _is_told(self) -> bool:
        return not self._silent()

    def _open(self, now: int) -> None:
        """A NAT may map that anew. Of addresses without a channel a relay tells only who has sent
        without one; what is sent here means nothing."""
        self._is_opened = True
        for way in self._silent():
            way.relay.send_indication(self._outer, way.probe.encode())
            self._wire.put(PROBED, way.opener.encode(), way.relayed)

    def _conclude(self, now: int) -> None:
        self._end(self._shortcoming())

    def _shortcoming(self) -> str | None:
        if self.result not in (Filtering.UNKNOWN, Filtering.NOT_BY_PORT, Filtering.DEPENDENT):
            return None
        for way in self._silent():
            if way.relay.refuses_peers:
                return f"relay {way.relay.name} refuses to send to {self._outer.address}"
            return f"nothing comes in from {way.relayed}, not even answers"
        return "name a second relay, at another address"

    # Parts.

    @property
    def _outer(self) -> Endpoint:
        assert self._mapped is not None
        return self._mapped

    def _ways(self) -> list[_Way]:
        return [way for way in (self._near, self._far) if way is not None]

    def _silent(self) -> list[_Way]:
        """Those of which nothing is known."""
        return [way for way in self._ways() if way.verdict is None]


def _only_wait(now: int) -> None:
    """Nothing to begin."""
