"""Policy: which resource a packet is for, and whether its sender may reach it."""

from firezone.policy.access import Access, Decision, Grant, Refusal
from firezone.policy.addresses import TUNNEL_IPV4, TUNNEL_IPV6, is_peer
from firezone.policy.control import ControlKind, control_kind, control_packet
from firezone.policy.filter import Filter, Protocol, permitted
from firezone.policy.flow import Flow, forward, refuse
from firezone.policy.icmp import prohibited
from firezone.policy.pending import PendingFlow, PendingFlows, UniquePackets
from firezone.policy.prefixes import IPNetwork, PrefixTable
from firezone.policy.resources import CidrResource, ResourceTable
from firezone.policy.resumption import Resumptions

__all__ = [
    "TUNNEL_IPV4",
    "TUNNEL_IPV6",
    "Access",
    "CidrResource",
    "ControlKind",
    "Decision",
    "Filter",
    "Flow",
    "Grant",
    "IPNetwork",
    "PendingFlow",
    "PendingFlows",
    "PrefixTable",
    "Protocol",
    "Refusal",
    "ResourceTable",
    "Resumptions",
    "UniquePackets",
    "control_kind",
    "control_packet",
    "forward",
    "is_peer",
    "permitted",
    "prohibited",
    "refuse",
]
