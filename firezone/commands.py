"""What the control layer tells the data plane to do, and what it reads back.

The machines emit these values through `poll_command()`; `shell/dataplane.py` carries them out on
the kernels, and so does the simulator. A peer is known to the data plane by its *slot*, a small
number that the node hands out. Slot 0 is nobody: flows of no peer belong to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from firezone.model import Endpoint, IPAddress

NOBODY = 0
"""The slot of flows that belong to no peer."""

SLOTS = 16_384
"""How many slots a data plane has, unless it is made with another number."""


@dataclass(frozen=True, slots=True)
class CookieSecret:
    """What this node's cookies are made under (WireGuard paper, section 5.4.7).

    `secret` has 16 bytes; an epoch of theirs is 128 s, the first one began at `since`, absolute ns.
    """

    secret: bytes = field(repr=False)
    since: int


@dataclass(frozen=True, slots=True)
class AddPeer:
    """Open a slot. Its data messages carry receiver indices whose upper 24 bits are `tunnel_id`."""

    slot: int
    tunnel_id: int


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Close a slot: wipe its keys, forget its path, refuse its flows."""

    slot: int


@dataclass(frozen=True, slots=True)
class InstallKeypair:
    """Add a session. It is used to send at once if we initiated, else from its first data on.

    It replaces the keypair whose `local_index` is equal modulo 8. Times are absolute nanoseconds.
    """

    slot: int
    local_index: int
    remote_index: int
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    initiator: bool
    created_at: int
    send_until: int
    receive_until: int


@dataclass(frozen=True, slots=True)
class RemoveKeypair:
    """Wipe one session."""

    slot: int
    local_index: int


@dataclass(frozen=True, slots=True)
class Path:
    """Where a peer is reached: to `destination`, from `source` where it matters, and with a
    ChannelData header of `channel` where the path leads through our relay at `destination`."""

    destination: Endpoint
    source: Endpoint | None = None
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class SetPath:
    """Swap the path of a peer. Without one its packets come back as UNROUTABLE."""

    slot: int
    path: Path | None


@dataclass(frozen=True, slots=True)
class SendKeepalive:
    """Seal an empty packet to the peer, if it has a usable session and a path."""

    slot: int


@dataclass(frozen=True, slots=True)
class SealPacket:
    """Seal one inner packet of ours to the peer, past the flow table."""

    slot: int
    packet: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeliverPacket:
    """Write one inner packet to the TUN device, past the flow table."""

    packet: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reinject:
    """Send a packet through the flow table again, after its flow was decided.

    `direction` is where it came from: UP for one read from the TUN, DOWN for one of peer `slot`.
    """

    direction: Direction
    slot: int
    packet: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OpenChannel:
    """Accept ChannelData with this number from this relay, and note when it was last seen."""

    relay: Endpoint
    number: int


@dataclass(frozen=True, slots=True)
class CloseChannel:
    """Refuse ChannelData with this number from this relay."""

    relay: Endpoint
    number: int


class Direction(IntEnum):
    """UP: from the TUN device to a peer. DOWN: from a peer to the TUN device."""

    UP = 0
    DOWN = 1


class Action(IntEnum):
    """What a flow's packets meet. SLOW: every packet of it goes to the control layer."""

    DROP = 0
    FORWARD = 1
    SLOW = 2


# The two of which each new flow needs a pair: made five times as fast as a frozen dataclass.


class FlowKey(NamedTuple):
    """One direction of a flow. `slot` is the peer it came from (DOWN), NOBODY on the way UP.

    For ICMP echo both ports are the identifier; for other protocols they are 0.
    """

    direction: Direction
    slot: int
    protocol: int
    source: IPAddress
    destination: IPAddress
    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True)
class Rewrite:
    """New addresses and ports of a flow's packets; None leaves a field alone. One family only."""

    source: IPAddress | None = None
    destination: IPAddress | None = None
    source_port: int | None = None
    destination_port: int | None = None


class InstallFlow(NamedTuple):
    """Decide a flow. Replaces the entry of an equal key.

    `slot` is the peer out for FORWARD on the way UP, else the peer whose revocation ends the flow.
    `group` names the generation that revokes it: bumping that group's generation makes the entry
    stale at once. `expires_at` (absolute ns, 0 = never) is the policy's word, `idle_timeout` (ns)
    the table's.
    """

    key: FlowKey
    action: Action
    slot: int
    group: int
    expires_at: int
    idle_timeout: int
    rewrite: Rewrite | None = None


@dataclass(frozen=True, slots=True)
class BumpGeneration:
    """Make every flow of a group (a peer's slot, or NOBODY) stale: its next packet is a miss."""

    group: int


Command = (
    AddPeer
    | RemovePeer
    | InstallKeypair
    | RemoveKeypair
    | SetPath
    | SendKeepalive
    | SealPacket
    | DeliverPacket
    | Reinject
    | OpenChannel
    | CloseChannel
    | InstallFlow
    | BumpGeneration
)


@dataclass(frozen=True, slots=True)
class Activity:
    """What the data plane saw of a peer: absolute nanoseconds, 0 = never.

    "Data" is a non-empty packet, "any" includes keepalives. Only what authenticated counts.
    """

    sent_any: int = 0
    sent_data: int = 0
    received_any: int = 0
    received_data: int = 0
    unanswered_since: int = 0
    """First data sent after the last packet received; stands while `> received_any`."""
    unacknowledged_since: int = 0
    """First data received after the last packet sent; stands while `> sent_any`."""
    current_index: int = 0
    """`local_index` of the session in the send slot; 0 = none."""
    send_counter: int = 0
    """Next counter of the session in the send slot."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What a worker of the data plane has done: a pair of threads, one for each direction."""

    sent_packets: int
    """To peers."""
    received_packets: int
    """Of peers, and passed on to this host."""
    handed_over_packets: int
    """That came to it, but were for another worker's peer."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of transport data exchanged with a peer, WireGuard's header and tag included."""

    received: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class PeerMoved:
    """A peer's authenticated transport data came from another address, or to another one of ours,
    than before."""

    slot: int
    local: Endpoint
    remote: Endpoint


# What the data plane hands up: values of `poll_event()` of shell/dataplane.py.


@dataclass(frozen=True, slots=True)
class DatagramReceived:
    """A datagram that is for the control layer: STUN, WireGuard handshakes, anything on a channel
    that is not transport data. Relayed ones come as they are, with their ChannelData header."""

    local: Endpoint
    source: Endpoint
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FlowMissed:
    """A packet with no live entry in the flow table. `slot` is NOBODY on the way UP."""

    direction: Direction
    slot: int
    packet: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PacketUnroutable:
    """A packet for a peer that has no usable session or no path; it was not sent."""

    slot: int
    packet: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SessionConfirmed:
    """The first packet under a keypair of ours as responder arrived: it now sends, too."""

    slot: int
    local_index: int


DataplaneEvent = DatagramReceived | FlowMissed | PacketUnroutable | SessionConfirmed


TRAFFIC_COUNTERS = ("_packets", "_bytes", "_calls")
"""How the data plane's counters of what passed end."""


def losses(counters: Mapping[str, int]) -> dict[str, int]:
    """The verdicts among the data plane's counters, but for those that are no loss."""
    others = (*TRAFFIC_COUNTERS, "_wakeups", "_polls")
    no_loss = ("slow", "consumed", "handed_over")
    return {
        name.replace("_", " "): count
        for name, count in counters.items()
        if not name.endswith(others) and name not in no_loss
    }
