"""The relay: a STUN and TURN server (RFC 8489, RFC 8656) over UDP, without sockets.

Data crosses it on bound channels only, both ways, for as long as the channel is bound; Send and
Data indications are not served, so permissions decide nothing and CreatePermission is only checked.
One listening port on up to two families; a client is its 5-tuple, an allocation is one port number
for all its families.

A request passes in this order:

1. decode; what is no request, or carries a wrong FINGERPRINT, is dropped and counted;
2. a value that cannot be read: 400;
3. no MESSAGE-INTEGRITY, USERNAME or NONCE: 401. No NONCE is the first request of a client that
   knows its realm; the 400 of RFC 8489 section 9.2.4 would strand those;
4. a nonce that is not ours, not this client's, or old: 438, before the integrity is looked at, as a
   client gives up its credentials upon a 401 to a request that had a nonce;
5. username expired or unreadable, integrity wrong: 401;
6. unknown comprehension-required attributes: 420; then the method itself.

Every response but Binding's is authenticated whenever the request names a user whose password we
can derive, errors included: clients ignore anything else. No response is a 441: credentials that
are valid rule the allocation of their 5-tuple, whoever made it.

The answer to an Allocate waits for the sockets: `OpenSocket` goes out, `handle_socket_opened` comes
in. A port that the host refuses is replaced by another one, a few times.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from firezone import stun
from firezone.durations import SECOND
from firezone.errors import LocalError
from firezone.model import Endpoint, Entropy, IPAddress, Timeout, Transmit
from firezone.stun import Message, Method
from firezone.turn.relay_auth import NonceMint, expiry_of, password_of
from firezone.turn.relay_commands import (
    BindChannel,
    CloseSocket,
    FiveTuple,
    OpenSocket,
    RelayCommand,
    SendToPeer,
    UnbindChannel,
)
from firezone.turn.relay_peers import PeerPolicy
from firezone.turn.relay_table import Allocation, Channel, RelayTable

DEFAULT_LIFETIME: Final = 600
"""Seconds (RFC 8656 section 7.2)."""
MAX_LIFETIME: Final = 3600
"""Seconds."""
MAX_CHANNELS: Final = 4096
"""Per allocation."""
CHANNEL_NUMBERS: Final = range(0x4000, 0x8000)
"""RFC 5766 section 11. RFC 8656 narrows it to 0x4FFF, but clients draw from the wider range."""
UDP: Final = 17
_OPEN_ATTEMPTS: Final = 4
_CHANNEL_HEADER: Final = struct.Struct(">HH")
_NUMBERED: Final = frozenset(int(method) for method in Method)


class Relay:
    """The sans-IO server. Feed it datagrams and time, carry out its commands in their order."""

    def __init__(
        self,
        *,
        public_ipv4: IPv4Address | None,
        public_ipv6: IPv6Address | None,
        listen_port: int = 3478,
        ports: range = range(49152, 65536),
        auth_secret: str,
        realm: str = "firezone",
        software: str = "firezone-relay",
        peers: PeerPolicy | None = None,
        entropy: Entropy,
        unix_now: int,
        now: int,
    ) -> None:
        """`ports` are those of allocations; `peers` says where to relay to, by default everywhere
        but the host itself. `unix_now` is the wall time in nanoseconds at `now`.

        Raises LocalError without a public address or for impossible ports.
        """

    counters: Counter[str]
    """Requests, refusals and drops by reason; relayed payload bytes as `relayed_bytes`."""

    @property
    def allocation_count(self) -> int:
        """Allocations that are alive."""
        raise NotImplementedError

    @property
    def channel_count(self) -> int:
        """Channels that are bound."""
        raise NotImplementedError

    def drain(self) -> None:
        """From now on refuse new allocations with 508; serve the present ones until they end."""

    def handle_wall_clock(self, unix_now: int, now: int) -> None:
        """The wall time in nanoseconds: credentials expire by it."""

    def handle_client_datagram(
        self, local: Endpoint | None, source: Endpoint, data: bytes, now: int
    ) -> None:
        """A datagram on the listening socket, sent to `local`."""

    def handle_peer_datagram(self, port: int, peer: Endpoint, data: bytes, now: int) -> None:
        """A datagram on the relay socket of `port` and the peer's family."""

    def handle_socket_opened(self, port: int, family: int, ok: bool, now: int) -> None:
        """The outcome of an `OpenSocket`."""

    def handle_socket_failed(self, port: int, now: int) -> None:
        """A relay socket broke down: its allocation, and no other, is gone."""

    def handle_timeout(self, now: int) -> None:
        """Ends what has expired."""

    def poll_timeout(self) -> Timeout | None:
        """When `handle_timeout` is wanted next."""
        raise NotImplementedError

    def poll_command(self) -> RelayCommand | None:
        """The next thing to do. Take them until None after every call of a `handle_*`."""
        raise NotImplementedError
