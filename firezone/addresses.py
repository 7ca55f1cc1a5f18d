"""What kinds of addresses there are, beyond what `ipaddress` tells.

An IPv6 address that carries an IPv4 one (mapped, translated, compatible, NAT64, 6to4, Teredo,
ISATAP) is of both kinds, or it would be a way around whatever is decided by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final

from firezone.model import IPAddress


@lru_cache(maxsize=4096)
def is_public(address: IPAddress) -> bool:
    """Whether a host of the Internet may have it. Relays send nowhere else, unless told so."""
    return not any(
        is_nobodys(form) or form.is_loopback or form.is_link_local or is_private(form)
        for form in forms(address)
    )


@lru_cache(maxsize=4096)
def is_private(address: IPAddress) -> bool:
    """Whether it belongs to networks that the Internet does not reach: private ones, the shared
    ones of providers, those reserved for protocols, benchmarks or nothing yet; or is the one
    address by which a large cloud serves the very host that asks."""
    return _holds(_PRIVATE, address)


@lru_cache(maxsize=4096)
def is_nobodys(address: IPAddress) -> bool:
    """Remembered, like what is private, because many clients have the same few peers."""
    return _holds(_NOBODY, address)


def forms(address: IPAddress) -> Iterator[IPAddress]:
    """The address, and the IPv4 addresses it carries or may carry."""
    yield address
    if isinstance(address, IPv6Address):
        yield from (IPv4Address(carried) for carried in _carried(address))


def _carried(address: IPv6Address) -> Iterator[bytes]:
    packed = address.packed
    if address.ipv4_mapped is not None or address in _NAT64 or address in _TRANSLATED:
        yield packed[12:]
    elif address in _COMPATIBLE:
        if int(address) > 1:  # `::` and `::1` lie there, too, but mean something else
            yield packed[12:]
    elif address in _LOCAL_NAT64:
        yield from _in_local_nat64(packed)
    elif address in _SIX_TO_FOUR:
        yield packed[2:6]
    elif address in _TEREDO:  # RFC 4380 section 4: the client's, with its bits inverted
        yield bytes(byte ^ 0xFF for byte in packed[12:])
    if packed[8:12] in _ISATAP:
        yield packed[12:]


def _in_local_nat64(packed: bytes) -> Iterator[bytes]:
    """By each length of prefix (RFC 6052 section 2.2), but for those that read nothing there."""
    yield from (
        carried
        for carried in (
            packed[6:8] + packed[9:11],
            packed[7:8] + packed[9:12],
            packed[9:13],
            packed[12:],
        )
        if carried[0]
    )


def _holds(networks: tuple[IPv4Network | IPv6Network, ...], address: IPAddress) -> bool:
    return any(address in network for network in networks if network.version == address.version)


_NOBODY: Final = tuple(
    ip_network(text) for text in ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255", "::", "ff00::/8")
)
_PRIVATE: Final = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "168.63.129.16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "64:ff9b:1::/48",
        "100::/64",
        "fc00::/7",
        "fec0::/10",
    )
)
_COMPATIBLE: Final = IPv6Network("::/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")
"""RFC 8215. The length of the prefix in use there, and so the place of the IPv4 address, is the
network's own choice."""
_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")
"""RFC 2765, once of SIIT."""
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
_TEREDO: Final = IPv6Network("2001::/32")
_ISATAP: Final = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")
"""How an interface identifier begins that ends in an IPv4 address (RFC 5214 section 6.1)."""
