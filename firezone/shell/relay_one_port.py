"""The addresses of a relay with one port, as its sockets know them.

What a client sends to the relay's own public address is for another client. It goes to the same
sockets by this host's loopback, whether or not the host has that address: from there nobody else
can send with our port, so the compiled path knows such a datagram by its source, and the host's
routes and the provider's NAT have no say.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from firezone.model import Endpoint, IPAddress

_LOOPBACK: Final[Mapping[int, IPAddress]] = {4: IPv4Address("127.0.0.1"), 6: IPv6Address("::1")}
_AF: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


class OnePortAddresses:
    """Translates between the relayed addresses, which peers see, and those on the sockets."""

    def __init__(self, public: Iterable[IPAddress], port: int) -> None:
        public = tuple(public)
        self._port = port
        self._loopback = {Endpoint(a, port): Endpoint(_LOOPBACK[a.version], port) for a in public}
        self._relayed = {inner: outer for outer, inner in self._loopback.items()}
        self._source: dict[int, IPAddress] = {a.version: a for a in public if _is_ours(a)}

    def on_socket(self, peer: Endpoint) -> Endpoint:
        """Where to send what is for this peer, and where its datagrams come from."""
        return self._loopback.get(peer, peer)

    def of_peer(self, source: Endpoint) -> Endpoint:
        """Whose a datagram is that came from there."""
        return self._relayed.get(source, source)

    def source(self, peer: Endpoint) -> Endpoint | None:
        """What to send from to an address `on_socket`; None if the host has to choose, as it does
        not have the public address."""
        if peer in self._relayed:
            return peer
        address = self._source.get(peer.family)
        return None if address is None else Endpoint(address, self._port)


def _is_ours(address: IPAddress) -> bool:
    """Whether this host can send from it. Raises OSError if that cannot be told."""
    with socket.socket(_AF[address.version], socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return False
    return True
