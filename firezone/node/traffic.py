"""What the data plane is told of a connection: where its packets go, and those that waited."""

from __future__ import annotations

from firezone.commands import SealPacket, SetPath
from firezone.node.connection import Connection
from firezone.node.events import ConnectionEstablished
from firezone.node.outputs import Outputs
from firezone.node.transport import Transport


class Traffic:
    """Follows the way of a connection (its pair, or the preliminary one)."""

    def __init__(self, transport: Transport, outputs: Outputs) -> None:
        self._transport = transport
        self._outputs = outputs

    def apply_path(self, c: Connection, now: int) -> None:
        """Packets take the connection's way from now on; none, while its channel is not bound."""
        way = c.way
        if way is None:
            return
        path = self._transport.path(way, now)
        if path != c.path:
            c.path = path
            self._outputs.commands.append(SetPath(c.slot, path))

    def drop_preliminary(self, c: Connection) -> None:
        """A pair that is gone, or does not work any more, carries nothing."""
        pair = c.preliminary
        if pair is not None and c.agent.way(pair.local.base, pair.remote.address) is None:
            c.preliminary = c.path = None
            self._outputs.commands.append(SetPath(c.slot, None))

    def establish(self, c: Connection, now: int) -> None:
        """Let the waiting packets go as soon as there is both a path and a session."""
        if c.path is None or not c.has_session:
            return
        if c.established_at is None:
            c.established_at = now
            self._outputs.events.append(ConnectionEstablished(c.id))
        while c.waiting:
            self.send(c, c.waiting.popleft())

    def send(self, c: Connection, packet: bytes) -> None:
        self._outputs.commands.append(SealPacket(c.slot, packet))
