from typing import Self, final

from firezone._ext.batch import PacketBatch
from firezone._ext.session import Sessions

_Address = tuple[int, bytes, int]

@final
class Channels:
    """The ChannelData numbers that we accept, by relay. One writer (Python), one data thread."""

    def __new__(cls, secret: bytes, sessions: Sessions | None = None, capacity: int = 8192) -> Self:
        """`secret`: 8 random bytes. It frees by the epoch of `sessions`."""

    def __len__(self) -> int: ...
    def open(self, relay: _Address, number: int) -> bool:
        """Accept a channel; False when the table is full. Opening again keeps `received_at`."""

    def close(self, relay: _Address, number: int) -> bool:
        """Refuse a channel; False if it was not open."""

    def received_at(self, relay: _Address, number: int) -> int:
        """When data last came through it, absolute ns; 0 = never or not open."""

@final
class Demux:
    """Classifies datagrams: transport data PASSes, what is for the control layer is SLOW.

    Handshakes carry a mac1 (WireGuard paper, section 5.4.4) under `public_key`, checked here. A
    good mac2 lets them pass by other rates: `proved` for all, `source` for each address. It comes
    from a cookie under `cookie_secret`, 16 bytes, in an epoch counted from `cookies_since`, ns;
    without that secret there is none. Rates are per second, bursts in messages. At a `stun_rate`
    of 0 nobody wants STUN: it is an unknown format.
    """

    def __new__(
        cls,
        public_key: bytes,
        channels: Channels,
        *,
        cookie_secret: bytes | None = None,
        cookies_since: int = 0,
        handshake_rate: int = 1000,
        handshake_burst: int = 200,
        proved_rate: int = 5000,
        proved_burst: int = 1000,
        source_rate: int = 100,
        source_burst: int = 200,
        stun_rate: int = 5000,
        stun_burst: int = 1000,
    ) -> Self: ...
    def classify(self, batch: PacketBatch, now: int) -> None:
        """Run the stage over a batch of datagrams with their `remote` column set."""
