"""From packets to entries of the flow table, both directions at once."""

from __future__ import annotations

from typing import NamedTuple

from firezone._ext.ip import five_tuple
from firezone.commands import NOBODY, Action, Direction, FlowKey, InstallFlow
from firezone.durations import SECOND
from firezone.model import IPAddress, unpack_address
from firezone.policy.filter import Protocol

IDLE_TIMEOUT = 120 * SECOND
"""An entry without a rewrite is only a cache of the policy's word: it can always be made again."""

REFUSAL_TIME = 1 * SECOND
"""How long a refusal is silent: the answer to a refused sender is limited to one a second."""


class Flow(NamedTuple):
    """The 5-tuple of a packet, as the flow table sees it."""

    protocol: int
    source: IPAddress
    destination: IPAddress
    source_port: int
    destination_port: int

    @classmethod
    def of(cls, packet: bytes, *, fragments: bool = False) -> Flow | None:
        """None if it is no packet that may pass; `fragments` may where nobody looks at ports. The
        kernel that looks flows up reads the packet here, too, so that both see the same flow."""
        parsed = five_tuple(packet, fragments)
        if parsed is None:
            return None
        protocol, source, destination, source_port, destination_port = parsed
        return cls(
            protocol,
            unpack_address(source),
            unpack_address(destination),
            source_port,
            destination_port,
        )

    @property
    def filter_port(self) -> int:
        """The port that filters look at on the way to a resource; ICMP has none."""
        return self.destination_port if self._has_ports else 0

    @property
    def reply_filter_port(self) -> int:
        """The port that filters look at on the way back."""
        return self.source_port if self._has_ports else 0

    @property
    def _has_ports(self) -> bool:
        return self.protocol in (Protocol.TCP, Protocol.UDP)

    def reversed(self) -> Flow:
        return Flow(
            self.protocol,
            self.destination,
            self.source,
            self.destination_port,
            self.source_port,
        )

    def key(self, direction: Direction, slot: int) -> FlowKey:
        """`slot` is the peer; the table wants it only where the packet came from one."""
        return FlowKey(
            direction,
            slot if direction is Direction.DOWN else NOBODY,
            self.protocol,
            self.source,
            self.destination,
            self.source_port,
            self.destination_port,
        )


def forward(flow: Flow, direction: Direction, slot: int, expires_at: int = 0) -> list[InstallFlow]:
    """Let a flow pass between the TUN and peer `slot`, and its replies with it."""
    back = Direction.UP if direction is Direction.DOWN else Direction.DOWN
    return [
        InstallFlow(f.key(d, slot), Action.FORWARD, slot, slot, expires_at, IDLE_TIMEOUT)
        for f, d in ((flow, direction), (flow.reversed(), back))
    ]


def refuse(flow: Flow, direction: Direction, slot: int, now: int) -> InstallFlow:
    """Drop a flow for a second."""
    until = now + REFUSAL_TIME
    return InstallFlow(flow.key(direction, slot), Action.DROP, slot, slot, until, REFUSAL_TIME)
