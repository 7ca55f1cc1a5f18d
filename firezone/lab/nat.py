"""The packet filters of the lab's routers, as nftables text.

The kernel's own NAT keeps the source port where it can and lets in answers only: a port-restricted
cone. The more lenient kinds remember, in sets that each packet on its way out renews, which ports
are in use and whom they have sent to; what comes in for one of those ports goes to its host.

Unasked-for datagrams are dropped on input, not refused: else they would leave a connection entry
behind that takes the very port which the site's own hole punching is about to need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from firezone.lab.topology import Nat, SitePlan

OUTSIDE, INSIDE = "eth0", "eth1"


def router_rules(kind: Nat, *, hairpin: bool = False, mtu_hole: int | None = None) -> str:
    """The ruleset of a router that translates so. A plain router needs none.

    With `hairpin` the site reaches itself by the outer address (RFC 4787 section 6); forwarded
    packets larger than `mtu_hole` vanish.
    """
    parts = [] if kind is Nat.NONE else [_nat_table(kind, hairpin)]
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


UNBLOCK_RULES = "table inet block\ndelete table inet block\n"
"""Removes what `block_rules` added; fine if it was never there."""

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
    iifname {{ "lo", "{INSIDE}" }} accept
    meta l4proto {{ icmp, ipv6-icmp }} accept
    ct state established,related accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
{_block(_notes(kind, hairpin))}
    iifname "{INSIDE}" accept
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
}}
"""


_ADDRESSES = {4: ("ipv4", "ip", "ipv4_addr"), 6: ("ipv6", "ip6", "ipv6_addr")}
_REMEMBER = "flags dynamic,timeout; timeout 5m; size 16384;"
_LENIENT = (Nat.FULL_CONE, Nat.RESTRICTED_CONE)


def _memory(kind: Nat, hairpin: bool) -> Iterator[str]:
    """`ports`: whose each port is. `asked`: whom it has sent to."""
    for family, (_, _, address) in _ADDRESSES.items():
        if kind in _LENIENT or hairpin:
            yield f"map ports{family} {{ type inet_service : {address}; {_REMEMBER} }}"
        if kind is Nat.RESTRICTED_CONE:
            yield f"set asked{family} {{ type inet_service . {address}; {_REMEMBER} }}"


def _notes(kind: Nat, hairpin: bool) -> Iterator[str]:
    if kind is Nat.UDP_BLOCKED:
        yield "meta l4proto udp drop"
    outward = f'iifname "{INSIDE}" oifname "{OUTSIDE}" meta l4proto udp'
    for family, (proto, ip, _) in _ADDRESSES.items():
        mine = f"{outward} meta nfproto {proto} update"
        if kind in _LENIENT or hairpin:
            yield f"{mine} @ports{family} {{ udp sport : {ip} saddr }}"
        if kind is Nat.RESTRICTED_CONE:
            yield f"{mine} @asked{family} {{ udp sport . {ip} daddr }}"


def _ways_in(kind: Nat, hairpin: bool) -> Iterator[str]:
    for family, (proto, ip, _) in _ADDRESSES.items():
        to_owner = f"dnat {ip} to udp dport map @ports{family}"
        if kind in _LENIENT:
            known = f"udp dport . {ip} saddr @asked{family} "
            known = known if kind is Nat.RESTRICTED_CONE else ""
            arriving = f'iifname "{OUTSIDE}" meta nfproto {proto} meta l4proto udp'
            yield f"{arriving} {known}{to_owner}"
        if hairpin:
            turning = f'iifname "{INSIDE}" fib daddr type local meta nfproto {proto}'
            yield f"{turning} meta l4proto udp {to_owner}"


def _ways_out(kind: Nat, hairpin: bool) -> Iterator[str]:
    if hairpin:
        # The source is the outer address, too (RFC 4787 section 6), which is the one it was sent to
        for _, ip, _ in _ADDRESSES.values():
            turned = f'iifname "{INSIDE}" oifname "{INSIDE}" ct status dnat'
            yield f"{turned} snat {ip} to ct original {ip} daddr"
    if kind is Nat.SHIFTED_CONE:
        # A function of the inner port alone, so it is the same for every destination.
        port = "jhash udp sport mod 10000 seed 0x5a offset 50000"
        yield f'oifname "{OUTSIDE}" meta l4proto udp masquerade to :{port}'
    ports = " fully-random" if kind is Nat.SYMMETRIC else ""
    yield f'oifname "{OUTSIDE}" masquerade{ports}'


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
