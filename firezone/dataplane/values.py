"""The values of the control layer as the kernels want them, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from firezone import commands
from firezone._ext import pipeline as kernel
from firezone.model import Endpoint, unpack_address

if TYPE_CHECKING:
    from firezone._ext.flows import _Entry, _Key, _Rewrite
    from firezone._ext.pipeline import _Event

Address = tuple[int, bytes, int]


@dataclass(frozen=True, slots=True)
class Flow:
    """One entry of the flow table as it stood: what was decided and what came of it."""

    key: commands.FlowKey
    action: commands.Action
    slot: int
    group: int
    expires_at: int
    idle_timeout: int
    rewrite: commands.Rewrite | None
    packets: int
    bytes: int
    last_seen: int
    tcp_flags: int


def address_tuple(endpoint: Endpoint) -> Address:
    return (endpoint.family, endpoint.address.packed, endpoint.port)


@lru_cache(maxsize=4096)
def endpoint_of(address: Address) -> Endpoint:
    """Remembered: the same peers and relays come again and again."""
    _, packed, port = address
    return Endpoint(unpack_address(packed), port)


def key_tuple(key: commands.FlowKey) -> _Key:
    return (
        key.direction,
        key.slot,
        key.protocol,
        key.source.packed,
        key.destination.packed,
        key.source_port,
        key.destination_port,
    )


def rewrite_tuple(rewrite: commands.Rewrite | None) -> _Rewrite | None:
    if rewrite is None:
        return None
    return (
        None if rewrite.source is None else rewrite.source.packed,
        None if rewrite.destination is None else rewrite.destination.packed,
        rewrite.source_port,
        rewrite.destination_port,
    )


def flow_of(entry: _Entry) -> Flow:
    key, action, slot, group, expires_at, idle_timeout, rewrite, counters = entry
    direction, key_slot, protocol, source, destination, source_port, destination_port = key
    packets, size, last_seen, tcp_flags = counters
    return Flow(
        key=commands.FlowKey(
            commands.Direction(direction),
            key_slot,
            protocol,
            unpack_address(source),
            unpack_address(destination),
            source_port,
            destination_port,
        ),
        action=commands.Action(action),
        slot=slot,
        group=group,
        expires_at=expires_at,
        idle_timeout=idle_timeout,
        rewrite=_rewrite_of(rewrite),
        packets=packets,
        bytes=size,
        last_seen=last_seen,
        tcp_flags=tcp_flags,
    )


def _rewrite_of(rewrite: _Rewrite | None) -> commands.Rewrite | None:
    if rewrite is None:
        return None
    source, destination, source_port, destination_port = rewrite
    return commands.Rewrite(
        None if source is None else unpack_address(source),
        None if destination is None else unpack_address(destination),
        source_port,
        destination_port,
    )


def event_of(event: _Event) -> commands.DataplaneEvent:
    kind, peer, argument, payload, local, remote = event
    match kind:
        case kernel.DATAGRAM:
            assert local is not None and remote is not None
            return commands.DatagramReceived(endpoint_of(local), endpoint_of(remote), payload)
        case kernel.FLOW_MISSED_UP:
            return commands.FlowMissed(commands.Direction.UP, commands.NOBODY, payload)
        case kernel.FLOW_MISSED_DOWN:
            return commands.FlowMissed(commands.Direction.DOWN, peer, payload)
        case kernel.UNROUTABLE_PACKET:
            return commands.PacketUnroutable(peer, payload)
        case _:
            return commands.SessionConfirmed(peer, argument)
