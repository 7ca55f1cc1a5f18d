"""The packet filters of the lab's routers, as nftables text.

The kernel's own NAT keeps the source port where it can and lets in answers only: a port-restricted
cone. For other ports it is told a function of what the mapping depends on. The more lenient kinds
remember, in maps that each packet on its way out renews, whose each outer port is and whom it has
sent to; what comes in for one of those ports goes to its host.

Unasked-for datagrams are dropped on input, not refused: else they would leave a connection entry
behind that takes the very port which the site's own hole punching is about to need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from firezone.lab.nat_kinds import Depends, Nat
from firezone.lab.topology import SitePlan

NETWORKS = '{ "eth1", "eth2" }'
OUTSIDE, INSIDE = '"eth0"', '{ "eth1", "eth2", "nat64" }'


def router_rules(
    kind: Nat, *, hairpin: bool = False, mtu_hole: int | None = None, isolating: bool = False
) -> str:
    """The ruleset of a router that translates so. A plain router needs none.

    With `hairpin` the site reaches itself by the outer address (RFC 4787 section 6); forwarded
    packets larger than `mtu_hole` vanish. `isolating` keeps the networks inside apart.
    """
    parts = [] if kind is Nat.NONE else [_nat_table(kind, hairpin)]
    if isolating and kind is not Nat.NONE:
        parts.append(_ISOLATION)
    if mtu_hole is not None:
        parts.append(_hole_table(mtu_hole))
    return "".join(parts)


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


def block_inside_rules() -> str:
    """Drop all UDP between the networks inside."""
    return f"""
table inet block {{
  chain forward {{
    type filter hook forward priority filter - 10;
    iifname {NETWORKS} oifname {NETWORKS} meta l4proto udp drop
  }}
}}
"""


UNBLOCK_RULES = "table inet block\ndelete table inet block\n"
"""Removes what `block_rules` added; fine if it was never there."""

NO_ROUTE_RULES = """
table inet no_route {
  chain prerouting {
    type filter hook prerouting priority filter;
    ip daddr < 224.0.0.0 fib daddr oif missing reject with icmp net-unreachable
  }
}
"""
"""Say at once that there is no way to a destination. The kernel's own word for it is limited to
five, and one more a second, for each sender; connectivity checks that lead nowhere use that up, and
other programs wait for theirs in vain."""

UDP_RULES = """
table inet no_udp {
  chain forward {
    type filter hook forward priority filter - 20;
    meta l4proto udp drop
  }
}
"""
"""Let no UDP through."""

NO_UDP_RULES = "table inet no_udp\ndelete table inet no_udp\n"
"""Removes `UDP_RULES`; fine if they were never there."""


def _nat_table(kind: Nat, hairpin: bool) -> str:
    return f"""
table inet router {{
{_block(_memory(kind, hairpin))}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname {{ "lo", "eth1", "eth2", "nat64" }} accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
    ct state established,related accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
{_block(_refusals(kind))}
    iifname {INSIDE} accept
    ct state established,related accept
    ct status dnat accept
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat;
{_block(_ways_in(kind, hairpin))}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
{_block(_ways_out(kind, hairpin))}
  }}
  chain noting {{
    type filter hook postrouting priority srcnat + 10;
{_block(_notes(kind, hairpin))}
  }}
}}
"""


_ADDRESSES = {4: ("ipv4", "ip", "ipv4_addr"), 6: ("ipv6", "ip6", "ipv6_addr")}
_REMEMBER = "flags dynamic,timeout; timeout 5m; size 16384;"


def _is_open(kind: Nat) -> bool:
    """Whether more than answers gets in, which the kernel has to be told how to deliver."""
    return kind.behaviour.filtering is not Depends.ADDRESS_AND_PORT


def _asks(kind: Nat) -> bool:
    return kind.behaviour.filtering is Depends.ADDRESS


def _memory(kind: Nat, hairpin: bool) -> Iterator[str]:
    """`hosts` and `inner`: whose each outer port is. `asked`: whom it has sent to."""
    for family, (_, _, address) in _ADDRESSES.items():
        if _is_open(kind) or hairpin:
            yield f"map hosts{family} {{ type inet_service : {address}; {_REMEMBER} }}"
            yield f"map inner{family} {{ type inet_service : inet_service; {_REMEMBER} }}"
        if _asks(kind):
            yield f"set asked{family} {{ type inet_service . {address}; {_REMEMBER} }}"


def _refusals(kind: Nat) -> Iterator[str]:
    if kind is Nat.UDP_BLOCKED:
        yield "meta l4proto udp drop"


def _notes(kind: Nat, hairpin: bool) -> Iterator[str]:
    """Where these run the source has been translated, and what it was is in the entry."""
    outward = f"iifname {INSIDE} oifname {OUTSIDE} meta l4proto udp"
    for family, (proto, ip, _) in _ADDRESSES.items():
        sent = f"{outward} meta nfproto {proto}"
        # In an entry that began outside, the inner host is not the original source.
        mine = f"{sent} ct direction original update"
        was = f"ct original {ip} saddr", "ct original proto-src"
        if _is_open(kind) or hairpin:
            yield f"{mine} @hosts{family} {{ udp sport : {was[0]} }}"
            yield f"{mine} @inner{family} {{ udp sport : {was[1]} }}"
        if _asks(kind):
            yield f"{sent} update @asked{family} {{ udp sport . {ip} daddr }}"


def _ways_in(kind: Nat, hairpin: bool) -> Iterator[str]:
    for family, (proto, ip, _) in _ADDRESSES.items():
        to_owner = f"dnat {ip} to udp dport map @hosts{family} : udp dport map @inner{family}"
        if _is_open(kind):
            known = f"udp dport . {ip} saddr @asked{family} " if _asks(kind) else ""
            arriving = f"iifname {OUTSIDE} meta nfproto {proto} meta l4proto udp"
            yield f"{arriving} {known}{to_owner}"
        if hairpin:
            turning = f"iifname {INSIDE} fib daddr type local meta nfproto {proto}"
            yield f"{turning} meta l4proto udp {to_owner}"


def _ways_out(kind: Nat, hairpin: bool) -> Iterator[str]:
    for proto, ip, _ in _ADDRESSES.values():
        udp = f"meta nfproto {proto} meta l4proto udp"
        key = _port_key(kind, ip)
        port = f" :jhash {key} mod 10000 seed 0x5a offset 50000" if key is not None else ""
        if hairpin:
            # The source is the outer address and port, too (RFC 4787 section 6); that address is
            # the one it was sent to.
            turned = f"iifname {INSIDE} oifname {INSIDE} ct status dnat {udp}"
            yield f"{turned} snat {ip} to ct original {ip} daddr{port}"
        if key is not None:
            yield f"oifname {OUTSIDE} {udp} masquerade to{port}"
    is_random = kind.behaviour.mapping is Depends.ADDRESS_AND_PORT
    yield f"oifname {OUTSIDE} masquerade{' fully-random' if is_random else ''}"


def _port_key(kind: Nat, ip: str) -> str | None:
    """What the outer port is a function of; None leaves it to the kernel."""
    if kind.behaviour.keeps_port or kind.behaviour.mapping is Depends.ADDRESS_AND_PORT:
        return None
    inner = f"{ip} saddr . udp sport"
    return inner if kind.behaviour.mapping is Depends.NOTHING else f"{inner} . {ip} daddr"


# What has come by the outer address is let through.
_ISOLATION = f"""
table inet isolation {{
  chain forward {{
    type filter hook forward priority filter - 5;
    iifname {NETWORKS} oifname {NETWORKS} ct status & dnat == 0 drop
  }}
}}
"""


def _hole_table(largest: int) -> str:
    return f"""
table inet hole {{
  chain forward {{
    type filter hook forward priority filter - 20;
    meta length > {largest} drop
  }}
}}
"""


def _block(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


def _set(members: Iterable[object]) -> str:
    return "{ " + ", ".join(map(str, members)) + " }"
