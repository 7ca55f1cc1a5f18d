"""A deterministic simulator: the real machines and kernels, a virtual network, virtual time."""

from firezone.sim.clock import Clock
from firezone.sim.entropy import SeededEntropy
from firezone.sim.network import Host, Nat, Nat64, NatKind, Network
from firezone.sim.peers import Peer, RelayHost
from firezone.sim.portal import Portal, Resource
from firezone.sim.world import World

__all__ = [
    "Clock",
    "Host",
    "Nat",
    "Nat64",
    "NatKind",
    "Network",
    "Peer",
    "Portal",
    "RelayHost",
    "Resource",
    "SeededEntropy",
    "World",
]
