"""What the ICE agents of the connections have to say, and what follows from it."""

from __future__ import annotations

from firezone.ice import Nominated, PathInDoubt, PathLeft, PathSilent, StateChanged
from firezone.node.connection import Connection, ConnectionState, PathChange
from firezone.node.events import PathChosen
from firezone.node.handshakes import Handshakes
from firezone.node.in_flight import InFlight
from firezone.node.outputs import Outputs
from firezone.node.relay_choice import RelayChoice
from firezone.node.traffic import Traffic
from firezone.node.transport import Transport


class Agents:
    """Sends their checks, and takes the pairs that they nominate into use."""

    def __init__(
        self,
        transport: Transport,
        relays: RelayChoice,
        traffic: Traffic,
        handshakes: Handshakes,
        outputs: Outputs,
    ) -> None:
        self._transport = transport
        self._relays = relays
        self._traffic = traffic
        self._handshakes = handshakes
        self._outputs = outputs
        self._in_flight = InFlight()

    def owner_of_response(self, transaction_id: bytes) -> str | None:
        """The connection that sent such a check."""
        return self._in_flight.owner(transaction_id)

    def drain(self, c: Connection, now: int) -> None:
        """Take out all that the agent of this connection has."""
        while (transmit := c.agent.poll_transmit()) is not None:
            self._in_flight.note(transmit.payload, c.id, now)
            self._transport.send(transmit.payload, transmit.local, transmit.destination, now)
        while (event := c.agent.poll_event()) is not None:
            match event:
                case StateChanged(state):
                    c.note_ice_state(state, now)
                case Nominated():
                    self._use(c, event, now)
                case PathInDoubt() if not c.is_direct:
                    self._relays.try_other(c, now)  # that of its path may be gone
                case PathSilent():
                    self._transport.probe(now)  # all relays may be
                    if c.is_direct:
                        self._relays.try_other(c, now)
                case PathLeft():
                    self._transport.probe(now)

    def _use(self, c: Connection, pair: Nominated, now: int) -> None:
        if c.pair == pair:
            return
        c.pair, c.preliminary = pair, None
        c.direct_retry.note_path(direct=pair.is_direct, now=now)
        self._traffic.apply_path(c, now)
        if c.state is ConnectionState.CONNECTING:
            c.state = ConnectionState.CONNECTED
            c.touch(now)
        c.paths.append(PathChange(now, pair.is_direct, pair.local, pair.remote))
        self._outputs.events.append(PathChosen(c.id, pair.is_direct, pair.local, pair.remote))
        self._handshakes.handle_nominated(c, now)
        self._traffic.establish(c, now)
