"""The packet filters of the lab's routers, as nftables text."""

from __future__ import annotations

from collections.abc import Iterable

from firezone.lab.topology import Nat, SitePlan

OUTSIDE, INSIDE = "eth0", "eth1"


def router_rules(kind: Nat) -> str:
    """The ruleset of a site's router. A plain router needs none.

    Unasked-for datagrams are dropped on input, not refused: else they would leave a connection
    entry behind that takes the very port which the site's own hole punching is about to need.
    """
    if kind is Nat.NONE:
        return ""
    blocked = "meta l4proto udp drop" if kind is Nat.UDP_BLOCKED else ""
    ports = " fully-random" if kind is Nat.SYMMETRIC else ""
    return f"""
table inet router {{
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname {{ "lo", "{INSIDE}" }} accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
    ct state established,related accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    {blocked}
    iifname "{INSIDE}" accept
    ct state established,related accept
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname "{OUTSIDE}" masquerade{ports}
  }}
}}
"""


def block_rules(other: SitePlan) -> str:
    """Drop all UDP between this router's site and the other one; relays stay reachable."""
    hosts = [*other.outside.addresses(), *other.router_inside.networks()]
    v4 = _set(h for h in hosts if h.version == 4)
    v6 = _set(h for h in hosts if h.version == 6)
    return f"""
table inet block {{
  chain forward {{
    type filter hook forward priority filter - 10;
    meta l4proto udp ip saddr {v4} drop
    meta l4proto udp ip daddr {v4} drop
    meta l4proto udp ip6 saddr {v6} drop
    meta l4proto udp ip6 daddr {v6} drop
  }}
}}
"""


UNBLOCK_RULES = "table inet block\ndelete table inet block\n"
"""Removes what `block_rules` added; fine if it was never there."""


def _set(members: Iterable[object]) -> str:
    return "{ " + ", ".join(map(str, members)) + " }"
